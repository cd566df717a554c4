//! What a module's controller orders, as something that can be carried out.

use std::future::Future;

use replicator_core::cluster::Verdict;
use replicator_core::cluster::posture::Step;
use replicator_core::ids::Term;

/// The edges of one module. Everything is bounded in time by whoever carries it out; errors are for people.
///
/// A future that is dropped before its end breaks off what it does: a start is broken off by the stop that follows it.
pub trait Edges: Send + Sync + 'static {
    /// Take a step.
    fn step(&self, step: Step) -> impl Future<Output = Result<(), String>> + Send;

    /// The end of a step has been told: what is to be known after it is looked for.
    fn ended(&self, _step: Step) {}

    /// The copy could not be marked: what it is is looked for.
    fn not_outdated(&self) {}

    /// Mark the copy durably as outdated, with a term. Only asked for while no mirror runs.
    fn outdate(&self, term: Term) -> impl Future<Output = Result<(), String>> + Send;

    /// Let the mirror go on alone.
    fn go_alone(&self, term: Term) -> impl Future<Output = ()> + Send;

    /// Ask the arbiter for a term.
    fn ask_arbiter(&self, term: Term) -> impl Future<Output = Verdict> + Send;

    /// Announce the addresses again.
    fn announce(&self);
}
