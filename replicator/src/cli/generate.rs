//! `replicator completions`, `replicator man`: for packages, from the same definition as the commands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, exit, print};

/// Where programs for administrators are explained.
const SECTION: &str = "8";

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct ManArguments {
    /// Write a page for each command to this directory, instead of printing the one of all
    #[arg(long, value_name = "DIRECTORY")]
    into: Option<PathBuf>,
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

/// Print the manual page, or write those of all commands.
///
/// # Errors
/// It cannot be printed, or they cannot be written.
pub fn man(arguments: &ManArguments) -> anyhow::Result<u8> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &arguments.into {
        None => print(&String::from_utf8_lossy(&page(command)?))?,
        Some(directory) => write(command, directory)?,
    }
    Ok(exit::OK)
}

fn page(command: Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).section(SECTION).render(&mut page).context("cannot write the manual page")?;
    Ok(page)
}

/// A page for a command and all below it, `replicator-cluster-run.8`.
fn write(command: Command, directory: &Path) -> anyhow::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write(below.clone(), directory)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let path = directory.join(format!("{name}.{SECTION}"));
    fs::write(&path, page(command)?).with_context(|| format!("cannot write {}", path.display()))
}
