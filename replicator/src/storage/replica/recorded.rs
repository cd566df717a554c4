//! What of the map outlives a crash: a register follows it ([`crate::storage::register`]).

use replicator_core::ids::FileId;

use super::Replica;
use crate::storage::register::Entry;

impl Replica {
    /// All that the map says; from now on its changes are collected. `None`: it is not whole, because a comparison of the trees or a move of directories is
    /// under way.
    #[must_use]
    pub fn record(&self) -> Option<Vec<Entry>> {
        let _namespace = self.lock_namespace();
        if self.is_resyncing() || !self.detached().is_empty() {
            return None;
        }
        Some(self.map().record())
    }

    /// What has changed in the map since the last call. All that was applied before is in it.
    #[must_use]
    pub fn take_news(&self) -> Vec<Entry> {
        self.map().take_news()
    }

    /// Nobody follows the map any more.
    pub fn end_record(&self) {
        self.map().end_record();
    }

    /// These were on record and are not there, after a crash: what lists name of them until [`Replica::end_resync`] is made anew, and the primary does
    /// not know the rest.
    pub fn miss(&self, files: Vec<FileId>) {
        let mut map = self.map();
        files.iter().for_each(|file| map.note_deleted(*file));
        drop(map);
        *self.missing() = files;
    }

    pub(super) fn forget_missing(&self) {
        let missing = std::mem::take(&mut *self.missing());
        let mut map = self.map();
        missing.into_iter().for_each(|file| map.forget_deleted(file));
    }
}
