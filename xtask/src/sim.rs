//! `cargo xtask sim`: the cluster in one thread from one seed, in a world that breaks. What breaks and what must hold:
//! docs/simulation.md.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{lab::exec, product};

/// Arguments of `cargo xtask sim`.
#[derive(clap::Args)]
pub struct Args {
    /// The cluster: two controllers, an arbiter, heartbeats, scripts and operators; without it, the mirror.
    #[arg(long)]
    cluster: bool,
    /// Look at going alone in every order in which things can happen, so many events deep.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "from", "threads", "cluster"])]
    model: Option<u64>,
    /// There: so many of them may be faults.
    #[arg(long, default_value_t = 3, requires = "model")]
    faults: u8,
    /// Replay this seed; `--trace` shows what goes into the machines and comes out of them.
    #[arg(long, conflicts_with_all = ["seeds", "from", "threads"])]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Worlds in which nodes take turns as the primary.
    #[arg(long)]
    roles: bool,
    /// How many seeds to run.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Worlds that run at once.
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    exec::show(product::cargo().args([
        "build",
        "--quiet",
        "--profile",
        "sim",
        "--package",
        "replicator-sim",
    ]))
    .context("build the simulation")?;
    let mut command = Command::new(product::target()?.join("sim/replicator-sim"));
    command.stdin(Stdio::null());
    if args.roles {
        command.arg("--roles");
    }
    if args.cluster {
        command.arg("--cluster");
    }
    match (args.model, args.seed) {
        (Some(depth), _) => {
            command.args(["--model", &depth.to_string(), "--faults", &args.faults.to_string()]);
        }
        (None, Some(seed)) => {
            command.args(["--seed", &seed.to_string()]);
            if args.trace {
                command.arg("--trace");
            }
        }
        (None, None) => {
            for (name, number) in
                [("--seeds", args.seeds), ("--from", args.from), ("--threads", u64::from(args.threads))]
            {
                command.args([name, &number.to_string()]);
            }
        }
    }
    let status = command.status().context("start the simulation")?;
    if !status.success() {
        bail!("a promise does not hold; the seed, or the way there, is above");
    }
    Ok(())
}
