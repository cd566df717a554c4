//! `cargo xtask fuzz`: what strangers and peers can send, given to all that listens to them, many times. What must hold:
//! docs/simulation.md.
//!
//! The tests are those of `cargo test`, in a build that is as fast as the product and looks at every assertion and every overflow.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::product;
use crate::test::libtest;

/// How many inputs a test takes: read by `replicator_fuzz`.
const INPUTS: &str = "REPLICATOR_FUZZ_INPUTS";
/// The number of the first one.
const FIRST: &str = "REPLICATOR_FUZZ_FIRST";

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// How many inputs each test takes; those whose inputs cost a socket or a handshake take a part of them, and say how many.
    #[arg(long, default_value_t = 10_000_000)]
    inputs: u64,
    /// The number of the first input, to give one again that failed (with `--inputs 1`).
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// What listens; without any, all of it.
    #[arg(value_enum)]
    targets: Vec<Target>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Target {
    /// Bodies and headers of the mirror's frames, and the state machines of both roles.
    Frames,
    /// The bytes of a connection of the mirror, from its first one on.
    Link,
    /// Requests on the sockets and channels of a node, a cluster and a witness.
    Control,
    /// Datagrams of the heartbeat.
    Heartbeats,
}

/// Tests of one package: the package, which of its test programs, and which tests in it.
type Tests = (&'static str, &'static [&'static str], &'static [&'static str]);

/// What of the cluster is asked for something.
const CLUSTER_CONTROL: &[&str] =
    &["daemon::fuzz", "remote::tests::fuzz", "witness::tests::fuzz", "join::tests::fuzz"];

impl Target {
    const ALL: [Target; 4] = [Target::Frames, Target::Link, Target::Control, Target::Heartbeats];

    fn tests(self) -> &'static [Tests] {
        match self {
            Target::Frames => &[("replicator-core", &["--test", "fuzz"], &[])],
            Target::Link => {
                &[("replicator", &["--lib"], &["link::tests::fuzz", "link::handshake::tests::fuzz"])]
            }
            Target::Control => &[
                ("replicator", &["--lib"], &["control::tests::fuzz"]),
                ("replicator-cluster", &["--lib"], CLUSTER_CONTROL),
            ],
            Target::Heartbeats => &[("replicator-cluster", &["--lib"], &["pulse::tests::fuzz"])],
        }
    }
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    let targets = if args.targets.is_empty() { Target::ALL.to_vec() } else { args.targets };
    let mut rows = Vec::new();
    for target in targets {
        for tests in target.tests() {
            let begin = Instant::now();
            let (held, told) = run_tests(*tests, args.inputs, args.first)?;
            let seconds = begin.elapsed().as_secs();
            let verdict = if held { "held" } else { "FAILED" };
            // What names no test any more must not look like one that held.
            let missing = held && told.is_empty();
            rows.push((target, if missing { "NOT FOUND" } else { verdict }, seconds, told));
        }
    }
    println!();
    for (target, verdict, seconds, told) in &rows {
        println!("{target:?}: {verdict} ({seconds} s)");
        told.iter().for_each(|told| println!("    {told}"));
    }
    if rows.iter().any(|(_, verdict, ..)| *verdict != "held") {
        bail!(
            "an input did what it must not; its number is above, and --first with --inputs 1 gives it again"
        );
    }
    Ok(())
}

/// Run them; whether all passed, and what they say of their inputs.
fn run_tests((package, program, names): Tests, inputs: u64, first: u64) -> Result<(bool, Vec<String>)> {
    let mut command = product::cargo();
    command.args(["test", "--quiet", "--profile", "sim", "--package", package]).args(program);
    command.args(["--", "--show-output"]).args(names);
    command.env(INPUTS, inputs.to_string()).env(FIRST, first.to_string());
    tell(&mut command)
}

fn tell(command: &mut Command) -> Result<(bool, Vec<String>)> {
    let mut told = Vec::new();
    let status = libtest::lines(command, |line| {
        if let Some(held) = line.trim().strip_prefix("fuzz: ") {
            told.push(held.to_owned());
        }
        Some(line.to_owned())
    })?;
    told.sort();
    told.dedup();
    Ok((status.success(), told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_say_of_their_inputs_is_told() {
        let mut said = Command::new("printf");
        said.arg("running 2 tests\\nfuzz: b: 7 inputs\\n.\\nfuzz: a: 20 inputs\\nfuzz: a: 20 inputs\\n");
        let (held, told) = tell(&mut said).unwrap();
        assert!(held);
        assert_eq!(told, ["a: 20 inputs", "b: 7 inputs"]);
        assert!(!tell(&mut Command::new("false")).unwrap().0);
    }
}
