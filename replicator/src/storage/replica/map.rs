//! Which file here is the copy of which file of the primary.

use std::collections::{HashMap, HashSet};

use replicator_core::ids::{FileId, FileKind, VolumeId};

use crate::storage::register::{Entry, Tag};
use crate::volume::FileHandle;

/// A file of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Local {
    pub(super) inode: u64,
    pub(super) kind: FileKind,
    pub(super) handle: FileHandle,
    /// Of the handle: made once, because a register copies all of them at once.
    tag: Tag,
}

/// The map, one to one in both directions.
#[derive(Debug, Default)]
pub(super) struct FileMap {
    files: HashMap<FileId, Local>,
    inodes: HashMap<(VolumeId, u64), FileId>,
    roots: HashMap<VolumeId, FileId>,
    /// Files whose copy was deleted though the primary may hold them for known: it would not compare what is
    /// adopted for them, so they are made anew, which it is told.
    deleted: HashSet<FileId>,
    /// Directories as the last session knew them: no more than a hint where one that was moved may be found.
    previous: HashMap<FileId, Local>,
    /// What has changed since it was taken last, if somebody keeps a register.
    news: Option<Vec<Entry>>,
}

impl Local {
    pub(super) fn new(inode: u64, kind: FileKind, handle: FileHandle) -> Local {
        let tag = Tag::of(&handle);
        Local { inode, kind, handle, tag }
    }

    /// That this is the copy of `file`.
    fn entry(&self, file: FileId) -> Entry {
        Entry::Bound { file, here: self.inode, kind: self.kind, tag: self.tag }
    }
}

impl FileMap {
    pub(super) fn get(&self, file: FileId) -> Option<&Local> {
        self.files.get(&file)
    }

    /// What the local inode is a copy of.
    pub(super) fn owner(&self, volume: VolumeId, inode: u64) -> Option<FileId> {
        self.inodes.get(&(volume, inode)).copied()
    }

    pub(super) fn is_root(&self, file: FileId) -> bool {
        self.roots.get(&file.volume) == Some(&file)
    }

    /// Make `local` the copy of `file`. Whatever either of them was bound to before is not bound any more; those files
    /// of the primary are returned for their descriptors to be closed.
    #[must_use]
    pub(super) fn bind(&mut self, file: FileId, local: Local) -> [Option<FileId>; 2] {
        self.deleted.remove(&file);
        self.note(|| local.entry(file));
        let displaced = self.inodes.insert((file.volume, local.inode), file).filter(|&other| other != file);
        if let Some(other) = displaced {
            self.files.remove(&other);
        }
        let inode = local.inode;
        let before = self.files.insert(file, local).filter(|before| before.inode != inode);
        if let Some(before) = &before {
            self.inodes.remove(&(file.volume, before.inode));
        }
        [displaced, Some(file)]
    }

    /// Bind a root, which stays bound in all sessions.
    pub(super) fn bind_root(&mut self, file: FileId, local: Local) {
        if let Some(before) = self.roots.insert(file.volume, file)
            && before != file
        {
            self.unbind(before);
        }
        let _ = self.bind(file, local);
    }

    /// Forget a file of the primary.
    pub(super) fn unbind(&mut self, file: FileId) -> Option<Local> {
        let local = self.files.remove(&file)?;
        self.inodes.remove(&(file.volume, local.inode));
        self.note(|| Entry::Unbound(file));
        Some(local)
    }

    /// Forget a file of the primary that the primary does not know to be gone here.
    pub(super) fn unbind_deleted(&mut self, file: FileId) {
        if self.unbind(file).is_some() {
            self.note_deleted(file);
        }
    }

    /// As a former run noted by [`FileMap::unbind_deleted`].
    pub(super) fn note_deleted(&mut self, file: FileId) {
        self.deleted.insert(file);
        self.note(|| Entry::Deleted(file));
    }

    /// The primary does not hold it for known.
    pub(super) fn forget_deleted(&mut self, file: FileId) {
        if self.deleted.remove(&file) {
            self.note(|| Entry::Unbound(file));
        }
    }

    fn note(&mut self, entry: impl FnOnce() -> Entry) {
        if let Some(news) = &mut self.news {
            news.push(entry());
        }
    }

    /// All that it says. From now on what changes is collected for [`FileMap::take_news`].
    pub(super) fn record(&mut self) -> Vec<Entry> {
        self.news.get_or_insert_default();
        let bound = self.files.iter().map(|(file, local)| local.entry(*file));
        bound.chain(self.deleted.iter().map(|file| Entry::Deleted(*file))).collect()
    }

    /// What has changed since the last call, if it is collected.
    pub(super) fn take_news(&mut self) -> Vec<Entry> {
        self.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nobody keeps a register any more.
    pub(super) fn end_record(&mut self) {
        self.news = None;
    }

    pub(super) fn deleted(&self) -> impl Iterator<Item = FileId> {
        self.deleted.iter().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FileId, &Local)> {
        self.files.iter().map(|(file, local)| (*file, local))
    }

    /// Whether the last copy of a file was deleted without the primary's knowledge.
    pub(super) fn is_deleted(&self, file: FileId) -> bool {
        self.deleted.contains(&file)
    }

    /// Forget everything but the roots; directories become hints.
    pub(super) fn begin_session(&mut self) {
        let files = std::mem::take(&mut self.files);
        self.inodes.clear();
        self.deleted.clear();
        self.news = None;
        for (file, local) in files {
            if self.is_root(file) {
                let _ = self.bind(file, local);
            } else if local.kind == FileKind::Directory {
                self.previous.insert(file, local);
            }
        }
    }

    /// Take the hint about a directory.
    pub(super) fn take_hint(&mut self, file: FileId) -> Option<Local> {
        self.previous.remove(&file)
    }

    /// Hints are worth nothing once every directory was listed.
    pub(super) fn forget_hints(&mut self) {
        self.previous = HashMap::new();
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::register::Recorded;

    fn file(inode: u64) -> FileId {
        FileId { volume: VolumeId(3), inode }
    }

    /// A register that follows says the same as the map.
    #[test]
    fn what_changes_is_told() {
        let mut map = FileMap::default();
        map.bind_root(file(2), local(100, FileKind::Directory));
        let _ = map.bind(file(3), local(101, FileKind::Regular));
        let mut recorded = Recorded::default();
        map.record().into_iter().for_each(|entry| recorded.apply(entry));
        let _ = map.bind(file(4), local(101, FileKind::Regular));
        let _ = map.bind(file(5), local(102, FileKind::Regular));
        map.unbind_deleted(file(4));
        let _ = map.bind(file(6), local(103, FileKind::Regular));
        let _ = map.bind(file(6), local(104, FileKind::Regular));
        map.unbind_deleted(file(5));
        map.forget_deleted(file(5));
        map.take_news().into_iter().for_each(|entry| recorded.apply(entry));
        let mut same = Recorded::default();
        map.record().into_iter().for_each(|entry| same.apply(entry));
        assert_eq!(recorded, same);
        assert_eq!(recorded.copies.len(), 2);
        assert_eq!(map.take_news(), []);
        map.begin_session();
        let _ = map.bind(file(9), local(105, FileKind::Regular));
        assert_eq!(map.take_news(), []);
    }

    fn local(inode: u64, kind: FileKind) -> Local {
        Local::new(inode, kind, FileHandle::from_parts(1, &inode.to_le_bytes()))
    }

    #[test]
    fn both_directions_stay_one_to_one() {
        let mut map = FileMap::default();
        let _ = map.bind(file(1), local(10, FileKind::Regular));
        let _ = map.bind(file(2), local(10, FileKind::Regular));
        assert_eq!((map.get(file(1)), map.owner(VolumeId(3), 10)), (None, Some(file(2))));
        let _ = map.bind(file(2), local(11, FileKind::Regular));
        assert_eq!((map.owner(VolumeId(3), 10), map.owner(VolumeId(3), 11)), (None, Some(file(2))));
        map.unbind(file(2));
        assert_eq!((map.len(), map.owner(VolumeId(3), 11)), (0, None));
    }

    #[test]
    fn a_session_keeps_roots_and_remembers_directories() {
        let mut map = FileMap::default();
        map.bind_root(file(2), local(100, FileKind::Directory));
        let _ = map.bind(file(3), local(101, FileKind::Directory));
        let _ = map.bind(file(4), local(102, FileKind::Regular));
        map.begin_session();
        assert_eq!(map.len(), 1);
        assert_eq!(map.owner(VolumeId(3), 100), Some(file(2)));
        assert_eq!(map.take_hint(file(3)).map(|local| local.inode), Some(101));
        assert_eq!(map.take_hint(file(4)), None);
        map.bind_root(file(9), local(100, FileKind::Directory));
        assert!(map.is_root(file(9)) && map.get(file(2)).is_none());
    }
}
