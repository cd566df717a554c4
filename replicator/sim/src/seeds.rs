//! Many worlds, one after another on each of a few threads.

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Sabotage, Setting, Stats, World};

/// So often progress is told.
const TOLD_EVERY: u64 = 100;

/// The first seed of a range in whose world a promise does not hold.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What was found.
    pub reason: String,
}

/// Run the worlds of these seeds on so many threads. `progress` is told from time to time how many are done.
///
/// # Errors
/// The lowest seed that was found to fail; no further ones are begun then.
pub fn run(
    setting: Setting,
    seeds: Range<u64>,
    threads: usize,
    progress: impl Fn(u64) + Sync,
) -> Result<Stats, Failed> {
    sum(seeds, threads, (TOLD_EVERY, progress), |seed| one(setting, seed), Stats::add)
}

/// The sum over the worlds of these seeds, on so many threads, whatever a world is. `progress` is told after so many how many are done.
pub(crate) fn sum<S: Default + Send>(
    seeds: Range<u64>,
    threads: usize,
    (told_every, progress): (u64, impl Fn(u64) + Sync),
    one: impl Fn(u64) -> Result<S, String> + Sync,
    add: impl Fn(&mut S, &S) + Sync,
) -> Result<S, Failed> {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<Result<S, Failed>> = Mutex::new(Ok(S::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = one(seed);
            let mut found = found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match (&mut *found, outcome) {
                (Ok(total), Ok(stats)) => add(total, &stats),
                (Ok(_), Err(reason)) => *found = Err(Failed { seed, reason }),
                (Err(failed), Err(reason)) if seed < failed.seed => *failed = Failed { seed, reason },
                _ => {}
            }
            if found.is_err() {
                return;
            }
            drop(found);
            let done = seed - seeds.start + 1;
            if done.is_multiple_of(told_every) {
                progress(done);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One world; a panic of a machine or of the world is a failure like any other.
///
/// # Errors
/// What was found.
pub fn one(setting: Setting, seed: u64) -> Result<Stats, String> {
    sheltered(|| World::new(seed, setting, Sabotage::None, false).run())
}

/// A panic is a failure like any other.
pub(crate) fn sheltered<S>(run: impl FnOnce() -> Result<S, String>) -> Result<S, String> {
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        Err(format!("panic: {}", words.unwrap_or_default()))
    })
}
