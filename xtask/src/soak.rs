//! `cargo xtask soak`: mixed writes at full speed for minutes.
//!
//! What must hold: the daemons' memory stays below a bound, no event is lost unnoticed (lost events mean widened marks), and
//! both trees end the same. With `--cluster`: that a cluster does nothing for minutes though other processes fill all processors.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::cluster::Options;
use crate::lab::image::MIB;
use crate::lab::mirror::{Kind, Mirror};
use crate::lab::status::Status;
use crate::lab::{interrupt, place, wait, watchdog};
use crate::run::live::bytes;
use crate::scenarios::cluster::busy;
use crate::worker;

/// Resident memory a daemon may use, whatever is written.
const MEMORY_BOUND: u64 = 512 * MIB;
const IMAGE: u64 = 2048 * MIB;
/// Time to start, to catch up and to stop.
const AROUND: Duration = Duration::from_secs(300);

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
pub struct Args {
    /// How long to write.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    #[command(flatten)]
    kind: Kind,
    /// Processes that write.
    #[arg(long, default_value_t = 2)]
    writers: u32,
    /// A whole cluster with default settings, beside processes that want twice what the processors can give: nothing may move.
    #[arg(long, conflicts_with = "writers")]
    cluster: bool,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    place::clear_dead();
    let time = Duration::from_secs(args.seconds);
    let _bound = watchdog::arm("the soak", time + AROUND);
    if args.cluster {
        println!("passed: {}", busy::hold(&Options::default(), time)?);
        return Ok(());
    }
    let mut mirror = Mirror::start(&args.kind.options(IMAGE))?;
    let mut writers = start(&mirror, &args)?;
    let peak = watch(&mut mirror, &mut writers, time)?;
    let written = written(writers)?;
    let begin = Instant::now();
    mirror.wait_identical_within(AROUND / 2)?;
    let behind = begin.elapsed();
    let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
    require_nothing_unnoticed(&status)?;
    let found = mirror.finish(&["lost", "widened", "nguarded"])?;
    println!(
        "passed: {} written in {} s, identical {:.1} s later ({} entries, {}); memory at most {} + {} (bound {}); \
         {} events, {} lost, {} widened; fsync p50 {:.0} us, p99 {:.0} us, longest {:.0} us",
        bytes(written as f64),
        args.seconds,
        behind.as_secs_f64(),
        found.entries,
        bytes(found.bytes as f64),
        bytes(peak.0 as f64),
        bytes(peak.1 as f64),
        bytes(MEMORY_BOUND as f64),
        status.counters.events,
        status.counters.events_lost,
        status.counters.widened,
        status.barriers.p50_us,
        status.barriers.p99_us,
        status.barriers.max_us,
    );
    Ok(())
}

/// # Errors
/// Events were lost and no mark was widened.
pub fn require_nothing_unnoticed(status: &Status) -> Result<()> {
    let counters = status.counters;
    ensure!(
        counters.events_lost == 0 || counters.widened > 0,
        "{} events were lost and nothing was widened",
        counters.events_lost
    );
    Ok(())
}

fn start(mirror: &Mirror, args: &Args) -> Result<Vec<Child>> {
    (0..args.writers)
        .map(|number| {
            let directory = mirror.data().join(format!("writer{number}"));
            std::fs::create_dir(&directory)?;
            let mut command = Command::new(worker::program()?);
            command.args(["worker", "mixed", "--seconds", &args.seconds.to_string()]);
            command.args(["--seed", &number.to_string(), "--directory"]).arg(directory);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            mirror.net.a.enter(&mut command)?;
            command.spawn().context("start a writer")
        })
        .collect()
}

/// Look at both nodes until the writers end; returns the largest memory of each.
fn watch(mirror: &mut Mirror, writers: &mut [Child], time: Duration) -> Result<(u64, u64)> {
    let mut peak = (0, 0);
    wait::until("the writers to end", time + AROUND / 2, || {
        for (node, most) in [(&mut mirror.primary, &mut peak.0), (&mut mirror.secondary, &mut peak.1)] {
            if let Some(status) = node.status()? {
                *most = status.memory_bytes.max(*most);
                ensure!(
                    status.memory_bytes <= MEMORY_BOUND,
                    "node {} uses {} of memory, more than {}",
                    status.node,
                    bytes(status.memory_bytes as f64),
                    bytes(MEMORY_BOUND as f64)
                );
            }
        }
        let mut running = false;
        for writer in writers.iter_mut() {
            running |= writer.try_wait()?.is_none();
        }
        Ok((!running).then_some(()))
    })?;
    Ok(peak)
}

fn written(writers: Vec<Child>) -> Result<u64> {
    writers
        .into_iter()
        .map(|writer| {
            let output = writer.wait_with_output()?;
            ensure!(output.status.success(), "a writer failed: {}", output.status);
            let words = String::from_utf8_lossy(&output.stdout);
            words.trim().parse::<u64>().with_context(|| format!("a writer said `{words}`"))
        })
        .sum()
}
