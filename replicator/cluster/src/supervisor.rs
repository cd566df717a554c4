//! What the service manager that started this process is told: that it serves, lives, or stops (sd_notify(3)).
//!
//! A message is one datagram to the socket that `NOTIFY_SOCKET` names. Without that variable nobody is told anything. The variables
//! are not for processes that this one starts: [`VARIABLES`].

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_MICROSECONDS: &str = "WATCHDOG_USEC";
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// What a process that is started by this one must not inherit: it would speak for this one.
pub const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG_MICROSECONDS, WATCHDOG_PROCESS];

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Supervisor {
    reached: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names. One that cannot be reached is a warning: the service goes on, and its manager will say
    /// that it did not hear of it.
    #[must_use]
    pub fn from_environment() -> Supervisor {
        Supervisor::from_variables(|name| std::env::var_os(name), std::process::id())
    }

    fn from_variables<V: AsRef<OsStr>>(variable: impl Fn(&str) -> Option<V>, own: u32) -> Supervisor {
        let Some(name) = variable(SOCKET) else { return Supervisor::default() };
        let reached = match reach(name.as_ref()) {
            Ok(reached) => reached,
            Err(error) => {
                tracing::warn!(socket = ?name.as_ref(), %error, "the service manager cannot be told anything");
                return Supervisor::default();
            }
        };
        let number = |name| variable(name)?.as_ref().to_str()?.parse::<u64>().ok();
        // sd_watchdog_enabled(3): one that names another process is not for this one.
        let own = number(WATCHDOG_PROCESS).is_none_or(|process| process == u64::from(own));
        let watchdog =
            number(WATCHDOG_MICROSECONDS).filter(|span| own && *span > 0).map(Duration::from_micros);
        Supervisor { reached: Some(reached), watchdog }
    }

    /// How often [`Supervisor::alive`] is to be told: twice in the time after which the service counts as hung. None: not at all.
    #[must_use]
    pub fn pulse(&self) -> Option<Duration> {
        self.watchdog.map(|span| span / 2)
    }

    /// It serves.
    pub fn ready(&self, status: &str) {
        // A newline would begin another variable.
        self.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// It does what it is for.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// It ends in order.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    fn tell(&self, message: &str) {
        let Some((socket, manager)) = &self.reached else { return };
        // Without waiting: a manager that does not read is no reason to stand still.
        if let Err(error) = socket.send_to_addr(message.as_bytes(), manager) {
            tracing::warn!(%error, message, "the service manager is not told");
        }
    }
}

fn reach(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn supervisor(variables: &[(&str, &str)]) -> Supervisor {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        Supervisor::from_variables(variable, 7)
    }

    #[test]
    fn the_manager_is_told_by_path_and_by_abstract_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let abstracted = format!("replicator-supervisor-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&abstracted).unwrap();
        for (manager, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&by_name).unwrap(), format!("@{abstracted}")),
        ] {
            let supervisor = supervisor(&[(SOCKET, &name)]);
            supervisor.ready("two\nlines");
            assert_eq!(heard(&manager), "READY=1\nSTATUS=two lines");
            supervisor.alive();
            assert_eq!(heard(&manager), "WATCHDOG=1");
            supervisor.stopping();
            assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=stopping");
            assert_eq!(supervisor.pulse(), None);
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let watchdog = |more: &[(&str, &str)]| {
            let mut variables = vec![(SOCKET, "@nobody"), (WATCHDOG_MICROSECONDS, "60000000")];
            variables.extend(more);
            supervisor(&variables).pulse()
        };
        let half = Some(Duration::from_secs(30));
        assert_eq!(watchdog(&[]), half);
        assert_eq!(watchdog(&[(WATCHDOG_PROCESS, "7")]), half);
        assert_eq!(watchdog(&[(WATCHDOG_PROCESS, "8")]), None);
        assert_eq!(supervisor(&[(SOCKET, "@nobody"), (WATCHDOG_MICROSECONDS, "0")]).pulse(), None);
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_nothing_fails() {
        for variables in [&[][..], &[(SOCKET, "vsock:2:1")], &[(SOCKET, "@there-is-none-such")]] {
            let supervisor = supervisor(variables);
            supervisor.ready("serves");
            supervisor.alive();
        }
    }
}
