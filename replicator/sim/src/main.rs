//! The simulation as a program; `cargo xtask sim` builds and calls it.

use std::process::ExitCode;

use replicator_sim::{Sabotage, Setting, World, seeds};

/// What was asked for.
struct Arguments {
    seed: Option<u64>,
    from: u64,
    seeds: u64,
    threads: usize,
    trace: bool,
    setting: Setting,
}

fn arguments() -> Result<Arguments, String> {
    let mut found =
        Arguments { seed: None, from: 0, seeds: 1000, threads: 2, trace: false, setting: Setting::Fixed };
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
        let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
        let number: u64 = value.parse().map_err(|_| format!("{word} {value}: not a number"))?;
        match word.as_str() {
            "--seed" => found.seed = Some(number),
            "--from" => found.from = number,
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
    if let Some(seed) = arguments.seed {
        return match World::new(seed, arguments.setting, Sabotage::None, arguments.trace).run() {
            Ok(stats) => {
                println!("passed: seed {seed}: {stats:?}");
                ExitCode::SUCCESS
            }
            Err(reason) => {
                println!("seed {seed}: {reason}");
                ExitCode::FAILURE
            }
        };
    }
    let range = arguments.from..arguments.from + arguments.seeds;
    let found = seeds::run(arguments.setting, range, arguments.threads, |done| {
        eprint!("\r{done} of {} seeds", arguments.seeds);
    });
    eprintln!();
    match found {
        Ok(total) => {
            println!("passed: {} seeds: {total:?}", arguments.seeds);
            ExitCode::SUCCESS
        }
        Err(failed) => {
            println!("seed {}: {}", failed.seed, failed.reason);
            let roles = if arguments.setting == Setting::Roles { " --roles" } else { "" };
            println!("replay it: cargo xtask sim{roles} --seed {}", failed.seed);
            ExitCode::FAILURE
        }
    }
}
