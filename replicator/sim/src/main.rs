//! The simulation as a program; `cargo xtask sim` builds and calls it.

use std::fmt::Debug;
use std::ops::Range;
use std::process::ExitCode;

use replicator_sim::{Sabotage, Setting, World, cluster, seeds};

/// What was asked for.
struct Arguments {
    seed: Option<u64>,
    from: u64,
    seeds: u64,
    threads: usize,
    trace: bool,
    setting: Setting,
    cluster: bool,
    /// The model check of going alone, so deep.
    model: Option<usize>,
    faults: u8,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments {
        seed: None,
        from: 0,
        seeds: 1000,
        threads: 2,
        trace: false,
        setting: Setting::Fixed,
        cluster: false,
        model: None,
        faults: 3,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--trace" {
            found.trace = true;
            continue;
        }
        if word == "--roles" {
            found.setting = Setting::Roles;
            continue;
        }
        if word == "--cluster" {
            found.cluster = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
        let number: u64 = value.parse().map_err(|_| format!("{word} {value}: not a number"))?;
        match word.as_str() {
            "--seed" => found.seed = Some(number),
            "--from" => found.from = number,
            "--model" => found.model = Some(number as usize),
            "--faults" => found.faults = number.min(20) as u8,
            "--seeds" => found.seeds = number,
            "--threads" => found.threads = number.clamp(1, 64) as usize,
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    if let Some(depth) = arguments.model {
        return modelled(depth, arguments.faults);
    }
    let outcome = match (arguments.cluster, arguments.seed) {
        (false, Some(seed)) => {
            shown(World::new(seed, arguments.setting, Sabotage::None, arguments.trace).run())
        }
        (true, Some(seed)) => {
            shown(cluster::World::new(seed, cluster::Sabotage::None, arguments.trace).run())
        }
        (false, None) => many(&arguments, |range, threads, progress| {
            seeds::run(arguments.setting, range, threads, progress)
        }),
        (true, None) => many(&arguments, cluster::seeds::run),
    };
    match outcome {
        Ok(passed) => {
            println!("passed: {passed}");
            ExitCode::SUCCESS
        }
        Err(failed) => {
            println!("{failed}");
            ExitCode::FAILURE
        }
    }
}

/// So many states of the model fit into the memory of a small machine.
const STATES_MAX: u64 = 1_500_000;

fn modelled(depth: usize, faults: u8) -> ExitCode {
    let limits = cluster::model::Limits { depth, faults, sabotage: false };
    match cluster::model::explore(limits, STATES_MAX) {
        Ok(explored) => {
            println!("passed: {explored:?}");
            ExitCode::SUCCESS
        }
        Err(events) => {
            println!("one-acknowledger does not hold:\n  {}", events.join("\n  "));
            ExitCode::FAILURE
        }
    }
}

fn shown<T: Debug>(outcome: Result<T, String>) -> Result<String, String> {
    outcome.map(|stats| format!("{stats:?}"))
}

type Progress = Box<dyn Fn(u64) + Sync>;

/// All seeds that were asked for.
fn many<T: Debug>(
    arguments: &Arguments,
    run: impl Fn(Range<u64>, usize, Progress) -> Result<T, seeds::Failed>,
) -> Result<String, String> {
    let seeds = arguments.seeds;
    let progress = Box::new(move |done| eprint!("\r{done} of {seeds} seeds"));
    let found = run(arguments.from..arguments.from + seeds, arguments.threads, progress);
    eprintln!();
    let which = match (arguments.cluster, arguments.setting) {
        (true, _) => "--cluster ",
        (false, Setting::Roles) => "--roles ",
        (false, Setting::Fixed) => "",
    };
    found.map(|total| format!("{seeds} seeds: {total:?}")).map_err(|failed| {
        format!(
            "seed {}: {}\nreplay it: cargo xtask sim {which}--seed {}",
            failed.seed, failed.reason, failed.seed
        )
    })
}
