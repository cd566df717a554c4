//! The comparison of two trees that are the same, beside a program that only reads both.

use anyhow::{Result, ensure};

use super::ground;
use super::{Args, Bench, Part, median};
use crate::bench::bars::Judged;
use crate::lab::image::MIB;
use crate::lab::interrupt;

/// Least share of the speed of reading both trees.
const OF_READING: f64 = 0.8;

/// Measure.
pub fn run(bench: &mut Bench, args: &Args) -> Result<Part> {
    // Until both are the same.
    bench.bring_up()?;
    let bytes = bench.tree.all_bytes();
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let (mut compared, mut read) = (0.0, 0.0);
        for step in 0..2 {
            interrupt::check()?;
            bench.stop()?;
            ground::settle(&bench.mirror)?;
            if (round + step) % 2 == 0 {
                bench.start_alone()?;
                compared = bench.resync()?;
                let status = bench.mirror.primary.fresh_status()?;
                ensure!(
                    status.resync.bytes_compared >= bytes,
                    "not everything was compared: {:?}",
                    status.resync
                );
            } else {
                read = ground::read_both(&bench.mirror)?;
            }
        }
        eprintln!("compare, round {}: {compared:.2} s, reading {read:.2} s", round + 1);
        rounds.push((compared, read));
    }
    let rate = |seconds: f64| bytes as f64 / seconds / MIB as f64;
    let (compared, read) =
        (median(rounds.iter().map(|round| round.0)), median(rounds.iter().map(|round| round.1)));
    let lines = vec![
        format!("full comparison {compared:>10.2} s {:>8.0} MiB/s on each side", rate(compared)),
        format!("reading both    {read:>10.2} s {:>8.0} MiB/s on each side", rate(read)),
    ];
    let share = median(rounds.iter().map(|(compared, read)| read / compared));
    let bar = format!("comparison >= {OF_READING} of reading both trees");
    let bars = vec![Judged { job: "compare", bar, found: share, met: share >= OF_READING }];
    Ok(Part { name: "compare", lines, bars })
}
