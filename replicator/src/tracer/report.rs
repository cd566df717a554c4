//! What the tracer says about itself.

use replicator_common::Hook;

use super::Row;
use super::hooks::{Cover, ProgramKind};

/// The set of hooks in use, and why it was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TracerReport {
    /// [`Row::Fentry`] or [`Row::Tracepoints`].
    pub row: Row,
    /// Why this one.
    pub reason: String,
    /// Size of the ring in bytes.
    pub ring_bytes: u32,
    /// Every hook.
    pub hooks: Vec<HookReport>,
    /// What goes unseen, apart from what keeps the tracer from starting.
    pub uncovered: Vec<Uncovered>,
}

/// One hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookReport {
    /// Which.
    pub hook: Hook,
    /// The tracepoint's or the function's name.
    pub name: &'static str,
    /// What kind of program.
    pub kind: ProgramKind,
    /// Whether it is in use.
    pub state: HookState,
    /// What it makes visible.
    pub covers: Cover,
}

/// Whether a hook is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookState {
    /// In use.
    Attached,
    /// The kernel refused it.
    Refused {
        /// With this error number.
        errno: i32,
    },
    /// The running kernel does not have it, or has something else of that name.
    Absent,
    /// Another covers it, or nothing that is watched needs it.
    NotNeeded,
}

/// Something that goes unseen on a file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uncovered {
    /// The file system.
    pub filesystem: String,
    /// What.
    pub cover: Cover,
}

impl TracerReport {
    /// The state of a hook.
    #[must_use]
    pub fn state(&self, hook: Hook) -> Option<HookState> {
        self.hooks.iter().find(|report| report.hook == hook).map(|report| report.state)
    }
}
