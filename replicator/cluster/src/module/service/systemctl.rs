//! systemd by its command.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::{ServiceError, ServiceFuture, ServiceManager, UnitState};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Time limit of a look.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at a unit on its way.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// By which the daemon speaks to the service manager (sd_notify(3)): nobody else speaks for it.
const OF_THE_DAEMON: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// systemd, by systemctl.
#[derive(Clone, Debug)]
pub struct Systemctl {
    program: PathBuf,
    // sd_booted(3): this directory is there if and only if the machine was booted by systemd.
    booted: PathBuf,
}

impl Default for Systemctl {
    fn default() -> Systemctl {
        Systemctl { program: "systemctl".into(), booted: "/run/systemd/system".into() }
    }
}

impl Systemctl {
    /// With another program, and another place that tells whether the machine was booted by systemd.
    #[cfg(test)]
    pub(super) fn with(program: PathBuf, booted: PathBuf) -> Systemctl {
        Systemctl { program, booted }
    }

    /// Run systemctl; its standard output.
    async fn call(
        &self,
        what: &'static str,
        arguments: &[&str],
        unit: &str,
        limit: Duration,
    ) -> Result<String, ServiceError> {
        if !self.booted.is_dir() {
            return Err(ServiceError::NotThere { missing: self.booted.display().to_string() });
        }
        let failed = |source| ServiceError::Program { program: self.program.display().to_string(), source };
        let mut command = Command::new(&self.program);
        for name in OF_THE_DAEMON {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .arg("--")
            .arg(unit)
            .env("LC_ALL", "C.UTF-8")
            .env("SYSTEMD_COLORS", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let talk = async {
            let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
            (child.wait().await, stdout, stderr)
        };
        let (status, stdout, stderr) = timeout(limit, talk).await.map_err(|_| ServiceError::TimedOut {
            unit: unit.to_owned(),
            what,
            limit,
        })?;
        if status.map_err(failed)?.success() {
            return Ok(stdout);
        }
        let message =
            stderr.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
        Err(ServiceError::Refused { unit: unit.to_owned(), what, message: message.to_owned() })
    }

    async fn look(&self, unit: &str) -> Result<UnitState, ServiceError> {
        let arguments = ["show", "--property=LoadState,ActiveState,SubState,UnitFileState"];
        self.call("looked at", &arguments, unit, LOOK_LIMIT).await.map(|answer| parse(&answer))
    }

    /// Wait for a state until `deadline`; the last one seen otherwise.
    async fn reaches(
        &self,
        unit: &str,
        what: &'static str,
        deadline: Instant,
        wanted: impl Fn(&UnitState) -> bool,
        hopeless: impl Fn(&UnitState) -> bool,
    ) -> Result<(), ServiceError> {
        loop {
            let state = self.look(unit).await?;
            if wanted(&state) {
                return Ok(());
            }
            if hopeless(&state) || Instant::now() >= deadline {
                let (active, sub) = (state.active, state.sub);
                return Err(ServiceError::NotAsAsked { unit: unit.to_owned(), what, active, sub });
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

impl ServiceManager for Systemctl {
    fn start<'a>(&'a self, unit: &'a str, limit: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async move {
            let deadline = Instant::now() + limit;
            let state = self.look(unit).await?;
            if !state.is_there() {
                return Err(ServiceError::NoUnit { unit: unit.to_owned(), load: state.load });
            }
            // Else a unit that was started often in a short time is refused, and that at a failover. It fails if there is nothing
            // to reset, and matters only if starting fails, which is told.
            let _ = self.call("reset", &["reset-failed"], unit, LOOK_LIMIT).await;
            self.call("started", &["start"], unit, limit).await?;
            self.reaches(unit, "started", deadline, UnitState::is_active, UnitState::is_stopped).await
        })
    }

    fn stop<'a>(&'a self, unit: &'a str, limit: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async move {
            let deadline = Instant::now() + limit;
            let state = self.look(unit).await?;
            // What is not there cannot run; and stopping it would be refused.
            if state.load == "not-found" && state.is_stopped() {
                return Ok(());
            }
            self.call("stopped", &["stop"], unit, limit).await?;
            self.reaches(unit, "stopped", deadline, UnitState::is_stopped, |_| false).await
        })
    }

    fn kill<'a>(&'a self, unit: &'a str, limit: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async move {
            let deadline = Instant::now() + limit;
            // The stop stays ordered, so that Restart= of the unit does not start it again.
            let ordered = self.call("stopped", &["stop", "--no-block"], unit, LOOK_LIMIT).await;
            let killed = self.call("killed", &["kill", "--signal=SIGKILL"], unit, LOOK_LIMIT).await;
            let reached = self.reaches(unit, "killed", deadline, UnitState::is_stopped, |_| false).await;
            // That there was nothing to kill is no failure if it has stopped.
            match reached {
                Ok(()) => Ok(()),
                Err(error) => ordered.and(killed).and(Err(error)),
            }
        })
    }

    fn state<'a>(&'a self, unit: &'a str) -> ServiceFuture<'a, UnitState> {
        Box::pin(self.look(unit))
    }

    fn set_enabled<'a>(&'a self, unit: &'a str, enabled: bool) -> ServiceFuture<'a, ()> {
        Box::pin(async move {
            let (what, verb) = if enabled { ("enabled", "enable") } else { ("disabled", "disable") };
            self.call(what, &[verb], unit, LOOK_LIMIT).await.map(|_| ())
        })
    }
}

/// All of a stream, up to a limit; what cannot be read is left out.
async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// From lines `Property=value`.
fn parse(answer: &str) -> UnitState {
    let mut state = UnitState::default();
    for (property, value) in answer.lines().filter_map(|line| line.split_once('=')) {
        let field = match property {
            "LoadState" => &mut state.load,
            "ActiveState" => &mut state.active,
            "SubState" => &mut state.sub,
            "UnitFileState" => &mut state.enabled,
            _ => continue,
        };
        value.trim().clone_into(field);
    }
    state
}
