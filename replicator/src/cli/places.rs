//! Where the cluster's daemon has its files, and how it is asked.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use replicator_cluster::daemon::control::{Answer, Request};
use replicator_cluster::daemon::service::Places;
use replicator_cluster::daemon::socket::{self, SocketError};
use replicator_cluster::daemon::status::NodeStatus;

use super::runtime;

/// Longest time the daemon may take to answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Where the cluster's files are.
#[derive(Args, Clone, Debug)]
pub struct PlacesArguments {
    /// The cluster directory: description, certificates, secrets
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/replicator/cluster")]
    directory: PathBuf,
    /// The installed modules
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/replicator/modules")]
    modules: PathBuf,
    /// What must survive a restart of the machine
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/replicator")]
    state: PathBuf,
    /// What need not; the daemon's socket is in it
    #[arg(long, value_name = "DIRECTORY", default_value = "/run/replicator")]
    run: PathBuf,
    /// Logs of the modules' scripts
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/log/replicator")]
    logs: PathBuf,
}

/// A node, and how it is asked.
#[derive(Args, Debug)]
pub struct OnNode {
    #[command(flatten)]
    pub places: PlacesArguments,
    /// Which node; without: this one
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

impl PlacesArguments {
    /// As the daemon takes them.
    #[must_use]
    pub fn places(&self) -> Places {
        Places {
            cluster: self.directory.clone(),
            modules: self.modules.clone(),
            state: self.state.clone(),
            run: self.run.clone(),
            logs: self.logs.clone(),
        }
    }

    /// Ask the daemon, on this node or for the other.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn ask(&self, node: Option<&str>, request: Request) -> anyhow::Result<Answer> {
        let request = match node {
            Some(name) => {
                let status = self.status()?;
                match name {
                    name if name == status.node => request,
                    name if name == status.peer => Request::Peer { asked: Box::new(request) },
                    name => bail!("there is no node {name:?}; there are {} and {}", status.node, status.peer),
                }
            }
            None => request,
        };
        self.ask_here(&request)
    }

    /// Ask the other node through the daemon on this one.
    ///
    /// # Errors
    /// One of the two does not answer, or refuses.
    pub fn ask_peer(&self, request: Request) -> anyhow::Result<Answer> {
        self.ask_here(&Request::Peer { asked: Box::new(request) })
    }

    /// How the node is.
    ///
    /// # Errors
    /// As [`PlacesArguments::ask`].
    pub fn status(&self) -> anyhow::Result<NodeStatus> {
        match self.ask_here(&Request::Status)? {
            Answer::Status { status } => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Ask the daemon on this node, if one runs.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn ask_if_running(&self, request: &Request) -> anyhow::Result<Option<Answer>> {
        match self.ask_here(request) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if matches!(error.downcast_ref(), Some(SocketError::NoDaemon { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask_here(&self, request: &Request) -> anyhow::Result<Answer> {
        let runtime = runtime()?;
        let answer = runtime.block_on(socket::ask(&self.places().socket(), request, WITHIN))?;
        match answer {
            Answer::Refused { message } => bail!("{message}"),
            answer => Ok(answer),
        }
    }
}

/// The daemon answers something else than it was asked.
pub fn unexpected(answer: &Answer) -> anyhow::Error {
    anyhow!("the daemon answers {answer:?}; are both of the same version?")
}
