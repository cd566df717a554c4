//! Files whose content comes behind their names, or may: those that got their first name (O_TMPFILE), or were made anew by the
//! peer. They may have been synced before that. Who syncs a directory that names one relies on the content, too, until a
//! barrier has covered it.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::ids::{FileId, Sequence};

/// What is known of one such file.
#[derive(Default, Debug)]
pub(super) struct Fresh {
    /// The directories that name it, or did.
    pub directories: BTreeSet<FileId>,
    /// Last position of the stream when its content was found to come behind its name: a barrier before it does not cover
    /// the content. `None`: that was not found, or not again since a barrier covered it.
    since: Option<Sequence>,
    /// Lists up to this position name it, and the peer may yet say that it made the file anew for one of them. Whatever names
    /// it meanwhile names the new one.
    doubted: Option<Sequence>,
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct FreshFiles(BTreeMap<FileId, Fresh>);

impl FreshFiles {
    /// The files whose content comes behind their names.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Fresh)> {
        self.0.iter().filter(|(_, fresh)| fresh.since.is_some()).map(|(file, fresh)| (*file, fresh))
    }

    /// Whether the peer may yet say of a file that it made it anew for a list that was sent.
    pub fn is_in_doubt(&self) -> bool {
        self.0.values().any(|fresh| fresh.doubted.is_some())
    }

    /// The directory names a file that is new there at this position of the stream.
    pub fn begin(&mut self, file: FileId, directory: FileId, since: Sequence) {
        let fresh = self.0.entry(file).or_default();
        fresh.since = Some(since);
        fresh.directories.insert(directory);
    }

    /// The directory names the file: who syncs it relies on the content, if that comes behind the name, or is found to.
    pub fn name(&mut self, file: FileId, directory: FileId) {
        if let Some(fresh) = self.0.get_mut(&file) {
            fresh.directories.insert(directory);
        }
    }

    /// The directory's list, sent up to that position, names a file that is known from before: the answer may say that it was
    /// made anew.
    pub fn doubt(&mut self, file: FileId, directory: FileId, list: Sequence) {
        let fresh = self.0.entry(file).or_default();
        fresh.doubted = Some(list);
        fresh.directories.insert(directory);
    }

    /// The list whose last part has that position is answered, and with it what it says of the file.
    pub fn end_doubt(&mut self, file: FileId, list: Sequence) {
        if let Some(fresh) = self.0.get_mut(&file) {
            fresh.doubted = fresh.doubted.filter(|doubted| *doubted > list);
            self.tidy(file);
        }
    }

    /// A barrier at that position covers the content of the file.
    pub fn cover(&mut self, file: FileId, barrier: Sequence) {
        if let Some(fresh) = self.0.get_mut(&file) {
            fresh.since = fresh.since.filter(|since| *since >= barrier);
            self.tidy(file);
        }
    }

    /// The file has no name any more, or the number belongs to another one.
    pub fn forget(&mut self, file: FileId) {
        self.0.remove(&file);
    }

    fn tidy(&mut self, file: FileId) {
        if self.0.get(&file).is_some_and(|fresh| fresh.since.is_none() && fresh.doubted.is_none()) {
            self.0.remove(&file);
        }
    }
}
