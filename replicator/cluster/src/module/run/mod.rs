//! Runs a module's scripts: one process group each, with a deadline, a log, and a record of what runs.
//!
//! * A script has ended when its own process has; what it leaves behind in the background is the application, and stays.
//! * One that takes longer than its time limit is asked to end with its whole group (SIGTERM), and killed after the grace.
//! * If the future of a run is dropped, the group is killed at once.
//! * A script is not started while an earlier run of it is alive, not even one of an earlier life of this node.

mod group;
mod log;
mod record;
mod spawn;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::ScriptCommand;
pub(super) use group::{Process, processes};
use log::Logs;
use record::Record;

/// The variable that tells one run from another.
const RUN_VARIABLE: &str = "REPLICATOR_RUN";
/// How often the logs are looked at for their size.
const BOUND_INTERVAL: Duration = Duration::from_secs(2);
/// How long a process that was killed may take to be gone: longer if it hangs in the kernel.
const KILLED_LIMIT: Duration = Duration::from_secs(2);
/// How long an earlier run that was just killed is waited for.
const ENDING_LIMIT: Duration = Duration::from_secs(1);

/// Runs the scripts of one module.
#[derive(Clone, Debug)]
pub struct Runner {
    module: String,
    directory: PathBuf,
    records: PathBuf,
    logs: Logs,
    grace: Duration,
    environment: BTreeMap<String, String>,
}

/// How a script ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With 0.
    Succeeded,
    /// With another code.
    Failed {
        /// That code, 1 to 255.
        code: i32,
    },
    /// Somebody else killed it.
    Signalled {
        /// Number of the signal.
        signal: i32,
    },
    /// It took too long and was ended.
    TimedOut {
        /// Whether it had to be killed.
        killed: bool,
        /// Whether it is there nevertheless: it hangs in the kernel. It is not started again before it is gone.
        remains: bool,
    },
}

/// What became of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The script's name.
    pub script: String,
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub duration: Duration,
    /// Where its output is; `None` if no log could be written.
    pub log: Option<PathBuf>,
    /// The last line of its output.
    pub last_line: Option<String>,
}

/// A script that still runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftover {
    /// The script's name.
    pub script: String,
    /// Its processes.
    pub pids: Vec<i32>,
}

/// Why a script was not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RunError {
    /// An earlier run of it is alive.
    #[error(
        "{script} is not run: an earlier run of it (process {pid}) is still alive; wait for it or end it (kill {pid})"
    )]
    StillRunning { script: String, pid: i32 },
    /// The program cannot be started.
    #[error("{script} cannot be run: {program}: {source}; it must be there, executable, and name its interpreter (#!/bin/sh)",
        program = program.display())]
    Start { script: String, program: PathBuf, source: io::Error },
    /// Whether it runs already cannot be recorded or found out.
    #[error("cannot keep the record of what runs, {path}: {source}; make its directory writable and make room there",
        path = path.display())]
    Record { path: PathBuf, source: io::Error },
    /// The system does not tell when it ends.
    #[error("{script} was started, but waiting for it failed: {source}; it was killed")]
    Wait { script: String, source: io::Error },
}

/// Where the output of a run goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Output {
    /// To a log of its own.
    Kept,
    /// To the one log of its name, which begins anew.
    Latest,
}

impl Ended {
    /// Whether it did what it was to do.
    pub fn succeeded(self) -> bool {
        self == Ended::Succeeded
    }

    fn of(status: ExitStatus) -> Ended {
        match (status.code(), status.signal()) {
            (Some(0), _) => Ended::Succeeded,
            (Some(code), _) => Ended::Failed { code },
            (None, signal) => Ended::Signalled { signal: signal.unwrap_or_default() },
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Succeeded => f.write_str("succeeded"),
            Ended::Failed { code } => write!(f, "failed with exit code {code}"),
            Ended::Signalled { signal } => write!(f, "was killed by signal {signal}"),
            Ended::TimedOut { remains: true, .. } => {
                f.write_str("took too long and cannot be killed: it hangs in the kernel")
            }
            Ended::TimedOut { killed: true, .. } => f.write_str("took too long and was killed"),
            Ended::TimedOut { .. } => f.write_str("took too long and was ended"),
        }
    }
}

impl Runner {
    /// Of the module `module` in `directory`; records of what runs go to `records`, logs to `logs`.
    pub(super) fn new(
        description: &super::Description,
        directory: &Path,
        records: &Path,
        logs: &Path,
    ) -> Runner {
        let scripts = &description.scripts;
        Runner {
            module: description.name.clone(),
            directory: directory.to_owned(),
            records: records.to_owned(),
            logs: Logs::new(logs.to_owned(), scripts.log_runs, scripts.log_size),
            grace: scripts.grace,
            environment: description.environment.clone(),
        }
    }

    /// Run a script and wait for it, at most for its time limit and the grace.
    pub(super) async fn run(
        &self,
        script: &str,
        command: &ScriptCommand,
        variables: &[(&str, String)],
        output: Output,
    ) -> Result<Outcome, RunError> {
        self.refuse_second(script).await?;
        let run = run_number();
        let record = Record::begin(&self.records, script, &run)?;
        let log = self.log(script, output).await;
        let begun = Instant::now();
        let deadline = begun + command.timeout;
        let prepared = self.command(script, command, variables, &run, log.as_ref().map(|(_, file)| file));
        let mut started = match spawn::spawn(prepared, deadline).await {
            Ok(started) => started,
            Err(source) => {
                record.ended();
                let (script, program) = (script.to_owned(), self.program(command));
                return Err(RunError::Start { script, program, source });
            }
        };
        let path = log.map(|(path, _)| path);
        let pid = started.guard.group();
        if let Some(process) = Process::look(pid) {
            record.running(&process)?;
        }
        let ended = match self.wait(&mut started.child, deadline).await {
            Some(Ok(status)) => Ended::of(status),
            Some(Err(source)) => return Err(RunError::Wait { script: script.to_owned(), source }),
            None => self.end(&mut started.child, pid).await,
        };
        if !matches!(ended, Ended::TimedOut { remains: true, .. }) {
            started.guard.waited_for();
            record.ended();
        }
        let last_line = self.last_line(path.clone()).await;
        let script = script.to_owned();
        Ok(Outcome { script, ended, duration: begun.elapsed(), log: path, last_line })
    }

    /// The scripts that an earlier life of this node left running.
    ///
    /// # Errors
    /// [`RunError::Record`]
    pub fn leftovers(&self) -> Result<Vec<Leftover>, RunError> {
        self.recorded(|run| !run.starts_with(own_life()))
    }

    /// The scripts that run now, whoever started them.
    ///
    /// # Errors
    /// [`RunError::Record`]
    pub fn running(&self) -> Result<Vec<Leftover>, RunError> {
        self.recorded(|_| true)
    }

    fn recorded(&self, chosen: impl Fn(&str) -> bool) -> Result<Vec<Leftover>, RunError> {
        let mut found = Vec::new();
        for script in record::scripts(&self.records) {
            if !record::run(&self.records, &script)?.is_some_and(|run| chosen(&run)) {
                continue;
            }
            let pids: Vec<i32> =
                record::alive(&self.records, &script)?.into_iter().map(|process| process.pid).collect();
            if !pids.is_empty() {
                found.push(Leftover { script, pids });
            }
        }
        Ok(found)
    }

    /// End them, each with its group. Those that cannot be ended are returned.
    ///
    /// # Errors
    /// [`RunError::Record`]
    pub async fn end_leftovers(&self) -> Result<Vec<Leftover>, RunError> {
        for leftover in self.leftovers()? {
            tracing::warn!(module = %self.module, script = %leftover.script, pids = ?leftover.pids,
                "an earlier life of this node left a script running; it is ended");
            for pid in &leftover.pids {
                // The leader of its group, unless it was found by its environment and is a child of the script.
                let group = Process::look(*pid).map_or(*pid, |process| process.group);
                if group::end(group, self.grace).await {
                    group::ends(group, KILLED_LIMIT).await;
                }
            }
        }
        self.leftovers()
    }

    /// Cut the logs that have become too large; not waited for.
    pub(super) fn bound_logs(&self) {
        self.logs.bound_aside();
    }

    /// Refuse a second run while the first is alive. One that was killed just now gets a moment to be gone.
    async fn refuse_second(&self, script: &str) -> Result<(), RunError> {
        let deadline = Instant::now() + ENDING_LIMIT;
        loop {
            let alive = record::alive(&self.records, script)?;
            let Some(process) = alive.first() else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(RunError::StillRunning { script: script.to_owned(), pid: process.pid });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A log; none if that is impossible: an application that does not start because its log cannot be written is worse.
    async fn log(&self, script: &str, output: Output) -> Option<(PathBuf, File)> {
        let (logs, name) = (self.logs.clone(), script.to_owned());
        let log = log::patiently(move || match output {
            Output::Kept => logs.begin(&name),
            Output::Latest => logs.begin_anew(&name),
        });
        log.await
            .and_then(|log| log)
            .inspect_err(|error| {
                tracing::warn!(module = %self.module, script, %error, "no log can be written; the script runs without");
            })
            .ok()
    }

    /// The last line of a log, which is not let grow too large before.
    async fn last_line(&self, log: Option<PathBuf>) -> Option<String> {
        let (logs, log) = (self.logs.clone(), log?);
        let last_line = move || {
            logs.bound();
            log::last_line(&log)
        };
        log::patiently(last_line).await.ok().flatten()
    }

    /// Wait for the process until `deadline`; `None` if it has not ended by then.
    async fn wait(&self, child: &mut Child, deadline: Instant) -> Option<io::Result<ExitStatus>> {
        let mut bound = interval(BOUND_INTERVAL);
        bound.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                status = child.wait() => return Some(status),
                () = sleep_until(deadline) => return None,
                _ = bound.tick() => self.bound_logs(),
            }
        }
    }

    /// End what took too long.
    async fn end(&self, child: &mut Child, group: i32) -> Ended {
        let killed = group::end(group, self.grace).await;
        // Only now is the leader waited for: before, its number keeps the group's from being given to others.
        let gone = timeout(KILLED_LIMIT, child.wait()).await.is_ok();
        Ended::TimedOut { killed, remains: !gone }
    }
}

/// A number that no other run on this machine has.
fn run_number() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    format!("{}{}", own_life(), RUNS.fetch_add(1, Ordering::Relaxed))
}

/// With what the numbers of this life of the node begin.
fn own_life() -> &'static str {
    static LIFE: OnceLock<String> = OnceLock::new();
    LIFE.get_or_init(|| format!("{:x}-{:x}-", std::process::id(), getrandom::u64().unwrap_or_default()))
}
