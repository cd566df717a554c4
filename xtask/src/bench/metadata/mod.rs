//! `cargo xtask bench metadata`: names and attributes on a plain directory and under the gate, side by side in one run.
//!
//! As in the bench of data, rounds are interleaved, only one variant exists at a time, and ratios are medians of the rounds' own
//! ratios. All work is done by threads of this process, so that nothing but the calls themselves is measured. What the daemon pays is
//! read from its own counts: requests by kind, and processor time of its threads.

mod figures;
mod table;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::variants::{Bench, SETTLE_BOUND, Variant};
use crate::lab::image::{Filesystem, MIB};
use crate::lab::{interrupt, place, watchdog};
use figures::{Cost, Figures};
use work::{JOBS, Job, Plan};

/// Arguments of `cargo xtask bench metadata`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Files of the tree; twenty to a directory.
    #[arg(long, default_value_t = 8000)]
    files: usize,
    /// How many threads work at once; each number is measured.
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    threads: Vec<usize>,
    /// Only jobs whose name holds one of these words.
    #[arg(long)]
    only: Vec<String>,
    /// Only these variants (native is always measured).
    #[arg(long, value_enum)]
    variant: Vec<Variant>,
    /// File system of all directories.
    #[arg(long, value_enum, default_value_t = Filesystem::Ext4)]
    fs: Filesystem,
}

/// What is compared: a plain directory, the gate without a peer, the mirror.
pub const COMPARED: [Variant; 3] = [Variant::Native, Variant::Alone, Variant::Mirror];
const IMAGE: u64 = 2048 * MIB;

/// Everything that was measured: one entry per round, by job, threads and variant.
type Measured = BTreeMap<(&'static str, usize, Variant), Vec<Figures>>;

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    place::clear_dead();
    let chosen: Vec<&Job> = JOBS.iter().filter(|job| args.chooses(job.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        bail!("no job is chosen; there are: {}", names.join(", "));
    }
    if args.threads.is_empty() || args.threads.iter().any(|threads| !(1..=64).contains(threads)) {
        bail!("--threads takes numbers from 1 to 64");
    }
    let runs = (args.rounds * args.threads.len() * COMPARED.len() * JOBS.len()) as u32;
    let _bound = watchdog::arm("the bench", Duration::from_secs(60) * runs + Duration::from_secs(600));
    let measured = measure(&args)?;
    let about = format!("{} rounds, {} files on {}", args.rounds, args.files, args.fs.name());
    if args.json {
        println!("{}", table::json(&about, &chosen, &args.threads, &measured)?);
    } else {
        println!("{about}\n{}", table::text(&chosen, &args.threads, &measured));
    }
    Ok(())
}

impl Args {
    fn chooses(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }

    fn plan(&self, root: &Path, threads: usize) -> Plan {
        Plan::new(root.join(format!("threads-{threads}")), self.files, threads)
    }

    fn variants(&self) -> Vec<Variant> {
        let chosen = |variant: &Variant| {
            *variant == Variant::Native || self.variant.is_empty() || self.variant.contains(variant)
        };
        COMPARED.into_iter().filter(chosen).collect()
    }
}

fn measure(args: &Args) -> Result<Measured> {
    let mut measured = Measured::new();
    let mut bench = Bench::build(args.fs, IMAGE, |directory| {
        args.threads.iter().try_for_each(|threads| args.plan(directory, *threads).prepare())
    })?;
    let variants = args.variants();
    for round in 0..args.rounds {
        for step in 0..variants.len() {
            let variant = variants[(round + step) % variants.len()];
            let root = bench.enter(variant)?;
            for threads in &args.threads {
                let plan = args.plan(&root, *threads);
                // All of them: each needs what the ones before it left.
                for job in JOBS {
                    interrupt::check()?;
                    let figures = run_job(&mut bench, variant, job, &plan)
                        .with_context(|| format!("{} in the variant {variant:?}", job.name))?;
                    if args.chooses(job.name) {
                        let rate = figures.per_second;
                        eprintln!("round {} {variant:?} {} x{threads}: {rate:.0}/s", round + 1, job.name);
                        measured.entry((job.name, *threads, variant)).or_default().push(figures);
                    }
                }
            }
            bench.leave(variant)?;
        }
    }
    bench.finish()?;
    Ok(measured)
}

fn run_job(bench: &mut Bench, variant: Variant, job: &Job, plan: &Plan) -> Result<Figures> {
    (job.before)(plan)?;
    let before = cost(bench, variant)?;
    let (operations, taken) = plan.on_all_threads(job.work)?;
    let after = cost(bench, variant)?;
    Ok(Figures::new(operations, taken, &before, &after))
}

/// What the daemon has paid so far, once it rests.
fn cost(bench: &mut Bench, variant: Variant) -> Result<Cost> {
    if variant == Variant::Native {
        return Ok(Cost::default());
    }
    bench.settle(variant)?;
    let primary = &mut bench.mirror.primary;
    // Releases and forgets come after the calls that cause them: wait until two states in a row show the same.
    let mut last: Option<(f64, BTreeMap<String, u64>)> = None;
    let status = primary.wait_for("no more requests come", SETTLE_BOUND, |status| {
        let requests = figures::requests(status);
        match &last {
            Some((uptime, _)) if *uptime >= status.uptime_seconds => false,
            Some((_, before)) if *before == requests => true,
            _ => {
                last = Some((status.uptime_seconds, requests));
                false
            }
        }
    })?;
    let pid = primary.pid().context("the primary runs")?;
    Cost::of(&status, pid)
}
