//! A resync under an application that writes and syncs as fast as it can: what the application feels of it.
//!
//! fio is the load. Beside it one writer syncs small records of its own and notes when each call began and ended, so that
//! the calls before, during and after a resync can be told apart. The resync is a whole one: everything is compared, and what was
//! taken away from the secondary is copied.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::{Args, BOUND, Bench, Part, ground, median};
use crate::bench::bars::Judged;
use crate::lab::image::MIB;
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::status::Status;
use crate::lab::{interrupt, wait};
use crate::{setup, worker};

/// The application's p99 during a resync over that before.
const FACTOR: f64 = 2.0;
/// Longest pause, in milliseconds.
const LONGEST_MS: f64 = 100.0;
/// One in so many large files is taken away from the secondary.
const TAKEN: u64 = 5;
/// Bytes of each of fio's files.
const LOAD_BYTES: u64 = 64 * MIB;
const LOAD_JOBS: u32 = 2;

/// What the writer felt in a stretch of time, in milliseconds.
#[derive(Clone, Copy, Default, Debug)]
struct Felt {
    calls: usize,
    p50: f64,
    p99: f64,
    most: f64,
}

/// Measure.
pub fn run(bench: &mut Bench, args: &Args) -> Result<Part> {
    let seconds = Duration::from_secs(args.seconds);
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        interrupt::check()?;
        bench.bring_up()?;
        let load = Load::start(&bench.mirror)?;
        let probe = Probe::start(&bench.mirror)?;
        let mirrored = (now(), rest(seconds));
        bench.mirror.secondary.kill()?;
        bench.mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
        let files: Vec<u64> = bench.tree.large().map(|(number, _)| number).collect();
        for number in files.iter().filter(|number| *number % TAKEN == 0) {
            std::fs::remove_file(ground::large(bench.mirror.copy(), *number))?;
        }
        rest(Duration::from_secs(2));
        let alone = (now(), rest(seconds));
        let begin = now();
        bench.mirror.start_secondary()?;
        bench.mirror.primary.wait_for("a session", START_BOUND, |status| status.phase == "Resyncing")?;
        bench.mirror.primary.wait_for("Mirrored", BOUND, Status::is_mirrored)?;
        let during = (begin, now());
        let after = (now(), rest(Duration::from_secs(2)));
        let calls = probe.end()?;
        load.end()?;
        let status = bench.mirror.primary.fresh_status()?;
        ensure!(!status.resync.resumed, "nothing was compared");
        let felt = [mirrored, alone, during, after].map(|stretch| Felt::of(&calls, stretch));
        let took = (during.1 - during.0) as f64 / 1e9;
        eprintln!("loaded, round {}: {took:.1} s, {felt:.2?}", round + 1);
        rounds.push((felt, took));
        bench.stop()?;
    }
    let of = |stretch: usize, figure: fn(&Felt) -> f64| {
        median(rounds.iter().map(|(felt, _)| figure(&felt[stretch])))
    };
    let line = |what: &str, stretch: usize| {
        format!(
            "{what:<22} p50 {:>8.2} ms   p99 {:>8.2} ms   longest {:>8.1} ms   {:>7.0} calls",
            of(stretch, |felt| felt.p50),
            of(stretch, |felt| felt.p99),
            of(stretch, |felt| felt.most),
            of(stretch, |felt| felt.calls as f64)
        )
    };
    let took = median(rounds.iter().map(|(_, took)| *took));
    let lines = vec![
        line("mirrored, before", 0),
        line("alone, before", 1),
        line("during the resync", 2),
        line("mirrored, after", 3),
        format!("the resync took {took:.1} s"),
    ];
    let ratio = median(rounds.iter().map(|(felt, _)| felt[2].p99 / felt[1].p99.max(1e-6)));
    let most = of(2, |felt| felt.most);
    let bars = vec![
        Judged {
            job: "loaded",
            bar: format!("fsync p99 during over that alone before <= {FACTOR}, and the resync ends"),
            found: ratio,
            met: ratio <= FACTOR,
        },
        Judged {
            job: "loaded",
            bar: format!("longest pause in ms, the resync's end included, <= {LONGEST_MS}"),
            found: most,
            met: most <= LONGEST_MS,
        },
    ];
    Ok(Part { name: "loaded", lines, bars })
}

/// The monotonic clock in nanoseconds, as the writer reads it.
fn now() -> u64 {
    worker::monotonic()
}

/// Let time pass, which is what is measured; when that was over.
fn rest(time: Duration) -> u64 {
    std::thread::sleep(time);
    now()
}

impl Felt {
    /// Calls that ran at some moment of the stretch.
    fn of(calls: &[(u64, u64)], (from, to): (u64, u64)) -> Felt {
        let mut taken: Vec<u64> = calls
            .iter()
            .filter(|(begin, end)| *end >= from && *begin <= to)
            .map(|(begin, end)| end - begin)
            .collect();
        taken.sort_unstable();
        let at = |share: f64| {
            let index = ((taken.len() as f64 * share) as usize).min(taken.len().saturating_sub(1));
            taken.get(index).map_or(0.0, |time| *time as f64 / 1e6)
        };
        Felt { calls: taken.len(), p50: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

/// fio, until it is ended.
struct Load(Child);

impl Load {
    fn start(mirror: &Mirror) -> Result<Load> {
        let mut command = Command::new(setup::program("fio"));
        command.args([
            "--name=load",
            "--rw=randwrite",
            "--bs=4k",
            "--fsync=8",
            "--ioengine=psync",
            "--thread=1",
        ]);
        command.args(["--time_based=1", "--runtime=3600", "--fallocate=none", "--norandommap"]);
        command.arg(format!("--size={LOAD_BYTES}")).arg(format!("--numjobs={LOAD_JOBS}"));
        command.arg(format!("--directory={}", mirror.data().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        mirror.net.a.enter(&mut command)?;
        let child = command.spawn().context("start fio")?;
        // fio writes its files first.
        let file = mirror.data().join(format!("load.{}.0", LOAD_JOBS - 1));
        wait::until("fio's files", Duration::from_secs(120), || {
            Ok(file.metadata().is_ok_and(|file| file.len() >= LOAD_BYTES).then_some(()))
        })?;
        Ok(Load(child))
    }

    fn end(mut self) -> Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "fio ended by itself");
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The writer whose calls are noted.
struct Probe {
    process: Child,
    reader: Option<JoinHandle<Vec<(u64, u64)>>>,
}

impl Probe {
    fn start(mirror: &Mirror) -> Result<Probe> {
        let file = mirror.data().join("probe");
        let mut command = Command::new(worker::program()?);
        command.args(["worker", "probe", "--file"]).arg::<&Path>(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        mirror.net.a.enter(&mut command)?;
        let mut process = command.spawn().context("start the writer")?;
        let pipe = process.stdout.take().context("the writer's pipe")?;
        let reader = std::thread::spawn(move || {
            let call = |line: String| {
                let (begin, end) = line.split_once(' ')?;
                Some((begin.parse().ok()?, end.parse().ok()?))
            };
            BufReader::new(pipe).lines().map_while(Result::ok).filter_map(call).collect()
        });
        Ok(Probe { process, reader: Some(reader) })
    }

    /// End it; when each of its calls began and ended.
    fn end(mut self) -> Result<Vec<(u64, u64)>> {
        ensure!(self.process.try_wait()?.is_none(), "the writer ended by itself");
        let _ = self.process.kill();
        let _ = self.process.wait();
        let reader = self.reader.take().context("the reader")?;
        reader.join().map_err(|_| anyhow!("the reader of the writer's pipe died"))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_where_it_ran() {
        let calls: Vec<(u64, u64)> =
            (0..100).map(|call| (call * 1_000_000, call * 1_000_000 + 500_000)).collect();
        let felt = Felt::of(&calls, (10_200_000, 20_200_000));
        assert_eq!((felt.calls, felt.p50, felt.most), (11, 0.5, 0.5));
        assert_eq!(Felt::of(&calls, (200_000_000, 300_000_000)).calls, 0);
    }
}
