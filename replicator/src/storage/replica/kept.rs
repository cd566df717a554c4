//! What of the map outlives the daemon, if it is stopped in order.

use replicator_core::ids::{FileId, FileKind};

use super::Replica;
use super::map::Local;
use crate::volume::{FileHandle, Volume};

/// Which files of a volume here are copies of which of the primary's.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Copies {
    /// Inode numbers here, and of the primary's files; ascending.
    pub files: Vec<(u64, u64)>,
    /// Files of the primary whose copy was deleted without the primary's knowledge.
    pub deleted: Vec<u64>,
}

/// A file here that is a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopiedFile {
    /// The primary's inode number.
    pub original: u64,
    /// The number here.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Its handle.
    pub handle: FileHandle,
}

impl Replica {
    /// Which files are copies of which, volume by volume. `None`: the map is not whole, because a comparison of the trees or a
    /// move of directories is under way.
    #[must_use]
    pub fn copies(&self, volumes: &[impl AsRef<Volume>]) -> Option<Vec<Copies>> {
        let _namespace = self.lock_namespace();
        if !self.is_whole() {
            return None;
        }
        let map = self.map();
        let of = |volume: &Volume| {
            let mut files: Vec<_> = map
                .iter()
                .filter(|(file, _)| file.volume == volume.id)
                .map(|(file, local)| (local.inode, file.inode))
                .collect();
            files.sort_unstable();
            let deleted = map.deleted().filter(|file| file.volume == volume.id).map(|file| file.inode);
            Copies { files, deleted: deleted.collect() }
        };
        Some(volumes.iter().map(|volume| of(volume.as_ref())).collect())
    }

    /// Take over what an earlier run knew of a volume. To be called before anything is applied.
    pub fn restore(&self, volume: &Volume, files: Vec<CopiedFile>, deleted: Vec<u64>) {
        let mut map = self.map();
        for CopiedFile { original, inode, kind, handle } in files {
            let (file, local) =
                (FileId { volume: volume.id, inode: original }, Local::new(inode, kind, handle));
            if inode == volume.root_inode {
                map.bind_root(file, local);
            } else {
                let _ = map.bind(file, local);
            }
        }
        deleted.into_iter().for_each(|inode| map.note_deleted(FileId { volume: volume.id, inode }));
    }
}
