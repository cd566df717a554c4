//! A change of roles: what a copy knows of the primary's files goes to the next primary, and the former primary's files become the copy.

use std::collections::{HashMap, HashSet};

use replicator_core::ids::{FileId, FileKind};
use replicator_core::succession::CopyOf;

use super::map::Local;
use super::{Replica, ReplicaError};
use crate::volume::FileHandle;

/// The files of a node that was the primary, until it is known which is which of the new primary's.
#[derive(Debug, Default)]
pub struct Former {
    /// By its own number of then, which is the one here.
    files: HashMap<FileId, Local>,
    /// Those that the other node is sure to know.
    vouched: HashSet<FileId>,
    /// Those of them whose new number was not told yet.
    missing: HashSet<FileId>,
}

impl Former {
    /// A file that is there.
    pub fn see(&mut self, file: FileId, kind: FileKind, handle: FileHandle) {
        self.files.insert(file, Local::new(file.inode, kind, handle));
    }

    /// All files that are there.
    pub fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.files.keys().copied()
    }

    /// The other node is sure to know these.
    pub fn vouch_for(&mut self, files: impl Iterator<Item = FileId>) {
        self.vouched.extend(files);
    }
}

impl Replica {
    /// This node was the primary until now. To be called before anything is applied.
    pub fn leave(&self, former: Former) {
        *self.former() = Some(former);
    }

    /// All that is here, and what it is the copy of. `None`: that is not known of all of it.
    #[must_use]
    pub fn inheritance(&self) -> Option<Vec<CopyOf>> {
        let _namespace = self.lock_namespace();
        let map = self.map();
        if !self.is_whole() || map.deleted().next().is_some() {
            return None;
        }
        let copy = |(original, local): (FileId, &Local)| CopyOf {
            original,
            here: FileId { inode: local.inode, ..original },
            kind: local.kind,
        };
        Some(map.iter().map(copy).collect())
    }

    /// The primary is about to say which of its files are which of those that this node had as the primary.
    pub fn begin_succession(&self) {
        let mut former = self.former().take();
        self.begin_resync();
        self.map().forget_hints();
        if let Some(former) = &mut former {
            former.missing.clone_from(&former.vouched);
        }
        *self.former() = former;
    }

    /// It says so of some. What is not here any more is made anew when a list names it, and so told. `last`: that was all of them.
    ///
    /// # Errors
    /// [`ReplicaError::Disowned`]: the two do not know the same, and all is to be compared.
    pub fn take_over(&self, copies: &[CopyOf], last: bool) -> Result<(), ReplicaError> {
        let mut kept = self.former();
        let Some(former) = &mut *kept else {
            let file = copies.first().map_or(FileId::default(), |copy| copy.here);
            return Err(ReplicaError::Malformed { file, what: "this node was not the primary" });
        };
        for copy in copies {
            if self.map().is_root(copy.here) {
                former.missing.remove(&copy.original);
                continue;
            }
            match former.files.get(&copy.original).filter(|local| local.kind == copy.kind) {
                Some(local) => {
                    self.bind(copy.here, local.clone());
                    former.missing.remove(&copy.original);
                }
                None => self.map().note_deleted(copy.here),
            }
        }
        if !last {
            return Ok(());
        }
        let disowned = former.missing.iter().next().copied();
        let count = former.missing.len();
        *kept = None;
        match disowned {
            Some(file) => Err(ReplicaError::Disowned { file, count }),
            None => Ok(()),
        }
    }
}
