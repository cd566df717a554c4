//! What became of a start or stop, step by step.

use std::fmt;
use std::time::Duration;

use super::super::Role;
use super::super::run::{Leftover, Outcome, RunError};
use super::super::service::ServiceError;

/// What was done, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Each step, the failed ones included.
    pub steps: Vec<Step>,
    /// Whether anything had to be stopped by force.
    pub forced: bool,
}

/// One step of a start or stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The script, or the unit.
    pub name: String,
    /// Whether it was done by force.
    pub force: bool,
    /// How long it took.
    pub duration: Duration,
    /// What became of the script; `None` for a unit.
    pub outcome: Option<Outcome>,
    /// What went wrong, in words.
    pub failure: Option<String>,
}

/// Why the application is not as it should be. [`State::Unknown`] afterwards, but for the first two.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ApplicationError {
    /// It runs already.
    #[error("the application was already started as {role}")]
    AlreadyStarted { role: Role },
    /// It has another role.
    #[error("the application was started as {role}; stop it first")]
    StopFirst { role: Role },
    /// Scripts of an earlier life of this node cannot be ended.
    #[error(
        "{script} of an earlier start still runs (processes {pids:?}) and cannot be killed; nothing is started beside it: \
         look what it waits for (cat /proc/PID/stack), or restart the machine",
        script = leftover.script, pids = leftover.pids
    )]
    Leftover { leftover: Leftover },
    /// A script failed.
    #[error("{name} {ended}{said}{see}", name = outcome.script, ended = outcome.ended, said = said(outcome), see = see(outcome))]
    Script { outcome: Outcome },
    /// A script was not run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A unit did not do what it was asked for.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

fn said(outcome: &Outcome) -> impl fmt::Display {
    outcome.last_line.as_ref().map(|line| format!(": {line}")).unwrap_or_default()
}

fn see(outcome: &Outcome) -> impl fmt::Display {
    outcome.log.as_ref().map(|log| format!(" (its output: {})", log.display())).unwrap_or_default()
}
