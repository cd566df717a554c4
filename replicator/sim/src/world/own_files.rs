//! The files of a node's own on its machine's disk. Whatever a node writes for its next start is one of them, and goes back to
//! what the disk holds when the machine loses its power.

use replicator_core::action::StateRecord;
use replicator_core::activity::Record;
use replicator_core::checkpoint::Checkpoint;

use super::register::Register;
use super::safe_set::Base;
use crate::disk::{Journal, PowerCut, Replaced};
use crate::random::Random;

/// One node's.
#[derive(Debug)]
pub struct OwnFiles {
    pub record: Replaced<StateRecord>,
    /// There between an orderly stop and the next start.
    pub checkpoint: Replaced<Option<Checkpoint>>,
    /// What may differ from the copy, and what was recorded of that since.
    pub base: Replaced<Option<Base>>,
    pub journal: Journal<Record>,
    /// Which file of the copy is which of the primary's.
    pub register: Replaced<Option<Register>>,
}

impl OwnFiles {
    pub fn new(record: StateRecord) -> OwnFiles {
        OwnFiles {
            record: Replaced::new(record),
            checkpoint: Replaced::new(None),
            base: Replaced::new(None),
            journal: Journal::new(),
            register: Replaced::new(None),
        }
    }

    /// A node starts: what it finds is made durable before anything follows from it.
    pub fn start(&mut self) {
        self.record.settle();
        self.checkpoint.settle();
        self.base.settle();
        self.register.settle();
    }
}

impl PowerCut for OwnFiles {
    fn power_cut(&mut self, random: &mut Random) {
        self.record.power_cut(random);
        self.checkpoint.power_cut(random);
        self.base.power_cut(random);
        self.journal.power_cut(random);
        self.register.power_cut(random);
    }
}
