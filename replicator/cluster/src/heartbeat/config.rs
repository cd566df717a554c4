//! What a heartbeat is told at its start.

use std::net::SocketAddr;
use std::time::Duration;

use super::error::HeartbeatError;
use super::keys::Key;

/// Most paths of a heartbeat.
pub const PATHS_MAX: usize = 8;

const INTERVAL_MIN: Duration = Duration::from_millis(10);
const DEAD_AFTER_MAX: Duration = Duration::from_secs(600);
/// Fewer beats than these, and one lost datagram comes close to a dead peer.
const BEATS_MIN: u32 = 4;

/// One network between the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// Where this node listens and sends from.
    pub local: SocketAddr,
    /// Where the peer listens.
    pub peer: SocketAddr,
}

/// How quickly a dead peer is noticed, and how much of a load or a disturbance is taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Preset {
    /// A beat every 250 ms, dead after 3 s.
    #[default]
    Normal,
    /// A beat every 100 ms, dead after 1 s: for machines that are not overcommitted, on networks of their own.
    Fast,
    /// A beat every 500 ms, dead after 10 s: for guests that are moved while they run, and for wide-area networks.
    Calm,
}

impl Preset {
    /// Time between two beats.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_millis(match self {
            Preset::Normal => 250,
            Preset::Fast => 100,
            Preset::Calm => 500,
        })
    }

    /// Silence after which the peer is taken for dead.
    #[must_use]
    pub fn dead_after(self) -> Duration {
        Duration::from_secs(match self {
            Preset::Normal => 3,
            Preset::Fast => 1,
            Preset::Calm => 10,
        })
    }
}

/// Who speaks with whom, over which networks, how often.
#[derive(Clone, Debug)]
pub struct HeartbeatConfig {
    /// The cluster both nodes belong to.
    pub cluster: [u8; 16],
    /// This node.
    pub node: [u8; 16],
    /// The other one.
    pub peer: [u8; 16],
    /// The secret both share.
    pub key: Key,
    /// Another one that is accepted from the start, and used once the peer accepts it: a change that had begun when the node was stopped
    /// goes on as if [`super::Heartbeat::rekey`] had been called at once.
    pub next_key: Option<Key>,
    /// The networks, **in the same order on both nodes**: what a node sends on its first path counts on the peer's first only.
    pub paths: Vec<Path>,
    /// Time between two beats.
    pub interval: Duration,
    /// Silence after which the peer is taken for dead, counted in beats that this node itself had time to send.
    pub dead_after: Duration,
}

impl HeartbeatConfig {
    /// With the times of a preset.
    #[must_use]
    pub fn new(
        cluster: [u8; 16],
        (node, peer): ([u8; 16], [u8; 16]),
        key: Key,
        paths: Vec<Path>,
        preset: Preset,
    ) -> HeartbeatConfig {
        let (interval, dead_after) = (preset.interval(), preset.dead_after());
        HeartbeatConfig { cluster, node, peer, key, next_key: None, paths, interval, dead_after }
    }

    /// Is it one with which a heartbeat can start?
    ///
    /// # Errors
    /// [`HeartbeatError::Config`].
    pub fn validate(&self) -> Result<(), HeartbeatError> {
        let refuse = |why: String| Err(HeartbeatError::Config { why });
        if self.node == self.peer {
            return refuse("this node and its peer have the same id".to_owned());
        }
        if self.interval < INTERVAL_MIN {
            return refuse(format!(
                "the interval is {:?}; it must be {INTERVAL_MIN:?} or more",
                self.interval
            ));
        }
        if self.dead_after < self.interval * BEATS_MIN || self.dead_after > DEAD_AFTER_MAX {
            return refuse(format!(
                "the peer would be dead after {:?}; that must be from {BEATS_MIN} intervals ({:?}) to {DEAD_AFTER_MAX:?}",
                self.dead_after,
                self.interval * BEATS_MIN
            ));
        }
        if self.paths.is_empty() || self.paths.len() > PATHS_MAX {
            return refuse(format!("there are {} paths; there must be 1 to {PATHS_MAX}", self.paths.len()));
        }
        for (index, path) in self.paths.iter().enumerate() {
            let Path { local, peer } = path;
            if local.is_ipv4() != peer.is_ipv4() {
                return refuse(format!(
                    "path {index} leads from {local} to {peer}; both must be IPv4 or both IPv6"
                ));
            }
            if [local, peer].iter().any(|address| address.port() == 0 || address.ip().is_multicast()) {
                return refuse(format!(
                    "path {index} from {local} to {peer} must have ports and no multicast"
                ));
            }
            if peer.ip().is_unspecified() || local == peer {
                return refuse(format!(
                    "path {index} from {local} must lead to an address of the peer, not to {peer}"
                ));
            }
            if self.paths.iter().take(index).any(|other| other.local == *local) {
                return refuse(format!(
                    "two paths have the address {local}; each needs an address or port of its own"
                ));
            }
        }
        Ok(())
    }

    /// Ticks of silence after which the peer is dead.
    pub(crate) fn dead_ticks(&self) -> u32 {
        let ticks = self.dead_after.as_nanos().div_ceil(self.interval.as_nanos().max(1));
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(local: &str, peer: &str) -> Path {
        Path { local: local.parse().unwrap(), peer: peer.parse().unwrap() }
    }

    fn config(paths: Vec<Path>) -> HeartbeatConfig {
        HeartbeatConfig::new([1; 16], ([2; 16], [3; 16]), Key::new([4; 32]), paths, Preset::Normal)
    }

    #[test]
    fn presets_are_counted_in_beats() {
        for (preset, beats) in [(Preset::Normal, 12), (Preset::Fast, 10), (Preset::Calm, 20)] {
            let (interval, dead_after) = (preset.interval(), preset.dead_after());
            let config =
                HeartbeatConfig { interval, dead_after, ..config(vec![path("10.0.0.1:1", "10.0.0.2:1")]) };
            config.validate().unwrap();
            assert_eq!(config.dead_ticks(), beats);
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let good = config(vec![path("10.0.0.1:7", "10.0.0.2:7"), path("[fd00::1]:7", "[fd00::2]:7")]);
        good.validate().unwrap();
        let with_paths = |paths| HeartbeatConfig { paths, ..good.clone() };
        let bad = [
            HeartbeatConfig { peer: good.node, ..good.clone() },
            HeartbeatConfig { interval: Duration::ZERO, ..good.clone() },
            HeartbeatConfig { dead_after: Duration::from_millis(900), ..good.clone() },
            HeartbeatConfig { dead_after: Duration::from_secs(3600), ..good.clone() },
            with_paths(vec![]),
            with_paths(vec![good.paths[0]; 2]),
            with_paths((1..10).map(|port| path(&format!("10.0.0.1:{port}"), "10.0.0.2:7")).collect()),
            with_paths(vec![path("10.0.0.1:7", "[fd00::2]:7")]),
            with_paths(vec![path("10.0.0.1:0", "10.0.0.2:7")]),
            with_paths(vec![path("10.0.0.1:7", "10.0.0.2:0")]),
            with_paths(vec![path("10.0.0.1:7", "224.0.0.1:7")]),
            with_paths(vec![path("10.0.0.1:7", "0.0.0.0:7")]),
            with_paths(vec![path("10.0.0.1:7", "10.0.0.1:7")]),
        ];
        for config in bad {
            assert!(matches!(config.validate(), Err(HeartbeatError::Config { .. })), "{config:?}");
        }
    }
}
