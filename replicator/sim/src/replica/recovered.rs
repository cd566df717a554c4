//! The copy after a crash of its node: which file is which, as it is on record, as far as that is still so.

use std::collections::{BTreeMap, BTreeSet};

use replicator_core::ids::FileId;

use super::Replica;

impl Replica {
    /// Go on from that. Returns the files that are on record and not there, and the directories with names that are there and not on record.
    pub fn recover(&mut self, recorded: &BTreeMap<FileId, u64>) -> Vec<FileId> {
        let mut reached = BTreeSet::new();
        let mut left: Vec<u64> = self.roots.values().copied().collect();
        while let Some(node) = left.pop() {
            if reached.insert(node) {
                left.extend(self.nodes[&node].entries.values());
            }
        }
        let (known, missing): (BTreeMap<FileId, u64>, BTreeMap<FileId, u64>) =
            recorded.iter().map(|(file, node)| (*file, *node)).partition(|(_, node)| reached.contains(node));
        let bound: BTreeSet<u64> = known.values().copied().collect();
        let has_strays = |node: &u64| self.nodes[node].entries.values().any(|child| !bound.contains(child));
        let strays = known.iter().filter(|(_, node)| has_strays(node)).map(|(file, _)| *file);
        self.missing = missing.keys().copied().collect();
        let odd = strays.chain(missing.keys().copied()).collect();
        self.known = known;
        // What has no number is none of the primary's files: it is made anew.
        self.settled = self.nodes.keys().copied().collect();
        odd
    }

    /// Whether everything that is known to be a file of the primary's is there.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }
}
