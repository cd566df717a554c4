//! Clusters that are broken on purpose: each is to be caught by the checker of a promise it breaks.

use super::World;

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// The arbiter gives a term to whoever asks.
    GrantsTwice,
    /// A copy is said to be outdated before that is durable, and mostly never is.
    EarlyOutdated,
    /// A node takes it that the arbiter granted, without asking.
    AloneWithoutGrant,
    /// A node does not notice that it did not run.
    NeverLate,
    /// Every copy is said to be whole, and started as that.
    AlwaysWhole,
    /// That a primary is alone stays on its record while the peer may take itself for up to date.
    AloneStays,
    /// The daemon starts the application beside what an earlier run of it left.
    LeavesItRunning,
}

/// Each, and the promise it breaks.
pub const ALL: &[(Sabotage, &str)] = &[
    (Sabotage::GrantsTwice, "one-acknowledger"),
    (Sabotage::EarlyOutdated, "one-acknowledger"),
    (Sabotage::AloneWithoutGrant, "one-acknowledger"),
    (Sabotage::NeverLate, "addresses"),
    (Sabotage::AlwaysWhole, "acknowledged-is-durable"),
    (Sabotage::AloneStays, "one-acknowledger"),
    (Sabotage::LeavesItRunning, "never-two-applications"),
];

/// The first of so many seeds with which that checker catches the saboteur, and what it says.
#[must_use]
pub fn caught(sabotage: Sabotage, promise: &str, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let reason = World::new(seed, sabotage, false).run().err()?;
        reason.starts_with(promise).then_some((seed, reason))
    })
}
