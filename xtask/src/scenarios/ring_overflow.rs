//! The kernel's ring of events is tiny and nobody empties it while thousands of writes happen: events are lost. They are
//! counted, the files they may have been about are widened, and both trees end the same. Nothing is forgotten.

use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::files::{PEER_LOST, open};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

const WRITES: u64 = 20_000;
const SIZE: u64 = 64 << 20;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let options = context.options().with("mirror.trace-ring", "4KiB");
    let mut mirror = Mirror::start(&options)?;
    let status = mirror.primary.wait_for("it answers", crate::lab::wait::SHORT, |_| true)?;
    if status.capture.row == "gate" || !status.volumes.iter().all(|volume| volume.passthrough) {
        return Ok(Outcome::NotRun(format!(
            "no ring: capture row {} ({})",
            status.capture.row, status.capture.why
        )));
    }
    let data = mirror.data().to_owned();
    let mut random = Random::new(14);
    let files = (0..4).map(|number| open(&data.join(format!("f{number}")), 0)).collect::<Result<Vec<_>>>()?;
    let bytes = random.bytes(1 << 16);
    let mut lost = 0;
    for round in 0..3 {
        // The consumer is stalled: writes to open files pass it by.
        mirror.primary.signal(Signal::SIGSTOP)?;
        let result = (0..WRITES).try_for_each(|_| {
            let file = &files[random.below(4) as usize];
            let from = random.below(60_000) as usize;
            file.write_all_at(&bytes[from..from + 100], random.below(SIZE))
        });
        mirror.primary.signal(Signal::SIGCONT)?;
        result?;
        files[round].sync_all()?;
        super::files::require_copied(&mirror, format!("f{round}"), "fsync after the overflow")?;
        mirror.wait_mirrored()?;
        mirror.wait_identical()?;
        let status = mirror.primary.wait_for("events are lost", crate::lab::wait::SHORT, |status| {
            status.counters.events_lost > lost
        })?;
        ensure!(status.counters.widened > 0, "{} events lost, nothing widened", status.counters.events_lost);
        lost = status.counters.events_lost;
    }
    let widened = mirror.primary.status()?.map_or(0, |status| status.counters.widened);
    drop(files);
    let found = mirror.finish(&[PEER_LOST, &["lost", "overflow", "widened", "ring"]].concat())?;
    passed(format!("{lost} events lost, {widened} files widened; {} bytes identical", found.bytes))
}
