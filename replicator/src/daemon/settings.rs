//! What the core and the handshake are told of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use replicator_core::action::StateRecord;
use replicator_core::config::{ExtentLimits, LinkTimes, Pace, PrimaryConfig, SecondaryConfig, VolumeRoot};
use replicator_core::wire::header::{VERSION, VERSION_MIN};
use replicator_core::wire::hello::{self, Hello, VolumeIdentity};

use crate::boot::boot_id;
use crate::config::{Config, Mode, Role, WhenAlone};
use crate::link::handshake::{ClusterKey, Identity};
use crate::patterns::Patterns;
use crate::volume::Volume;

/// What this node says of itself in a handshake.
///
/// # Errors
/// The cluster key or the kernel's boot id cannot be read.
pub fn identity(config: &Config, volumes: &[Arc<Volume>], record: StateRecord) -> anyhow::Result<Identity> {
    let key = match config.cluster_key()? {
        Some(key) => ClusterKey::from_secret(key.bytes()),
        None => ClusterKey::from_cluster_name(config.node.cluster.as_bytes()),
    };
    let hello = Hello {
        lowest: VERSION_MIN,
        highest: VERSION,
        cluster: config.node.cluster.clone().into_bytes(),
        node: config.node.name.clone().into_bytes(),
        role: match config.node.role {
            Role::Primary => hello::Role::Primary,
            Role::Secondary => hello::Role::Secondary,
        },
        mode: mode(config) as u8,
        nonce: [0; 32],
        boot: boot_id().context("read the kernel's boot id")?,
        volumes: volumes
            .iter()
            .map(|volume| VolumeIdentity { device: volume.device, inode: volume.root_inode })
            .collect(),
        generation: record.lineage.current.number,
        term: record.term,
        data: record.data,
        patterns: patterns(volumes),
    };
    Ok(Identity { hello, key, tls: config.link.tls.clone() })
}

/// What is left out of each volume; nothing where nothing is left out of any.
fn patterns(volumes: &[Arc<Volume>]) -> Vec<[u8; 32]> {
    if volumes.iter().all(|volume| volume.patterns().is_none()) {
        return Vec::new();
    }
    volumes.iter().map(|volume| volume.patterns().map(Patterns::digest).unwrap_or_default()).collect()
}

fn mode(config: &Config) -> replicator_core::config::Mode {
    use replicator_core::config::Mode as Core;
    match config.mirror.mode {
        Mode::Sync => Core::Sync,
        Mode::SemiSync => Core::SemiSync,
        Mode::Async => Core::Async,
    }
}

/// What a primary does when its peer is lost.
pub fn when_alone(config: &Config) -> replicator_core::config::WhenAlone {
    use replicator_core::config::WhenAlone as Core;
    match config.mirror.when_alone {
        WhenAlone::Release => Core::Release,
        WhenAlone::Hold => Core::Hold,
        WhenAlone::Ask => Core::Ask,
    }
}

fn link_times(config: &Config) -> LinkTimes {
    LinkTimes { keep_alive: config.link.keep_alive_interval, dead_after: config.link.dead_after }
}

/// For a primary of these volumes, but for what is drawn anew in each run.
pub fn primary_config(config: &Config, volumes: &[Arc<Volume>]) -> PrimaryConfig {
    let mirror = &config.mirror;
    let roots =
        volumes.iter().map(|volume| VolumeRoot { volume: volume.id, root: volume.root_file() }).collect();
    PrimaryConfig {
        mode: mode(config),
        when_alone: when_alone(config),
        settle: mirror.settle,
        confirm_interval: mirror.confirm_interval,
        window_bytes: mirror.window,
        barrier_limit: mirror.barrier_limit,
        hold_limit: mirror.hold_limit,
        pace: pace(config, volumes),
        link: link_times(config),
        reconnect_min: config.link.reconnect_min,
        reconnect_max: config.link.reconnect_max,
        limits: ExtentLimits {
            per_file: mirror.extents_per_file as usize,
            total: mirror.extents_total as usize,
        },
        seed: u64::from(std::process::id()),
        partial: volumes.iter().any(|volume| volume.patterns().is_some()),
        ..PrimaryConfig::new(roots)
    }
}

/// As configured. The floor is what all that the file systems hold needs to be through in time.
fn pace(config: &Config, volumes: &[Arc<Volume>]) -> Pace {
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

/// Data of at most so many bytes is written by the thread that changes the copy: a buffered write on the ring goes through a kernel worker, which takes half as
/// long again (docs/measurements/link.md) and matters where somebody waits for few bytes.
const IN_ORDER_BYTES: u64 = 16 << 10;

/// For a secondary.
pub fn secondary_config(config: &Config) -> SecondaryConfig {
    SecondaryConfig { link: link_times(config), in_order_bytes: IN_ORDER_BYTES, ..SecondaryConfig::default() }
}

/// Random bytes.
///
/// # Errors
/// The kernel has none to give.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random bytes: {error}"))?;
    Ok(bytes)
}

/// Random bits, not all zero.
///
/// # Errors
/// As [`random`].
pub fn random_bits() -> anyhow::Result<u64> {
    Ok(u64::from_le_bytes(random()?) | 1)
}
