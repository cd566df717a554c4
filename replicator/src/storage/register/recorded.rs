//! What a register says, all of it.

use std::collections::{HashMap, HashSet};

use replicator_core::ids::{FileId, FileKind, VolumeId};
use replicator_core::lineage::GenerationId;
use replicator_core::resume::StreamId;

use super::{Entry, Tag};

/// A file here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Its inode number.
    pub here: u64,
    /// What it is.
    pub kind: FileKind,
    /// Of its handle.
    pub tag: Tag,
}

/// See the module. Files are the primary's.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recorded {
    /// What is held is of this stream.
    pub stream: Option<StreamId>,
    /// The node's state had this generation.
    pub generation: Option<GenerationId>,
    /// Up to this moment, in nanoseconds since 1970, the node may have changed its files itself.
    pub until: i64,
    /// Those that have a copy.
    pub copies: HashMap<FileId, Copy>,
    /// Those whose copy was deleted without the primary's knowledge.
    pub deleted: HashSet<FileId>,
    /// What is the copy of what.
    originals: HashMap<(VolumeId, u64), FileId>,
}

impl Recorded {
    /// This is so from now on.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Bound { file, here, kind, tag } => {
                self.deleted.remove(&file);
                self.unbind(file);
                if let Some(other) = self.originals.insert((file.volume, here), file) {
                    self.copies.remove(&other);
                }
                self.copies.insert(file, Copy { here, kind, tag });
            }
            Entry::Unbound(file) => {
                self.unbind(file);
                self.deleted.remove(&file);
            }
            Entry::Deleted(file) => {
                self.unbind(file);
                self.deleted.insert(file);
            }
            Entry::Stream(stream) => self.stream = Some(stream),
            Entry::Generation(generation) => self.generation = Some(generation),
            Entry::Until(moment) => self.until = moment,
        }
    }

    fn unbind(&mut self, file: FileId) {
        if let Some(before) = self.copies.remove(&file) {
            self.originals.remove(&(file.volume, before.here));
        }
    }

    /// What the file with that inode number here is the copy of.
    #[must_use]
    pub fn original(&self, volume: VolumeId, here: u64) -> Option<FileId> {
        self.originals.get(&(volume, here)).copied()
    }
}
