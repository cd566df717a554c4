//! `replicator run`

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use super::{DEFAULT_CONFIG, code_of, doctor, exit, load, one_line};
use crate::config::Config;
use crate::{daemon, telemetry};

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The node's configuration [default: /etc/replicator/replicator.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Run a node in the foreground.
///
/// # Errors
/// What keeps it from starting before logging is set up; later errors are logged.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let config = load(arguments.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)))?;
    telemetry::start(config.log)?;
    match start(config) {
        Ok(()) => Ok(exit::OK),
        Err(error) => {
            tracing::error!("{}", one_line(&error));
            Ok(code_of(&error))
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    for warning in config.validate_system()? {
        tracing::warn!("{warning}");
    }
    if let Some(obstacle) = doctor::obstacle(&config) {
        bail!("{obstacle}; \"replicator doctor\" tells more");
    }
    daemon::run(config)
}
