//! Several threads wait for an fsync at the same time, each on its own file: every one of them is answered, and each time
//! the copy holds the file's bytes. Waiting callers share barriers; none may be answered by a barrier older than its data.

use std::io::Write;
use std::thread;

use anyhow::{Context as _, Result, anyhow};

use super::files::{open, require_copied};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::wait;

const THREADS: u64 = 8;
const SYNCS: u64 = 60;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let shared = &mirror;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                scope.spawn(move || -> Result<()> {
                    let name = format!("log{number}");
                    let mut random = Random::new(number);
                    let mut file = open(&shared.data().join(&name), 0)?;
                    for sync in 0..SYNCS {
                        let length = 1 + random.below(5000) as usize;
                        file.write_all(&random.bytes(length))?;
                        file.sync_data().context("fdatasync")?;
                        require_copied(shared, &name, &format!("thread {number}, sync {sync}"))?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    let status = mirror.primary.wait_for("all syncs are counted", wait::SHORT, |status| {
        status.barriers.answered >= THREADS * SYNCS && status.barriers.waiting == 0
    })?;
    let found = mirror.finish(&[])?;
    passed(format!(
        "{} syncs answered, p50 {:.0} us, p99 {:.0} us; {} bytes",
        status.barriers.answered, status.barriers.p50_us, status.barriers.p99_us, found.bytes
    ))
}
