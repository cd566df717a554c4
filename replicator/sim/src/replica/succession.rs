//! The copy of a node that was the primary: its files get the new primary's numbers.

use std::collections::{BTreeMap, BTreeSet};

use replicator_core::event::AppliedOutcome;
use replicator_core::ids::{Errno, FileId};
use replicator_core::succession::decode_copies;
use replicator_core::wire::header::{FLAG_MORE, Header};

use super::Replica;
use crate::files::{id, inode_of, root_of};

/// What the former primary knows of its files.
#[derive(Clone, Debug)]
pub struct Left {
    /// The node of each file.
    pub nodes: BTreeMap<u64, u64>,
    /// Files that the other node is sure to know.
    pub vouched: BTreeSet<FileId>,
    /// Those of them whose numbers were not told yet.
    pub missing: BTreeSet<FileId>,
}

impl Replica {
    /// The node was the primary.
    pub fn leave(&mut self, left: Left) {
        self.left = Some(left);
    }

    pub(super) fn begin_succession(&mut self) {
        let roots = self.roots.iter();
        self.known = roots.map(|(volume, root)| (id(root_of(*volume)), *root)).collect();
        // What has no number of the new primary's is none of its files: it is made anew.
        self.settled = self.nodes.keys().copied().collect();
        self.resyncing = true;
        if let Some(left) = &mut self.left {
            // What was lost on the way is told once more, from the beginning.
            left.missing.clone_from(&left.vouched);
        }
        self.nodes.values_mut().for_each(|node| node.late = false);
    }

    pub(super) fn bind_copies(&mut self, header: &Header, body: &[u8]) -> Result<AppliedOutcome, Errno> {
        let left = self.left.as_mut().ok_or(Errno(22))?;
        for copy in decode_copies(body).map_err(|_| Errno(74))? {
            let node = left.nodes.get(&inode_of(copy.original)).copied();
            if let Some(node) = node.filter(|node| self.nodes[node].kind == copy.kind) {
                self.known.insert(copy.here, node);
                left.missing.remove(&copy.original);
            }
        }
        let last = header.flags & FLAG_MORE == 0;
        if last && !left.missing.is_empty() {
            // The two did not know the same.
            return Err(Errno(116));
        }
        if last {
            self.left = None;
        }
        Ok(AppliedOutcome::Done)
    }
}
