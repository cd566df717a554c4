//! What earlier runs of a node left: its state, and what one of them knew.

use std::sync::Arc;

use anyhow::{Context, bail};
use replicator_core::action::StateRecord;
use tracing::{debug, info, warn};

use super::checkpoint::Inodes;
use super::instructions::{self, Instructions};
use crate::config::Config;
use crate::storage::activity::{self, ActivityDirectory, Base};
use crate::storage::replica::Copies;
use crate::storage::state::{Loaded, StateDirectory};
use crate::storage::succession::{Moment, Succession};
use crate::volume::Volume;

/// The state this node starts from.
pub struct Found {
    /// As the last run left it.
    pub before: StateRecord,
    /// As this one begins.
    pub now: StateRecord,
}

/// What the state file says, and what this run makes of it.
pub fn load_record(
    config: &Config,
    instructions: &Instructions,
    state: &StateDirectory,
) -> anyhow::Result<Found> {
    let path = config.node.state_directory.display();
    let record = match state.load() {
        Loaded::State(found) => {
            if found.cluster != name_id(&config.node.cluster) || found.node != name_id(&config.node.name) {
                bail!(
                    "{path} holds the state of another node or cluster; give node {} its own node.state-directory",
                    config.node.name
                );
            }
            Some(found.record)
        }
        Loaded::First => None,
        Loaded::Newer { found } => bail!(
            "{path} holds a state of version {found}, which a newer build wrote; start that build, or move the file away to have \
             everything compared"
        ),
        Loaded::Unusable { reason, kept } => {
            warn!(%reason, ?kept, "the node's state cannot be used: everything will be compared");
            Some(StateRecord { lost: true, ..StateRecord::unknown() })
        }
    };
    let now = instructions::begin(config, instructions, state, record)?;
    if now.crashed {
        info!("an earlier run of this node as the primary did not end in order");
    }
    Ok(Found { before: record.unwrap_or(now), now })
}

/// What a run of this primary recorded that crashed.
pub fn crashed(activity: &ActivityDirectory, identity: [u8; 32]) -> Option<Box<Base>> {
    match activity.recover() {
        activity::Found::Nothing => None,
        activity::Found::Base(base) if base.identity == identity => {
            info!(
                doubtful = base.activity.doubts(),
                "the last run as the primary left no checkpoint: what is in its safe set is compared"
            );
            for file in base.activity.doubtful() {
                let (named, wholly) = (base.activity.named(file), base.activity.is_wholly_doubtful(file));
                debug!(%file, ?named, wholly, "in doubt");
            }
            Some(base)
        }
        activity::Found::Base(_) => {
            info!("what was recorded is of another configuration of this node: everything will be compared");
            None
        }
        activity::Found::Unusable(error) => {
            warn!(%error, "what was recorded before the crash cannot be used: everything will be compared");
            None
        }
    }
}

/// What this node knew as the secondary until a moment ago, if it still holds.
pub fn inherited(state: &StateDirectory, identity: [u8; 32]) -> anyhow::Result<Option<Succession>> {
    let left = state.take_succession().context("take away what the secondary left")?;
    let now = Moment::now().context("read the clock")?;
    Ok(left.filter(|left| left.identity == identity && left.moment.reaches(&now)))
}

/// Its files, volume by volume, and what they are copies of.
pub fn copies_of(succession: &Succession, volumes: &[Arc<Volume>]) -> Vec<(Inodes, Copies)> {
    let of = |volume: &Arc<Volume>| {
        let copies = succession.copies.iter().filter(|copy| copy.here.volume == volume.id);
        let mut files: Vec<(u64, u64)> = copies.map(|copy| (copy.here.inode, copy.original.inode)).collect();
        files.sort_unstable();
        let inodes = files.iter().map(|(here, _)| *here).collect();
        let moment = succession.moment.surely_before();
        (Inodes { inodes, moment }, Copies { files, deleted: Vec::new() })
    };
    volumes.iter().map(of).collect()
}

/// A name as the fixed-size id of the state file.
pub fn name_id(name: &str) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
    id
}
