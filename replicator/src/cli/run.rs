//! `replicator run`

use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::{DEFAULT_CONFIG, code_of, doctor, exit, load, one_line};
use crate::config::{Config, Role};
use crate::daemon::{Instructions, Prepared};
use crate::{daemon, telemetry};

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The node's configuration [default: /etc/replicator/replicator.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the node is, whatever node.role says
    #[arg(long, value_name = "ROLE")]
    role: Option<RoleArgument>,
    /// The number of this primacy, by whoever counts them; one that is lower than the node's own is passed over
    #[arg(long, value_name = "N")]
    term: Option<u64>,
    /// This primary may go on alone without asking, until both nodes hold the same
    #[arg(long)]
    go_alone: bool,
    /// Become the primary though this copy is not whole, or the other node may have gone on without it: whatever only the other node has
    /// is not part of what goes on. Needs --reason
    #[arg(long, requires = "reason")]
    force_promote: bool,
    /// Why, for the record (decisions.log in the state directory)
    #[arg(long, value_name = "TEXT", requires = "force_promote")]
    reason: Option<String>,
    /// Get ready, and begin when a line of standard input says how; end if there is none
    #[arg(long, hide = true, conflicts_with_all = ["term", "go_alone", "force_promote"])]
    when_told: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArgument {
    /// Runs the application; its directory is the original
    Primary,
    /// Holds the copy
    Secondary,
}

/// Run a node in the foreground.
///
/// # Errors
/// What keeps it from starting before logging is set up; later errors are logged.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let mut config = load(arguments.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)))?;
    if let Some(role) = arguments.role {
        config.take_role(match role {
            RoleArgument::Primary => Role::Primary,
            RoleArgument::Secondary => Role::Secondary,
        })?;
    }
    let instructions = arguments.instructions(config.node.role)?;
    telemetry::start(config.log)?;
    let (instructions, prepared) = if arguments.when_told {
        let prepared = Prepared::new(&config);
        let Some(told) = told(std::io::stdin().lock())? else { return Ok(exit::OK) };
        (told, prepared)
    } else {
        (instructions, Prepared::default())
    };
    match start(config, &instructions, prepared) {
        Ok(()) => Ok(exit::OK),
        Err(error) => {
            tracing::error!("{}", one_line(&error));
            Ok(code_of(&error))
        }
    }
}

impl Arguments {
    fn instructions(&self, role: Role) -> anyhow::Result<Instructions> {
        let primary = self.term.is_some() || self.go_alone || self.force_promote;
        if primary && role != Role::Primary {
            bail!(
                "--term, --go-alone and --force-promote are for a primary; this node is the secondary (--role primary)"
            );
        }
        let force = self.reason.clone().filter(|_| self.force_promote);
        if force.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
            bail!("a reason is needed, for the record");
        }
        Ok(Instructions { term: self.term, go_alone: self.go_alone, force })
    }
}

/// What a node that waits is told; `None`: it is not needed any more.
fn told(mut from: impl BufRead) -> anyhow::Result<Option<Instructions>> {
    let mut line = String::new();
    from.read_line(&mut line).context("read what is to be done")?;
    if !line.ends_with('\n') {
        return Ok(None);
    }
    serde_json::from_str(&line).context("what is to be done makes no sense").map(Some)
}

fn start(config: Config, instructions: &Instructions, prepared: Prepared) -> anyhow::Result<()> {
    for warning in config.validate_system()? {
        tracing::warn!("{warning}");
    }
    if let Some(obstacle) = doctor::obstacle(&config) {
        bail!("{obstacle}; \"replicator doctor\" tells more");
    }
    daemon::run(config, instructions, prepared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_waits_begins_by_a_whole_line_only() {
        let instructions = Instructions { term: Some(7), go_alone: true, force: None };
        let line = serde_json::to_string(&instructions).unwrap() + "\n";
        assert_eq!(told(line.as_bytes()).unwrap(), Some(instructions));
        // Who would have told it is gone.
        assert_eq!(told(&b""[..]).unwrap(), None);
        assert_eq!(told(&line.as_bytes()[..line.len() - 1]).unwrap(), None);
        assert!(told(&b"{\"term\":7}\n"[..]).is_err());
        assert!(told(&b"{\"term\":7,\"go_alone\":true,\"force\":null,\"more\":1}\n"[..]).is_err());
    }
}
