//! The project's own commands, one module per command.

use std::process::ExitCode;

use clap::Parser;

mod bench;
mod build_ebpf;
mod check;
mod cycles;
mod fuzz;
mod kernels;
mod lab;
mod model;
mod package;
mod product;
mod report;
mod run;
mod scenarios;
mod setup;
mod sim;
mod soak;
mod suites;
mod test;
mod worker;

/// Develop, run and test replicator.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Bring up two nodes on this machine and mirror a live directory.
    Run(run::Args),
    /// Run every test this machine can run; report those it cannot.
    Test(test::Args),
    /// Compare native directory and mirror, side by side.
    Bench(bench::Args),
    /// Build the kernel programs from source; `--check` compares with the committed object.
    BuildEbpf(build_ebpf::Args),
    /// Check formatting, lints and the boundaries between the parts.
    Check(check::Args),
    /// Run the scenarios under distribution kernels in an emulated machine.
    Kernels(kernels::Args),
    /// Run two real nodes in one situation after another (`list`, `all`, or names).
    Scenario(scenarios::Args),
    /// Run the cluster in one thread from one seed, in a world that breaks; replay a seed.
    Sim(sim::Args),
    /// Give all that listens to strangers and peers what nobody sends who means well, many times.
    Fuzz(fuzz::Args),
    /// Write at full speed for minutes; memory stays bounded, nothing is lost unnoticed, both trees end the same.
    Soak(soak::Args),
    /// Run public POSIX test suites natively and on the gate, and compare them test by test.
    Suites(suites::Args),
    /// Compare random sequences of operations on the mirror, on a plain directory and in a model.
    Model(model::Args),
    /// Kill a node under load and let it return, again and again: nothing acknowledged is lost, both trees end the same.
    Cycles(cycles::Args),
    /// The same with machines that lose their power, and of their disks what was not flushed.
    Powercut(cycles::PowercutArgs),
    /// Build a Debian package; `--check` installs, upgrades, removes and purges it below a directory of its own, `--live` under a systemd that runs.
    Package(package::Args),
    /// Install by name what the other commands need.
    Setup(setup::Args),
    /// Work in a process of its own, for the other commands.
    #[command(subcommand, hide = true)]
    Worker(worker::Args),
}

fn main() -> ExitCode {
    // Remembered before a build replaces the file.
    let known = worker::program();
    match known.and_then(|_| run(Command::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Test(args) => test::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BuildEbpf(args) => build_ebpf::run(args),
        Command::Check(args) => check::run(args),
        Command::Kernels(args) => kernels::run(args),
        Command::Scenario(args) => scenarios::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Soak(args) => soak::run(args),
        Command::Suites(args) => suites::run(args),
        Command::Model(args) => model::run(args),
        Command::Cycles(args) => cycles::run(args),
        Command::Powercut(args) => cycles::run_powercut(args),
        Command::Package(args) => package::run(args),
        Command::Setup(args) => setup::run(args),
        Command::Worker(args) => worker::run(args),
    }
}
