//! `cargo xtask bench metadata`: names and attributes on a plain directory and under the gate, side by side in one run.
//!
//! As in the bench of data, rounds are interleaved, only one variant exists at a time, and ratios are medians of the rounds' own
//! ratios. All work is done by threads of this process, so that nothing but the calls themselves is measured. What the daemon pays is
//! read from its own counts: requests by kind, and processor time of its threads.

mod figures;
mod table;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::variants::Variant;
use crate::lab::image::{Filesystem, LoopImage, MIB};
use crate::lab::mirror::{Mirror, Options};
use crate::lab::node::START_BOUND;
use crate::lab::status::Status;
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
const SETTLE_BOUND: Duration = Duration::from_secs(180);

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

    fn variants(&self) -> Vec<Variant> {
        let chosen = |variant: &Variant| {
            *variant == Variant::Native || self.variant.is_empty() || self.variant.contains(variant)
        };
        COMPARED.into_iter().filter(chosen).collect()
    }
}

fn measure(args: &Args) -> Result<Measured> {
    let mut measured = Measured::new();
    let mut bench = Bench::build(args)?;
    let variants = args.variants();
    for round in 0..args.rounds {
        for step in 0..variants.len() {
            let variant = variants[(round + step) % variants.len()];
            let root = bench.enter(variant)?;
            for threads in &args.threads {
                let plan = Plan::new(root.join(format!("threads-{threads}")), args.files, *threads);
                // All of them: each needs what the ones before it left.
                for job in JOBS {
                    interrupt::check()?;
                    let figures = bench
                        .run(variant, job, &plan)
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

/// The file systems and the two nodes that all variants use.
struct Bench {
    mirror: Mirror,
    native: LoopImage,
}

impl Bench {
    /// Make the file systems and write the trees, on the plain directories.
    fn build(args: &Args) -> Result<Bench> {
        let options = Options { filesystem: args.fs, ..Options::default() }.sized(IMAGE);
        let mirror = Mirror::build(&options)?;
        let native = LoopImage::new(mirror.outside(), "native", args.fs, IMAGE)?;
        for directory in [native.path(), mirror.data(), mirror.copy()] {
            for threads in &args.threads {
                Plan::new(directory.join(format!("threads-{threads}")), args.files, *threads)
                    .prepare()
                    .with_context(|| format!("prepare {}", directory.display()))?;
            }
        }
        Ok(Bench { mirror, native })
    }

    /// Bring a variant up; returns where to work.
    fn enter(&mut self, variant: Variant) -> Result<PathBuf> {
        match variant {
            Variant::Native => return Ok(self.native.path().to_owned()),
            Variant::Alone => {
                self.mirror.start_primary()?;
                self.mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
            }
            _ => self.mirror.start_nodes()?,
        }
        Ok(self.mirror.data().to_owned())
    }

    fn run(&mut self, variant: Variant, job: &Job, plan: &Plan) -> Result<Figures> {
        (job.before)(plan)?;
        let before = self.cost(variant)?;
        let (operations, taken) = plan.on_all_threads(job.work)?;
        let after = self.cost(variant)?;
        Ok(Figures::new(operations, taken, &before, &after))
    }

    /// What the daemon has paid so far, once it rests.
    fn cost(&mut self, variant: Variant) -> Result<Cost> {
        match variant {
            Variant::Native => return Ok(Cost::default()),
            Variant::Alone => {}
            _ => drop(self.mirror.primary.wait_for("nothing is dirty", SETTLE_BOUND, Status::is_settled)?),
        }
        // Releases and forgets come after the calls that cause them: wait until two states in a row show the same.
        let mut last: Option<(f64, BTreeMap<String, u64>)> = None;
        let status = self.mirror.primary.wait_for("no more requests come", SETTLE_BOUND, |status| {
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
        let pid = self.mirror.primary.pid().context("the primary runs")?;
        Cost::of(&status, pid)
    }

    fn leave(&mut self, variant: Variant) -> Result<()> {
        if variant != Variant::Native {
            self.mirror.primary.stop()?;
            self.mirror.secondary.stop()?;
        }
        Ok(())
    }

    /// After all rounds: the fast mirror must also have been a right one.
    fn finish(mut self) -> Result<()> {
        self.mirror.start_nodes()?;
        self.mirror.wait_identical_within(SETTLE_BOUND).context("after the measurements")?;
        self.mirror.finish(&["lost", "widened", "peer", "session", "link", "connect", "alone"]).map(drop)
    }
}
