//! The first copy of a tree to an empty peer, beside rsync and beside a program that only reads and writes.

use anyhow::Result;

use super::ground;
use super::{Args, Bench, Part, median, rsync};
use crate::bench::bars::Judged;
use crate::lab::image::MIB;
use crate::lab::interrupt;

/// Least share of the speed of the link or the disks, whichever is slower.
const OF_LIMIT: f64 = 0.8;
/// Least speed over rsync's, in large files and in small ones.
const LARGE_OVER_RSYNC: f64 = 1.5;
const SMALL_OVER_RSYNC: f64 = 3.0;

#[derive(Clone, Copy, Default, Debug)]
struct Round {
    mirror: f64,
    processor: f64,
    plain: f64,
    rsync: rsync::Took,
}

/// Measure.
pub fn run(bench: &mut Bench, args: &Args, name: &'static str) -> Result<Part> {
    let bytes = bench.tree.all_bytes();
    let cable = ground::cable(&bench.mirror)?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let mut found = Round::default();
        for step in 0..3 {
            interrupt::check()?;
            empty(bench)?;
            match (round + step) % 3 {
                0 => (found.mirror, found.processor) = mirrored(bench)?,
                1 => found.plain = ground::copy(bench.mirror.data(), bench.mirror.copy())?,
                _ => found.rsync = rsync::copy(&bench.mirror, bench.mirror.copy())?,
            }
        }
        eprintln!("{name}, round {}: {found:.2?}", round + 1);
        rounds.push(found);
    }
    // The bench ends with a mirror.
    empty(bench)?;
    mirrored(bench)?;
    let rate = |seconds: f64| bytes as f64 / seconds / MIB as f64;
    let seconds = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
    let (mirror, plain) = (seconds(|round| round.mirror), seconds(|round| round.plain));
    let line = |what: &str, seconds: f64| {
        format!(
            "{what:<44} {seconds:>8.2} s {:>8.0} MiB/s {:>9.0} files/s",
            rate(seconds),
            bench.tree.files as f64 / seconds
        )
    };
    let lines = vec![
        line("the mirror, until both hold the same, durably", mirror),
        line("read and write, made durable", plain),
        line("rsync -a", seconds(|round| round.rsync.ended)),
        line("rsync -a, made durable", seconds(|round| round.rsync.durable)),
        format!(
            "processor time: both nodes {:.2} s, rsync {:.2} s (kernel threads not counted)",
            seconds(|round| round.processor),
            seconds(|round| round.rsync.processor)
        ),
        format!("one plain connection over the cable: {:.0} MiB/s", cable / MIB as f64),
    ];
    let over_rsync = median(rounds.iter().map(|round| round.rsync.durable / round.mirror));
    let least = if name == "small" { SMALL_OVER_RSYNC } else { LARGE_OVER_RSYNC };
    let mut bars = vec![Judged {
        job: name,
        bar: format!("first copy >= {least} x rsync -a, both durable"),
        found: over_rsync,
        met: over_rsync >= least,
    }];
    if name == "large" {
        let limit = |round: &Round| (bytes as f64 / cable).max(round.plain);
        let share = median(rounds.iter().map(|round| limit(round) / round.mirror));
        let bar = format!("first copy >= {OF_LIMIT} of min(link, disk)");
        bars.insert(0, Judged { job: name, bar, found: share, met: share >= OF_LIMIT });
    }
    Ok(Part { name, lines, bars })
}

/// Nothing is on the secondary's side, and nothing in the page cache.
fn empty(bench: &mut Bench) -> Result<()> {
    bench.stop()?;
    ground::clear(bench.mirror.copy())?;
    ground::settle(&bench.mirror)
}

/// Seconds, and seconds of processor time of both nodes.
fn mirrored(bench: &mut Bench) -> Result<(f64, f64)> {
    bench.start_alone()?;
    let used = |bench: &Bench| {
        let nodes = bench.mirror.nodes().into_iter().filter_map(|node| node.pid());
        nodes.map(ground::processor).sum::<Result<f64>>()
    };
    let before = used(bench)?;
    let took = bench.resync()?;
    Ok((took, used(bench)? - before))
}
