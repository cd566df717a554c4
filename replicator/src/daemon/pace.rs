//! What the core is told of the pace of a resync.

use std::collections::BTreeMap;
use std::sync::Arc;

use replicator_core::config::Pace;

use crate::config::Config;
use crate::volume::Volume;

/// As configured. The floor is what all that the file systems hold needs to be through in time.
pub fn of(config: &Config, volumes: &[Arc<Volume>]) -> Pace {
    let mut devices = BTreeMap::new();
    for volume in volumes {
        if let Ok(held) = nix::sys::statvfs::fstatvfs(volume.root()) {
            let blocks = held.blocks().saturating_sub(held.blocks_free());
            devices.insert(volume.device, blocks.saturating_mul(held.fragment_size()));
        }
    }
    let held: u64 = devices.into_values().sum();
    let floor = held / config.mirror.resync_within.as_secs().max(1);
    Pace { floor, cap: config.mirror.resync_rate_max, ..Pace::default() }
}
