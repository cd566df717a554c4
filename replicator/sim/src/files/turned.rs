//! The tree of a copy, on a node that becomes the primary: the same names and bytes, under numbers of its own.

use std::collections::BTreeMap;

use replicator_core::ids::FileKind;

use super::{Attributes, Cells, DurableUpto, File, Files, at, root_of};
use crate::replica::{DISTURBED, Node, Replica};

impl Files {
    /// The copy's tree, and which of its nodes is which file. Versions, names and the numbers that tell files apart go on from those of `former`,
    /// the primary's until now. What was durable of each file has the version [`Files::turned_at`] says.
    pub fn of_copy(copy: &Replica, former: &Files) -> (Files, BTreeMap<u64, u64>) {
        let mut files = Files {
            files: BTreeMap::new(),
            version: former.version + 2,
            names: former.names + 1,
            next_uid: former.next_uid,
            uncommitted: Default::default(),
        };
        let mut inodes = BTreeMap::new();
        for (volume, root) in copy.roots() {
            let first = root_of(volume);
            let mut next = first;
            let mut queue = vec![root];
            while let Some(node) = queue.pop() {
                if inodes.contains_key(&node) {
                    continue;
                }
                inodes.insert(node, next);
                next += 1;
                queue.extend(copy.nodes[&node].entries.values());
            }
        }
        for (node, inode) in &inodes {
            let file = files.turned(&copy.nodes[node], &inodes);
            files.files.insert(*inode, file);
        }
        let named: Vec<u64> = files.files.values().flat_map(|file| file.entries.values()).copied().collect();
        for inode in named {
            files.files.get_mut(&inode).unwrap().links += 1;
        }
        for (volume, _) in copy.roots() {
            files.files.get_mut(&root_of(volume)).unwrap().links = 1;
        }
        files.note_names();
        (files, inodes)
    }

    /// The version of what was durable when this tree was taken from a copy, right after that.
    pub fn turned_at(&self) -> u64 {
        self.version - 1
    }

    fn turned(&mut self, node: &Node, inodes: &BTreeMap<u64, u64>) -> File {
        let (durable, now) = (self.version - 1, self.version);
        let mtime = if node.attributes.mtime == DISTURBED { now } else { node.attributes.mtime };
        let mut file = File {
            uid: self.next_uid,
            kind: node.kind,
            cells: node.durable_cells.clone(),
            attributes: Attributes { mode: node.attributes.mode, mtime },
            entries: BTreeMap::new(),
            links: 0,
            named: true,
            open: false,
            stored_pages: Default::default(),
            cell_history: Vec::new(),
            mode_history: vec![(durable, node.durable_mode), (now, node.attributes.mode)],
            durable: DurableUpto { content: durable, mode: durable },
        };
        self.next_uid += 1;
        file.note_cells(durable);
        file.cells.clone_from(&node.cells);
        file.note_cells(now);
        for (name, child) in &node.entries {
            file.entries.insert(String::from_utf8_lossy(name).into_owned(), inodes[child]);
        }
        file
    }
}

impl File {
    /// What is on the disk for certain: content and mode.
    pub fn on_disk(&self) -> (Cells, u64) {
        let content = self.durable.content;
        let cells = self.cell_history.iter().map_while(|cells| *at(cells, content)).collect();
        (cells, *at(&self.mode_history, self.durable.mode))
    }

    pub fn is_regular(&self) -> bool {
        self.kind == FileKind::Regular
    }
}
