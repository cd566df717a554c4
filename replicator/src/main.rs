//! The `replicator` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    replicator::cli::main()
}
