//! What the primary recorded while the cable was out, and nothing else, travels when it is back.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Args, BOUND, Bench, Part, ground, median};
use crate::bench::bars::Judged;
use crate::lab::image::MIB;
use crate::lab::interrupt;
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;
use crate::lab::status::Status;

/// Ranges that are changed, and bytes of each.
const RANGES: u64 = 1000;
const RANGE_BYTES: u64 = 4096;
/// On the wire: so much over what changed.
const FACTOR: f64 = 1.2;
const EXTRA: f64 = MIB as f64;
/// Longest resync, in seconds.
const LONGEST: f64 = 3.0;

/// Measure.
pub fn run(bench: &mut Bench, args: &Args) -> Result<Part> {
    bench.bring_up()?;
    let mut random = Random::new(77);
    let (mut took, mut sent) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        interrupt::check()?;
        let found = absence(bench, &mut random, Duration::from_secs(args.away))?;
        eprintln!("ranges, round {}: {:.3} s, {} bytes", round + 1, found.0, found.1);
        took.push(found.0);
        sent.push(found.1 as f64);
    }
    let changed = (RANGES * RANGE_BYTES) as f64;
    let (took, sent) = (median(took), median(sent));
    let most = changed * FACTOR + EXTRA;
    let lines = vec![format!(
        "{RANGES} ranges of {RANGE_BYTES} bytes changed in {} s of absence: {:.2} MiB on the wire, the same again {took:.2} s after the \
         cable was back",
        args.away,
        sent / MIB as f64
    )];
    let bars = vec![
        Judged {
            job: "ranges",
            bar: format!("MiB on the wire <= 1.2 x changed + 1 MiB ({:.2})", most / MIB as f64),
            found: sent / MIB as f64,
            met: sent <= most,
        },
        Judged {
            job: "ranges",
            bar: format!("seconds until the same < {LONGEST}"),
            found: took,
            met: took < LONGEST,
        },
    ];
    Ok(Part { name: "ranges", lines, bars })
}

/// Take the cable out, change ranges, put it back. Seconds from then until both hold the same, and bytes on the wire.
fn absence(bench: &mut Bench, random: &mut Random, away: Duration) -> Result<(f64, u64)> {
    let mirror = &mut bench.mirror;
    mirror
        .primary
        .wait_for("nothing is dirty", BOUND, |status| status.is_mirrored() && status.is_settled())?;
    let before = mirror.primary.fresh_status()?;
    let begin = Instant::now();
    mirror.net.b.set_link(false)?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    mirror.secondary.wait_for("Waiting", START_BOUND, |status| status.phase == "Waiting")?;
    let files: Vec<(u64, u64)> = bench.tree.large().collect();
    for _ in 0..RANGES {
        let (number, size) = files[random.below(files.len() as u64) as usize];
        let file = OpenOptions::new().write(true).open(ground::large(mirror.data(), number))?;
        let at = random.below(size / RANGE_BYTES) * RANGE_BYTES;
        file.write_all_at(&random.bytes(RANGE_BYTES as usize), at)?;
    }
    // How long the peer is away is part of what is measured.
    std::thread::sleep(away.saturating_sub(begin.elapsed()));
    mirror.net.b.set_link(true)?;
    let begin = Instant::now();
    mirror.primary.wait_for("Mirrored", BOUND, Status::is_mirrored)?;
    let took = begin.elapsed().as_secs_f64();
    mirror.primary.wait_for("nothing is dirty", BOUND, Status::is_settled)?;
    let after = mirror.primary.fresh_status()?;
    ensure!(after.resync.resumed, "everything was compared: {}", after.resync.why);
    Ok((took, after.counters.bytes_sent - before.counters.bytes_sent))
}
