//! `cargo xtask model`: the mirror against a model of what a file system does.
//!
//! Random sequences of all operations are done by several processes on the gate of a running mirror, on a plain directory and in
//! a simple in-memory model: each call has the same result in all three, after each sync the copy holds what the sync promised,
//! and in the end all trees are the same. With `--kill` the primary's side is killed in the middle; with `--enumerate` all short
//! sequences around a sync are run, not only some. A sequence that fails is made as short as can be and printed.

mod acl;
mod actor;
mod at_once;
mod attributes;
mod contents;
mod enumerate;
mod executor;
mod generator;
mod ground;
mod kill;
mod observe;
mod operation;
mod oracle;
mod pinned;
mod predict;
mod protection;
mod shrink;
mod sparse;
mod state;
mod submit;
mod transfer;
mod turns;

pub use actor::serve;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::lab::image::MIB;
use crate::lab::mirror::Surroundings;
use crate::lab::records::Random;
use crate::lab::{interrupt, place, watchdog};
use crate::scenarios::files::{CRASHED, PEER_LOST};

use generator::Plan;
use ground::Ground;
use operation::Step;
use turns::Manner;

/// Size of each file system: sparse, so only what is written takes space.
const IMAGE: u64 = 512 * MIB;
/// Processes that make a sequence.
const ACTORS: u8 = 3;
/// Every so many seeds, the processes run at once.
const AT_ONCE: u64 = 8;
/// No run takes longer: it is then cleared away, which frees whoever waits in a gate that hangs.
const BOUND: Duration = Duration::from_secs(6 * 60 * 60);
/// Words in the logs that the sequences explain: calls whose return the gate cannot hold are counted and said. Set-id bits that a write
/// through passthrough takes away are the kernel's doing in the caller's name, and count as changed behind the gate.
const EXPECTED: &[&str] = &["nguarded", "changed behind the gate", "a strict file cannot be marked"];
/// What the slice of the tests runs.
const SLICE: Slice = Slice { seeds: 200, operations: 200, kills: 3, length: 2, stride: 3 };

struct Slice {
    seeds: u64,
    operations: u64,
    kills: u64,
    length: usize,
    stride: usize,
}

/// Arguments of `cargo xtask model`.
#[derive(clap::Args)]
pub struct Args {
    /// How many random sequences.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One seed, each step shown.
    #[arg(long, conflicts_with_all = ["seeds", "from", "slice"])]
    seed: Option<u64>,
    /// Operations in each sequence.
    #[arg(long, default_value_t = 200)]
    operations: u64,
    /// All sequences of up to three operations around a sync, instead of random ones.
    #[arg(long)]
    enumerate: bool,
    /// Kill the primary's side in the middle of each random sequence.
    #[arg(long, conflicts_with = "enumerate")]
    kill: bool,
    /// A file with a sequence that failed, as it was printed, instead of random ones.
    #[arg(long)]
    replay: Option<std::path::PathBuf>,
    /// The sequences that once led to a difference, instead of random ones.
    #[arg(long)]
    pinned: bool,
    /// The small part that `cargo xtask test` runs.
    #[arg(long, conflicts_with_all = ["enumerate", "kill", "replay", "pinned"])]
    slice: bool,
    #[command(flatten)]
    surroundings: Surroundings,
    /// Require after each sequence in turns, too, that nothing is left dirty once all is deleted (else only at the end of all).
    #[arg(long)]
    settled: bool,
    /// Go on after a sequence that fails.
    #[arg(long)]
    keep_going: bool,
}

/// What all sequences did together.
#[derive(Default)]
struct Sum {
    sequences: u64,
    steps: u64,
    syncs: u64,
    kills: u64,
    enumerated: usize,
    failed: Vec<String>,
}

/// Run the command.
///
/// # Errors
/// A difference, or the machine lacks something.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    place::clear_dead();
    let _bound = watchdog::arm("the model", BOUND);
    let begin = Instant::now();
    // What is not held is told from what was released: a peer that stands still is given up late, and that is noticed.
    let options = args.surroundings.options().sized(IMAGE).with("link.dead-after", "30s");
    let mut ground = Ground::new(&options, ACTORS)?;
    let mut sum = Sum::default();
    work(&mut ground, &args, &mut sum)?;
    finish(ground)?;
    if !sum.failed.is_empty() {
        bail!("{} of {} sequences failed:\n{}", sum.failed.len(), sum.sequences, sum.failed.join("\n"));
    }
    println!(
        "passed: {} random sequences of {} operations together, {} syncs held against the copy, {} kills, {} sequences around a \
         sync, no difference ({:.0} s)",
        sum.sequences,
        sum.steps,
        sum.syncs,
        sum.kills,
        sum.enumerated,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

fn work(ground: &mut Ground, args: &Args, sum: &mut Sum) -> Result<()> {
    if let Some(path) = &args.replay {
        let steps: Vec<Step> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        return one(ground, args, sum, &path.display().to_string(), &steps);
    }
    if args.slice || args.pinned {
        for (name, steps) in pinned::all()? {
            one(ground, args, sum, name, &steps)?;
        }
    }
    if args.pinned {
        return Ok(());
    }
    if args.slice {
        seeds(ground, args, sum, 1..=SLICE.seeds, SLICE.operations)?;
        enumerate(ground, sum, SLICE.length, SLICE.stride)?;
        return kills(ground, sum, 1..=SLICE.kills, SLICE.operations);
    }
    if args.enumerate {
        return enumerate(ground, sum, 3, 1);
    }
    let range = match args.seed {
        Some(seed) => seed..=seed,
        None => args.from..=args.from + args.seeds.saturating_sub(1),
    };
    if args.kill {
        kills(ground, sum, range, args.operations)
    } else {
        seeds(ground, args, sum, range, args.operations)
    }
}

type Seeds = std::ops::RangeInclusive<u64>;

fn seeds(ground: &mut Ground, args: &Args, sum: &mut Sum, range: Seeds, operations: u64) -> Result<()> {
    let all = range.end() - range.start() + 1;
    for (done, seed) in range.enumerate() {
        interrupt::check()?;
        let replay = format!("seed {seed}: cargo xtask model --seed {seed} --operations {operations}");
        if seed % AT_ONCE == 0 {
            let steps = generator::sequence(seed, Plan { operations, actors: ACTORS, foretold: false });
            sum.sequences += 1;
            sum.steps += steps.len() as u64;
            let mut differences = at_once::run(ground, &steps)?;
            if !differences.is_empty() {
                differences.extend(ground.circumstances()?);
                fail(sum, format!("{replay} (at once)\n  {}", differences.join("\n  ")), args)?;
            }
        } else {
            let steps = generator::sequence(seed, Plan { operations, actors: ACTORS, foretold: true });
            one(ground, args, sum, &replay, &steps)?;
        }
        if done % 50 == 49 {
            println!("{} of {all} seeds", done + 1);
        }
    }
    Ok(())
}

/// One sequence in turns; if it fails, as short as it can be made.
fn one(ground: &mut Ground, args: &Args, sum: &mut Sum, replay: &str, steps: &[Step]) -> Result<()> {
    let manner = Manner { show: false, settled: args.settled };
    let found =
        turns::run(ground, steps, Manner { show: args.seed.is_some() || args.replay.is_some(), ..manner })?;
    sum.sequences += 1;
    sum.steps += steps.len() as u64;
    sum.syncs += found.syncs;
    if found.differences.is_empty() {
        return Ok(());
    }
    let mut differences = found.differences.clone();
    differences.extend(ground.circumstances()?);
    let first = differences.join("\n  ");
    println!("{replay}\n  {first}\nmaking it shorter ...");
    let shortest = shrink::shrink(steps, |part| {
        interrupt::check()?;
        let now = turns::run(ground, part, manner)?.differences;
        Ok::<_, anyhow::Error>(now.first().is_some_and(|now| nature(now) == nature(&found.differences[0])))
    })?;
    let again = turns::run(ground, &shortest, Manner { show: true, ..manner })?;
    let words = format!(
        "{replay}\n  {first}\nshortest, {} steps:\n  {}\n{}",
        shortest.len(),
        again.differences.join("\n  "),
        serde_json::to_string(&shortest)?
    );
    fail(sum, words, args)
}

/// What kind of difference it is: its words without numbers and names, so that a shorter sequence is one with the same fault.
fn nature(difference: &str) -> String {
    let quoted = difference.split('"').step_by(2).collect::<String>();
    quoted.chars().filter(|letter| letter.is_alphabetic()).take(40).collect()
}

fn fail(sum: &mut Sum, words: String, args: &Args) -> Result<()> {
    println!("{words}");
    sum.failed.push(words);
    if args.keep_going { Ok(()) } else { bail!("a sequence failed:\n{}", sum.failed.join("\n")) }
}

fn kills(ground: &mut Ground, sum: &mut Sum, range: Seeds, operations: u64) -> Result<()> {
    for seed in range {
        interrupt::check()?;
        let plan = Plan { operations, actors: ACTORS, foretold: true };
        let steps = generator::sequence(seed, plan);
        let after = Random::new(seed).below(steps.len() as u64) as usize;
        let found = kill::run(ground, &steps, after)?;
        sum.kills += 1;
        if !found.is_empty() {
            bail!(
                "seed {seed}, killed after {after} steps: cargo xtask model --kill --seed {seed} --operations {operations}\n  {}",
                found.join("\n  ")
            );
        }
        println!("seed {seed}: killed after {after} of {} steps", steps.len());
    }
    Ok(())
}

fn enumerate(ground: &mut Ground, sum: &mut Sum, length: usize, stride: usize) -> Result<()> {
    let found = enumerate::run(ground, length, stride)?;
    sum.enumerated += found.cases;
    if !found.differences.is_empty() {
        bail!("of {} sequences around a sync:\n  {}", found.cases, found.differences.join("\n  "));
    }
    Ok(())
}

/// Everything is at rest: both trees are the same, nothing is dirty, the logs hold no complaint.
fn finish(mut ground: Ground) -> Result<()> {
    ground.through.clear();
    ground.natively.clear();
    ground.mirror.wait_identical()?;
    ground.mirror.finish(&[EXPECTED, PEER_LOST, CRASHED].concat()).map(drop)
}
