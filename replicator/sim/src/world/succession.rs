//! What outlives a change of roles: what the new primary knows of the former one's files, and what that says may differ.

use std::collections::BTreeSet;

use replicator_core::succession::{CopyOf, Inheritance, Legacy};

use super::*;
use crate::replica::Left;

impl World {
    /// What the secondary knows of the primary's files, if it was stopped in order. `meant`: which node is which file; `inodes`: what it is from now on.
    pub(super) fn inheritance(
        &self,
        meant: &BTreeMap<FileId, u64>,
        inodes: &BTreeMap<u64, u64>,
    ) -> Option<Inheritance> {
        let held = self.controller.as_ref()?.held?;
        let copies = meant.iter().filter_map(|(original, node)| {
            let here = id(*inodes.get(node)?);
            Some(CopyOf { original: *original, here, kind: self.replica.nodes.get(node)?.kind })
        });
        Some(Inheritance::new(held, copies.collect()))
    }

    /// The new primary goes on from that. Its files may have been changed in between, which is found, or it is told that it cannot be.
    pub(super) fn inherit(&mut self, inheritance: Option<Inheritance>) {
        let Some(inheritance) = inheritance else { return };
        self.primary.inherit(inheritance);
        if self.random.chance(5) {
            self.tell_primary(Event::Untold { lasting: false });
        }
    }

    /// The secondary says what of its copy may differ from what the other node had of it.
    pub(super) fn leave(&mut self, legacy: Option<(Legacy, BTreeSet<FileId>)>, nodes: BTreeMap<u64, u64>) {
        let Some((legacy, vouched)) = legacy else { return };
        let legacy = Legacy::decode(&legacy.encode()).unwrap();
        self.secondary.leave(legacy);
        self.replica.leave(Left { nodes, vouched, missing: BTreeSet::new() });
        if self.random.chance(5) {
            self.tell_secondary(Event::CopyChanged);
        }
    }
}
