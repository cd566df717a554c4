//! Many worlds, on a few threads.

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Sabotage, Stats, World};
use crate::seeds::Failed;

/// So often progress is told.
const TOLD_EVERY: u64 = 500;

/// Run the worlds of these seeds. `progress` is told from time to time how many are done.
///
/// # Errors
/// The lowest seed that was found to fail; no further ones are begun then.
pub fn run(seeds: Range<u64>, threads: usize, progress: impl Fn(u64) + Sync) -> Result<Stats, Failed> {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<Result<Stats, Failed>> = Mutex::new(Ok(Stats::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = one(seed);
            let mut found = found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match (&mut *found, outcome) {
                (Ok(total), Ok(stats)) => total.add(&stats),
                (Ok(_), Err(reason)) => *found = Err(Failed { seed, reason }),
                (Err(failed), Err(reason)) if seed < failed.seed => *failed = Failed { seed, reason },
                _ => {}
            }
            if found.is_err() {
                return;
            }
            drop(found);
            let done = seed - seeds.start + 1;
            if done.is_multiple_of(TOLD_EVERY) {
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

/// One world; a panic is a failure like any other.
///
/// # Errors
/// What was found.
pub fn one(seed: u64) -> Result<Stats, String> {
    let run = || World::new(seed, Sabotage::None, false).run();
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        Err(format!("panic: {}", words.unwrap_or_default()))
    })
}
