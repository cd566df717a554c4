//! The project's own commands, one module per command.
use clap::Parser;

/// Develop, run and test replicator.
#[derive(Parser)]
enum Command {}

fn main() -> anyhow::Result<()> {
    match Command::parse() {}
}
