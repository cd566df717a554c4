//! The kernel's ring of events is tiny and nobody empties it while thousands of writes happen: events are lost. They are
//! counted, the files they may have been about are widened, and both trees end the same. Nothing is forgotten.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;

use super::files::{PEER_LOST, open};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::wait;

const WRITES: u64 = 20_000;
const SIZE: u64 = 16 << 20;
const STALL_BOUND: Duration = Duration::from_secs(20);

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    // The stall must not count as the peer's or this node's death, and an fsync that returned must mean both nodes.
    let options = context
        .options()
        .with("mirror.trace-ring", "4KiB")
        .with("mirror.when-alone", "hold")
        .with("link.dead-after", "60s");
    let mut mirror = Mirror::start(&options)?;
    let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
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
        // The first write of a file asks the daemon for security attributes; those that follow pass it by.
        files.iter().try_for_each(|file| file.write_all_at(b"first", 0))?;
        stalled(&mirror, || {
            (0..WRITES).try_for_each(|_| {
                let file = &files[random.below(4) as usize];
                let from = random.below(60_000) as usize;
                file.write_all_at(&bytes[from..from + 100], random.below(SIZE))
            })
        })?;
        files[round].sync_all()?;
        super::files::require_copied(&mirror, format!("f{round}"), "fsync after the overflow")?;
        mirror.wait_mirrored()?;
        mirror.wait_identical()?;
        let status = mirror
            .primary
            .wait_for("events are lost", wait::SHORT, |status| status.counters.events_lost > lost)?;
        ensure!(status.counters.widened > 0, "{} events lost, nothing widened", status.counters.events_lost);
        lost = status.counters.events_lost;
    }
    let widened = mirror.primary.status()?.map_or(0, |status| status.counters.widened);
    drop(files);
    let found = mirror.finish(&[PEER_LOST, &["lost", "overflow", "widened", "ring"]].concat())?;
    passed(format!("{lost} events lost, {widened} files widened; {} bytes identical", found.bytes))
}

/// Do the work while the daemon, and with it the consumer of the ring, is stopped. It goes on at the latest after
/// [`STALL_BOUND`]: work that needs it would wait for ever.
///
/// # Errors
/// The work failed, or it waits for the daemon.
pub fn stalled(mirror: &Mirror, work: impl FnOnce() -> std::io::Result<()> + Send) -> Result<()> {
    mirror.primary.signal(Signal::SIGSTOP)?;
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        let done = wait::until("writes beside a stopped daemon", STALL_BOUND, || {
            Ok(work.is_finished().then_some(()))
        });
        let resumed = mirror.primary.signal(Signal::SIGCONT);
        let written = work.join().map_err(|_| anyhow!("the writing thread panicked"))?;
        done.context("a write waits for the daemon")?;
        resumed?;
        Ok(written?)
    })
}
