//! `replicator witness`: the arbiter for clusters, on a third machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use replicator_cluster::arbiter::ClusterId;
use replicator_cluster::supervisor::Supervisor;
use replicator_cluster::witness::{Limits, Witness, WitnessConfig, add_cluster, cluster_key, remove_cluster};
use tokio::signal::unix::{SignalKind, signal};

use super::{exit, print, runtime};
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::telemetry;

/// Arguments of `witness`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the witness in the foreground until SIGTERM or SIGINT
    Run(RunArguments),
    /// Let a cluster ask, and print the key that its nodes need as arbiter.key in their cluster directory
    AddCluster(ClusterArguments),
    /// Print that key again
    Key(ClusterArguments),
    /// Let a cluster ask no more
    RemoveCluster(ClusterArguments),
}

#[derive(Args, Debug)]
struct RunArguments {
    /// What it has granted
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/replicator-witness")]
    directory: PathBuf,
    /// Where it listens; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:7412")]
    listen: Vec<SocketAddr>,
}

#[derive(Args, Debug)]
struct ClusterArguments {
    /// What it has granted. The witness may run meanwhile
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/replicator-witness")]
    directory: PathBuf,
    /// The cluster's id, 32 hexadecimal digits ("replicator cluster describe" shows it)
    cluster: ClusterId,
}

/// Run the command.
///
/// # Errors
/// What kept it from being done.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    match &arguments.command {
        Command::Run(arguments) => witness(arguments)?,
        Command::AddCluster(arguments) => {
            print(&add_cluster(&arguments.directory, arguments.cluster)?.to_file())?;
        }
        Command::Key(arguments) => {
            print(&cluster_key(&arguments.directory, arguments.cluster)?.to_file())?;
        }
        Command::RemoveCluster(arguments) => remove_cluster(&arguments.directory, arguments.cluster)?,
    }
    Ok(exit::OK)
}

fn witness(arguments: &RunArguments) -> anyhow::Result<()> {
    telemetry::start(LogConfig { level: LogLevel::Info, format: LogFormat::Text })?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("catch SIGTERM")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("catch SIGINT")?;
        let config = WitnessConfig {
            listen: arguments.listen.clone(),
            directory: arguments.directory.clone(),
            limits: Limits::default(),
        };
        let supervisor = Supervisor::from_environment();
        let witness = Witness::open(config).await?;
        supervisor.ready("a witness");
        let stop = async {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
                () = pulse(&supervisor) => {}
            }
            supervisor.stopping();
        };
        witness.run(stop).await;
        Ok(())
    })
}

/// Tell the service manager that the witness lives: it serves on this thread, so who gets here could be answered.
async fn pulse(supervisor: &Supervisor) {
    let Some(pulse) = supervisor.pulse() else { return std::future::pending().await };
    loop {
        supervisor.alive();
        tokio::time::sleep(pulse).await;
    }
}
