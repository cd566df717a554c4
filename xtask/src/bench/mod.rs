//! `cargo xtask bench`: the same jobs on a plain directory and under the mirror, side by side in one run.
//!
//! Rounds are interleaved: each round runs every variant once, in an order that turns with the round, and only one variant
//! exists at a time (kernel programs of an idle mirror would be paid for by the native runs). Figures are medians of the rounds;
//! ratios are medians of the rounds' own ratios.

mod bars;
mod fio;
mod jobs;
mod metadata;
mod million;
mod prepared;
mod resync;
mod table;
mod variants;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::image::{Filesystem, MIB};
use crate::lab::{exec, interrupt, place, watchdog};
use crate::{product, setup};
use fio::Figures;
use jobs::{JOBS, Job};
use variants::{Bench, VARIANTS, Variant};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// How long each job runs in each variant and round.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
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

/// What else than the bench of data there is.
#[derive(clap::Subcommand)]
enum Other {
    /// Names and attributes.
    Metadata(metadata::Args),
    /// One tree of a million files: memory, first comparison, start.
    Million(million::Args),
    /// Bringing a peer up to date: speed, bytes on the wire, and what the application feels of it.
    Resync(resync::Args),
}

/// Size of each file system.
const IMAGE: u64 = 1024 * MIB;
/// The name, beside those of the jobs, of what tracing costs a writer.
const TRACE_COST: &str = "trace-cost";

impl Args {
    fn chooses(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }
}

/// Everything that was measured: one entry per round, by job and variant.
pub type Measured = BTreeMap<(&'static str, Variant), Vec<Figures>>;

/// Run the command.
pub fn run(mut args: Args) -> Result<()> {
    match args.other.take() {
        Some(Other::Metadata(args)) => return metadata::run(args),
        Some(Other::Million(args)) => return million::run(args),
        Some(Other::Resync(args)) => return resync::run(args),
        None => {}
    }
    interrupt::watch();
    setup::require(&["fio"])?;
    place::clear_dead();
    let chosen: Vec<&Job> = JOBS.iter().filter(|job| args.chooses(job.name)).collect();
    if chosen.is_empty() && !args.chooses(TRACE_COST) {
        let names: Vec<&str> = JOBS.iter().map(|job| job.name).chain([TRACE_COST]).collect();
        bail!("no job is chosen; there are: {}", names.join(", "));
    }
    let variants: Vec<Variant> = VARIANTS
        .iter()
        .copied()
        .filter(|variant| {
            *variant == Variant::Native || args.variant.is_empty() || args.variant.contains(variant)
        })
        .collect();
    let each = Duration::from_secs(args.seconds + 60);
    let runs = (args.rounds * variants.len() * chosen.len()) as u32;
    let _bound = watchdog::arm("the bench", each * runs + Duration::from_secs(600));

    let measured = if chosen.is_empty() { Measured::new() } else { measure(&args, &chosen, &variants)? };
    let judged = bars::judge(&measured);
    let trace = if args.chooses(TRACE_COST) { trace_cost() } else { None };
    if args.json {
        println!("{}", table::json(&args_words(&args), &chosen, &measured, &judged, trace.as_deref())?);
    } else {
        println!("{}", table::text(&chosen, &measured, &judged, trace.as_deref()));
    }
    Ok(())
}

fn measure(args: &Args, chosen: &[&Job], variants: &[Variant]) -> Result<Measured> {
    let mut measured = Measured::new();
    let mut bench = Bench::build(args.fs, IMAGE, prepared::prepare)?;
    for round in 0..args.rounds {
        for step in 0..variants.len() {
            let variant = variants[(round + step) % variants.len()];
            let directory = bench.enter(variant)?;
            for job in chosen.iter().filter(|job| job.runs_in(variant)) {
                interrupt::check()?;
                let figures = job
                    .run(&directory, args.seconds)
                    .with_context(|| format!("{} in the variant {variant:?}", job.name))?;
                eprintln!("round {} {variant:?} {}: {:.0}/s", round + 1, job.name, figures.per_second);
                measured.entry((job.name, variant)).or_default().push(figures);
                prepared::sync(bench.directory(variant))?;
                bench.settle(variant)?;
            }
            bench.leave(variant)?;
        }
    }
    bench.finish()?;
    Ok(measured)
}

fn args_words(args: &Args) -> String {
    format!("{} rounds of {} s on {}", args.rounds, args.seconds, args.fs.name())
}

/// What a traced write costs its writer, measured by the product's own example; `None` where that cannot be had.
fn trace_cost() -> Option<String> {
    if !Path::new(&product::repository()).join("replicator/examples/trace_cost.rs").exists() {
        return None;
    }
    let mut command = product::cargo();
    command.args(["run", "--quiet", "--release", "--package", "replicator", "--example", "trace_cost"]);
    Some(match exec::output(&mut command) {
        Ok(words) => words.trim_end().to_owned(),
        Err(error) => format!("not measured: {error:#}"),
    })
}
