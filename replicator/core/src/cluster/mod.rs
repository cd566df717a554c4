//! The controller of one module on one node: who runs the application, and when that may change.
//!
//! # What is dangerous, and what guards it
//!
//! While both nodes mirror, nobody can acknowledge anything without the other, so histories can part in one way only: a node is
//! active *without its peer*. For that it needs a **grant** of a term, and there are three:
//!
//! * **The peer yields.** Its copy is durably marked as outdated, with that term ([`Action::Outdate`]): from then on it is not
//!   active by itself until a resync has made it whole again. A planned swap is nothing else: the node that ends yields.
//! * **The arbiter** gives each term to one node, for good ([`Action::AskArbiter`]). It is asked only when the peer is not heard on
//!   any path, or does not answer.
//! * **The policy or the operator** says so ([`Policy::AvailabilityFirst`], [`Policy::Manual`], [`Command::Promote`] by force).
//!
//! Two nodes that part at the same term ask the arbiter for the same next one. A node that yielded, or was refused, is outdated on
//! its own disk, and asks for nothing. So nothing here depends on a clock, nor on messages arriving: what a node says of itself
//! ([`Report`]) is said again and again and means the same each time.
//!
//! # How it works
//!
//! [`Controller::handle`] takes in what happened, then reviews: [`decide`] and [`seek`] hold what may be (the *goal*), [`posture`] what is, and a
//! table of the next steps from the one to the other. One answer belongs to each step.

mod command;
mod controller;
mod decide;
pub mod election;
pub mod posture;
mod report;
mod say;
mod seek;
#[cfg(test)]
mod tests;
mod types;

pub use controller::Controller;
pub use report::REPORT_BYTES_MAX;
pub use types::{
    Action, Budget, Cause, CheckAction, Command, Config, CopyState, Event, MirrorView, NodeId, Policy,
    Readiness, Refusal, Report, Role, Standing, StepResult, Verdict, Word,
};
