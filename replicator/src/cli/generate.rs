//! `replicator completions`, `replicator man`: for packages, from the same definition as the commands.

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, exit, print};

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

/// Print a shell's completion script.
///
/// # Errors
/// It cannot be printed.
pub fn completions(arguments: &CompletionsArguments) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "replicator", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(exit::OK)
}

/// Print the manual page.
///
/// # Errors
/// It cannot be printed.
pub fn man() -> anyhow::Result<u8> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).context("cannot write the manual page")?;
    print(&String::from_utf8_lossy(&page))?;
    Ok(exit::OK)
}
