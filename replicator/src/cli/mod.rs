//! The command line: one file per subcommand.
//!
//! It has no powers of its own: what a running node is asked goes through [`crate::control`].

pub mod check_config;
pub mod cluster;
pub mod compare;
pub mod divergence;
pub mod doctor;
pub mod exit;
pub mod generate;
mod logs;
pub mod module;
mod places;
mod progress;
pub mod resync;
mod reunion;
pub mod run;
mod snapshot;
pub mod status;
pub mod stop;
pub mod verify;
pub mod witness;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::control::ControlError;

/// The configuration that is used if none is named.
pub const DEFAULT_CONFIG: &str = "/etc/replicator/replicator.toml";

/// The `replicator` command.
#[derive(Parser, Debug)]
#[command(name = "replicator", version, about = "A mirror cluster for two ordinary Linux servers", long_about = None)]
#[command(after_help = exit::HELP, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node in the foreground until SIGTERM, SIGINT or "replicator stop"
    Run(run::Arguments),
    /// Show what a running node does
    Status(status::Arguments),
    /// Stop a running node in good order: wait for the peer, unmount, leave plain files
    Stop(stop::Arguments),
    /// Compare both copies while the application runs, and report what differs (on the primary)
    Verify(verify::Arguments),
    /// Bring the copy up to date now: everything, what is marked, or one file (on the primary)
    Resync(resync::Arguments),
    /// List, show, restore or delete what was kept aside when the peer's data replaced this node's
    Divergence(divergence::Arguments),
    /// Make a cluster of two nodes, and run its daemon
    Cluster(cluster::Arguments),
    /// Install, start, stop and move what the cluster keeps running
    Module(module::Arguments),
    /// Run the arbiter for clusters, on a third machine
    Witness(witness::Arguments),
    /// Print everything this host offers to a node, and which mode follows
    Doctor(doctor::Arguments),
    /// Check a configuration file
    CheckConfig(check_config::Arguments),
    /// Compare two trees that nobody changes: names, bytes, holes, attributes (reads all data of both)
    Compare(compare::Arguments),
    /// Print a shell's completion script
    #[command(hide = true)]
    Completions(generate::CompletionsArguments),
    /// Print the manual page (roff), or write those of all commands
    #[command(hide = true)]
    Man(generate::ManArguments),
}

/// Where to find a running node.
#[derive(Args, Debug)]
pub struct NodeArguments {
    /// The node's configuration [default: /etc/replicator/replicator.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// The node's control socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl NodeArguments {
    /// The control socket.
    ///
    /// # Errors
    /// The configuration cannot be read or is not valid.
    pub fn socket(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let config = load(self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)));
        let config = if self.config.is_none() {
            config.context("no --config and no --socket given")?
        } else {
            config?
        };
        Ok(config.node.control_socket)
    }
}

/// Read the arguments, do what they say, tell how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done if even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let result = match cli.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Stop(arguments) => stop::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Resync(arguments) => resync::run(&arguments),
        Command::Divergence(arguments) => divergence::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Module(arguments) => module::run(&arguments),
        Command::Witness(arguments) => witness::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("replicator: {}", one_line(&error));
            ExitCode::from(code_of(&error))
        }
    }
}

/// The exit code of an error that no subcommand has a code of its own for.
fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        exit::CONFIG
    } else if let Some(ControlError::NoDaemon { .. }) = error.downcast_ref::<ControlError>() {
        exit::NO_DAEMON
    } else {
        exit::FAILED
    }
}

/// An error and its causes in one line; a cause that an outer message already quotes is not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().replace('\n', " ");
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Read and validate a configuration; the error names the file.
fn load(path: &Path) -> anyhow::Result<Config> {
    Config::load(path).map_err(|error| match error {
        // These name the file themselves.
        ConfigError::Unreadable { .. } | ConfigError::FileTooLarge { .. } => anyhow::Error::new(error),
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    })
}

/// Write to standard output. A reader that has gone away ends the output, not the command.
fn print(text: &str) -> anyhow::Result<()> {
    print_while_read(text).map(|_| ())
}

/// Write to standard output; `false` if nobody reads any more.
fn print_while_read(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// What asynchronous work of a command is run on.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

/// A value as JSON, for people who read JSON.
fn pretty_json<T: serde::Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n")
}
