//! The application of a module: what starts and stops it, and what looks whether it lives.
//!
//! A module is a directory with a description, `module.toml` ([`Description`]), and the scripts it names. [`Shelf`] is where the
//! modules of a node lie. [`Application`] starts and stops one by its scripts and systemd units; [`Checkers`] look after it and
//! tell what they find. Nothing here decides: when to start, and what to do about a checker that is down, is the daemon's.
//!
//! What can hang is expected to: each script, each call of systemd and each check has a time limit, after which it counts as
//! failed and is ended.

mod application;
mod aside;
mod checker;
mod description;
mod run;
mod service;
mod shelf;

use std::fmt;

pub use application::{Application, ApplicationError, Circumstances, Paths, Report, State, Step};
pub use checker::{
    CheckerEvent, CheckerStatus, Checkers, Observation, Phase, Thresholds, Turn, Verdict, VerdictState,
};
pub use description::{
    Action, Address, CheckerDescription, Description, Directory, Failback, MODULE_FILE, ModuleError, Pattern,
    Policy, ProbeDescription, ProcessDescription, RestartBudget, ScriptCommand, ScriptName, Scripts,
    Services, SpaceLimit, When,
};
pub use run::{Ended, Leftover, Outcome, RunError, Runner};
pub use service::{ServiceError, ServiceFuture, ServiceManager, Systemctl, UnitState};
pub use shelf::{
    BootError, BootState, Delivery, Finding, Findings, Listed, PARCEL_BYTES_MAX, PARCEL_FILES_MAX, Piece,
    Shelf, ShelfError, Switched, check, pack,
};

/// What a node is to the application.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Runs the application.
    Primary,
    /// Holds the copy.
    Secondary,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Primary => "primary",
            Role::Secondary => "secondary",
        })
    }
}
