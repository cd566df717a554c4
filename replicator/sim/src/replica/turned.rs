//! The tree of a node that was the primary, as the copy that it is from now on.

use std::collections::BTreeMap;

use replicator_core::ids::{FileKind, VolumeId};

use super::Replica;
use crate::files::{Files, root_of, volume_of};

impl Replica {
    /// The copy that these files are, and which node is which of them. Nobody knows which of them is which file of the new primary's.
    pub fn of_files(files: &Files, volumes: u16) -> (Replica, BTreeMap<u64, u64>) {
        let mut copy = Replica::new(volumes);
        let mut nodes: BTreeMap<u64, u64> =
            copy.roots().map(|(volume, node)| (root_of(volume), node)).collect();
        for (inode, file) in files.files.iter().filter(|(_, file)| file.links > 0) {
            nodes.entry(*inode).or_insert_with(|| copy.make(volume_of(*inode), file.kind));
        }
        for (inode, number) in &nodes {
            let file = &files.files[inode];
            let named = file.entries.iter().map(|(name, child)| (name.clone().into_bytes(), nodes[child]));
            let entries: BTreeMap<Vec<u8>, u64> = named.collect();
            let (cells, mode) = file.on_disk();
            let node = copy.nodes.get_mut(number).unwrap();
            node.attributes = file.attributes;
            (node.durable_mode, node.durable_entries, node.entries) = (mode, entries.clone(), entries);
            if node.kind == FileKind::Regular {
                (node.cells, node.durable_cells) = (file.cells.clone(), cells);
            }
        }
        copy.restart();
        copy.settled.clear();
        (copy, nodes)
    }

    /// The root of each volume.
    pub fn roots(&self) -> impl Iterator<Item = (VolumeId, u64)> + use<> {
        self.roots.clone().into_iter()
    }

    /// Which node is which file of the primary's, as it was known last, also where the daemon was started since.
    pub fn meant(&self) -> BTreeMap<replicator_core::ids::FileId, u64> {
        if self.known.is_empty() { self.remembered.clone() } else { self.known.clone() }
    }
}
