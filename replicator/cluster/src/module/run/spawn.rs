//! Starts a program, with its environment and output, in a group of its own.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::super::ScriptCommand;
use super::super::aside::aside;
use super::group::GroupGuard;
use super::{RUN_VARIABLE, Runner};

/// How long a program may be open for writing.
const BUSY_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A process that was started. Dropped in this order: while the child has not been waited for, its group's number is nobody else's.
pub(super) struct Started {
    pub guard: GroupGuard,
    pub child: Child,
}

impl Runner {
    /// A program with all that it is given.
    pub(super) fn command(
        &self,
        script: &str,
        command: &ScriptCommand,
        variables: &[(&str, String)],
        run: &str,
        log: Option<&File>,
    ) -> Command {
        let output = || match log.map(File::try_clone) {
            Some(Ok(file)) => Stdio::from(file),
            _ => Stdio::null(),
        };
        let mut prepared = Command::new(self.program(command));
        prepared
            .args(command.argv.iter().skip(1))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .kill_on_drop(true)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .envs(&self.environment)
            .env("REPLICATOR_MODULE", &self.module)
            .env("REPLICATOR_MODULE_DIRECTORY", &self.directory)
            .env("REPLICATOR_SCRIPT", script)
            .env("REPLICATOR_TIMEOUT", command.timeout.as_secs().to_string())
            .env(RUN_VARIABLE, run);
        for (name, value) in variables {
            // A NUL would end the value, and starting the script would be refused for it.
            prepared.env(name, value.replace('\0', " "));
        }
        prepared
    }

    /// What is run: a path below the module's directory, one from / on, or a name to be looked for.
    pub(super) fn program(&self, command: &ScriptCommand) -> PathBuf {
        let program = command.argv.first().map(String::as_str).unwrap_or_default();
        if program.contains('/') { self.directory.join(program) } else { PathBuf::from(program) }
    }
}

/// Start it, on a thread of its own: the disk with the program may hang. If nobody waits for it any more once it has started, it is
/// killed with its group.
pub(super) async fn spawn(prepared: Command, deadline: Instant) -> io::Result<Started> {
    let runtime = Handle::current();
    let started = aside("script", move || {
        let _inside = runtime.enter();
        attempt(prepared)
    })?;
    match timeout_at(deadline, started).await {
        Ok(started) => started.map_err(|_| io::Error::from(io::ErrorKind::Other))?,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Start it. One that somebody has open for writing, such as an editor, gets a moment to be closed.
fn attempt(mut prepared: Command) -> io::Result<Started> {
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match prepared.spawn() {
            Ok(child) => {
                let group = child.id().and_then(|pid| i32::try_from(pid).ok());
                let group = group.ok_or(io::ErrorKind::InvalidData)?;
                expose(group);
                return Ok(Started { guard: GroupGuard::new(group), child });
            }
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(BUSY_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Take from a script, and so from the application, the protection against a lack of memory that the node may have for itself
/// (`OOMScoreAdjust=` of its unit): it is inherited, and whoever needs too much would then be the last to be ended.
fn expose(pid: i32) {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if own.trim().starts_with('-')
        && let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), "0")
    {
        tracing::debug!(pid, %error, "a script keeps the node's protection against a lack of memory");
    }
}
