//! What of the map outlives a crash: a register follows it ([`crate::storage::register`]).

use std::collections::HashSet;

use replicator_core::ids::FileId;

use super::{Replica, ReplicaError};
use crate::storage::register::Entry;

/// A copy that goes on from a register.
#[derive(Debug)]
pub(super) struct Recovery {
    /// On record, and not there: made anew when a list names it.
    missing: HashSet<FileId>,
    /// Those of them that a frame was about meanwhile, which did nothing.
    passed_over: HashSet<FileId>,
}

impl Replica {
    /// All that the map says; from now on its changes are collected. `None`: it is not whole, because a comparison of the trees or a move of directories is
    /// under way, or an operation is being applied.
    #[must_use]
    pub fn record(&self) -> Option<Vec<Entry>> {
        let _namespace = self.namespace.try_lock().ok()?;
        self.is_whole().then(|| self.map().record())
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

    /// The map is what was on record before a crash, without these, which are not there. Until [`Replica::end_resync`] nothing that is not on record is taken
    /// for a file of the primary's: that may know what the crash took back, and would not compare it.
    pub fn recover(&self, missing: Vec<FileId>) {
        let mut map = self.map();
        missing.iter().for_each(|file| map.note_deleted(*file));
        drop(map);
        let (missing, passed_over) = (missing.into_iter().collect(), HashSet::new());
        *self.recovery() = Some(Recovery { missing, passed_over });
    }

    pub(super) fn is_recovering(&self) -> bool {
        self.recovery().is_some()
    }

    /// The file is there now, or it is told that it is gone.
    pub(super) fn found(&self, file: FileId) {
        if let Some(recovery) = &mut *self.recovery() {
            recovery.missing.remove(&file);
            recovery.passed_over.remove(&file);
        }
    }

    /// A frame is about a file that has no copy.
    pub(super) fn pass_over(&self, file: FileId) {
        if let Some(recovery) = &mut *self.recovery()
            && recovery.missing.contains(&file)
        {
            recovery.passed_over.insert(file);
        }
    }

    /// All that the primary knows was named by a list: it does not know the rest of what is missing.
    pub(super) fn end_recovery(&self) -> Result<(), ReplicaError> {
        let Some(recovery) = self.recovery().take() else { return Ok(()) };
        if let Some(file) = recovery.passed_over.iter().next() {
            return Err(ReplicaError::Lost { file: *file });
        }
        let mut map = self.map();
        recovery.missing.into_iter().for_each(|file| map.forget_deleted(file));
        Ok(())
    }
}
