//! The files of a node's own on its machine's disk. Whatever a node writes for its next start is one of them, and goes back to
//! what the disk holds when the machine loses its power.

use replicator_core::action::StateRecord;
use replicator_core::checkpoint::Checkpoint;

use crate::disk::{PowerCut, Replaced};
use crate::random::Random;
use crate::saboteur::Sabotage;

/// One node's.
#[derive(Debug)]
pub struct OwnFiles {
    pub record: Replaced<StateRecord>,
    /// There between an orderly stop and the next start.
    pub checkpoint: Replaced<Option<Checkpoint>>,
}

impl OwnFiles {
    pub fn new(record: StateRecord) -> OwnFiles {
        OwnFiles { record: Replaced::new(record), checkpoint: Replaced::new(None) }
    }

    /// A node starts: what it finds is made durable before anything follows from it.
    pub fn start(&mut self, sabotage: Sabotage) {
        if sabotage == Sabotage::UnsettledStart {
            return;
        }
        self.record.settle();
        self.checkpoint.settle();
    }
}

impl PowerCut for OwnFiles {
    fn power_cut(&mut self, random: &mut Random) {
        self.record.power_cut(random);
        self.checkpoint.power_cut(random);
    }
}
