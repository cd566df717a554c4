//! Many worlds, on a few threads.

use std::ops::Range;

use super::{Sabotage, Stats, World};
use crate::seeds::{Failed, sheltered, sum};

/// So often progress is told.
const TOLD_EVERY: u64 = 500;

/// Run the worlds of these seeds. `progress` is told from time to time how many are done.
///
/// # Errors
/// The lowest seed that was found to fail; no further ones are begun then.
pub fn run(seeds: Range<u64>, threads: usize, progress: impl Fn(u64) + Sync) -> Result<Stats, Failed> {
    sum(seeds, threads, (TOLD_EVERY, progress), one, Stats::add)
}

/// One world; a panic is a failure like any other.
///
/// # Errors
/// What was found.
pub fn one(seed: u64) -> Result<Stats, String> {
    sheltered(|| World::new(seed, Sabotage::None, false).run())
}
