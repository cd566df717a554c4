//! systemd units: started, stopped, looked at.
//!
//! By systemctl, not by its D-Bus interface: it is on every machine that has systemd, a call takes a few milliseconds, and one
//! that hangs is a process that can be ended. Who tests or has another service manager gives another [`ServiceManager`].

mod systemctl;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use systemctl::Systemctl;

/// What a service manager is doing.
pub type ServiceFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ServiceError>> + Send + 'a>>;

/// Starts and stops units. Every call ends after its time limit.
pub trait ServiceManager: Send + Sync + std::fmt::Debug {
    /// Start a unit and wait until it is active. One that is active already stays as it is.
    fn start<'a>(&'a self, unit: &'a str, limit: Duration) -> ServiceFuture<'a, ()>;
    /// Stop a unit and wait until it is not active any more.
    fn stop<'a>(&'a self, unit: &'a str, limit: Duration) -> ServiceFuture<'a, ()>;
    /// Kill all processes of a unit that is to stop and does not, and wait until it is not active any more.
    fn kill<'a>(&'a self, unit: &'a str, limit: Duration) -> ServiceFuture<'a, ()>;
    /// Look at a unit.
    fn state<'a>(&'a self, unit: &'a str) -> ServiceFuture<'a, UnitState>;
    /// Say whether a unit starts when the machine does.
    fn set_enabled<'a>(&'a self, unit: &'a str, enabled: bool) -> ServiceFuture<'a, ()>;
}

/// A unit as its manager shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnitState {
    /// `LoadState`: "loaded", "not-found", "masked", ...
    pub load: String,
    /// `ActiveState`: "active", "reloading", "inactive", "failed", "activating", "deactivating".
    pub active: String,
    /// `SubState`: more exactly, in the words of the kind of unit.
    pub sub: String,
    /// `UnitFileState`: "enabled", "disabled", "static", ...; empty if there is no file.
    pub enabled: String,
}

impl UnitState {
    /// Whether the manager knows the unit and would start it.
    pub fn is_there(&self) -> bool {
        self.load == "loaded"
    }

    /// Whether it does its work.
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether nothing of it runs.
    pub fn is_stopped(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// Whether the machine starts it at boot.
    pub fn starts_at_boot(&self) -> bool {
        matches!(self.enabled.as_str(), "enabled" | "enabled-runtime" | "linked" | "linked-runtime")
    }
}

/// Why a service manager did not do it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServiceError {
    /// This machine was not booted by systemd.
    #[error(
        "systemd does not run on this machine ({missing} is not there): use [scripts] instead of [services]"
    )]
    NotThere { missing: String },
    /// systemctl cannot be run.
    #[error("cannot run {program}: {source}")]
    Program { program: String, source: std::io::Error },
    /// It refused.
    #[error("{unit} cannot be {what}: {message}; see: journalctl -u {unit}")]
    Refused { unit: String, what: &'static str, message: String },
    /// It took too long.
    #[error("{unit} was not {what} within {limit:?}; see: systemctl status {unit}")]
    TimedOut { unit: String, what: &'static str, limit: Duration },
    /// It has another state than it was brought to.
    #[error("{unit} is {active} ({sub}) after it was {what}; see: journalctl -u {unit}")]
    NotAsAsked { unit: String, what: &'static str, active: String, sub: String },
    /// There is no such unit.
    #[error("there is no unit {unit} ({load}): install the application, or correct services.units")]
    NoUnit { unit: String, load: String },
}
