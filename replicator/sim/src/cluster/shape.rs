//! What kind of world a seed makes.

use core::time::Duration;

use replicator_core::cluster::{Budget, Config, NodeId, Policy};

use super::world::{MS, SECOND};
use crate::random::Random;

/// Drawn once for a world.
#[derive(Clone, Debug)]
pub struct Shape {
    pub policy: Policy,
    pub arbiter: bool,
    pub default_primary: Option<usize>,
    pub failback: bool,
    /// Both nodes begin with nothing.
    pub fresh: bool,
    /// Operators force now and then.
    pub forces: bool,
    /// Operators order anything at all.
    pub commands: bool,
    /// How often, relative to each other, each kind of fault comes (see `faults`).
    pub weights: [usize; 12],
    /// Mean time between two faults, ns.
    pub fault_every: u64,
    /// Mean time between two commands, ns.
    pub command_every: u64,
    /// Steps that fail, of a hundred.
    pub step_failures: usize,
    /// Records that cannot be written, of a hundred.
    pub write_failures: usize,
    /// Heartbeats that are lost though the path is well, of a hundred.
    pub beat_loss: usize,
    /// The phase with faults takes so long, ns.
    pub trouble: u64,
    /// A paused node's clock stands still.
    pub clock_stops: bool,
    pub paths: usize,
}

/// The node with that place.
pub fn id(node: usize) -> NodeId {
    NodeId([node as u8 + 1; 16])
}

impl Shape {
    pub fn draw(random: &mut Random) -> Shape {
        let (policy, arbiter) = match random.below(10) {
            0..=5 => (Policy::ConsistencyFirst, true),
            6 => (Policy::ConsistencyFirst, false),
            7 => (Policy::AvailabilityFirst, true),
            8 => (Policy::AvailabilityFirst, false),
            _ => (Policy::Manual, false),
        };
        let mut weights = [0; 12];
        for weight in &mut weights {
            *weight = if random.chance(30) { 0 } else { 1 + random.below(10) };
        }
        Shape {
            policy,
            arbiter,
            default_primary: random.chance(40).then(|| random.below(2)),
            failback: random.chance(40),
            fresh: random.chance(20),
            forces: random.chance(10),
            commands: random.chance(70),
            weights,
            fault_every: (400 + random.below(6000) as u64) * MS,
            command_every: (2000 + random.below(15_000) as u64) * MS,
            step_failures: if random.chance(50) { random.below(25) } else { 0 },
            write_failures: if random.chance(30) { random.below(15) } else { 0 },
            beat_loss: if random.chance(50) { random.below(40) } else { 0 },
            trouble: (40 + random.below(100) as u64) * SECOND,
            clock_stops: random.chance(50),
            paths: 1 + random.below(3),
        }
    }

    pub fn config(&self, node: usize) -> Config {
        let mut config = Config::new(id(node), id(1 - node));
        config.policy = self.policy;
        config.arbiter = self.arbiter;
        config.default_primary = self.default_primary.map(id);
        config.failback_after = self.failback.then_some(Duration::from_secs(8));
        config.budget = Budget { count: 3, period: Duration::from_secs(30) };
        config
    }
}
