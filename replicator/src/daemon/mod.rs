//! The daemon: joins the edges around the core.

use crate::config::Config;

/// Run a node until it is told to stop.
///
/// # Errors
/// What keeps the node from starting or going on.
pub fn run(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("node {} cannot run: this build has no daemon", config.node.name)
}
