//! stale-never-promotes: what decides who may take over is what the two records say. A copy whose record says that it is whole, in a
//! generation that is not older than the primary's, holds everything that anybody was told, also by the primary alone.

use super::*;

impl World {
    /// `known`: which file is which node of the copy.
    pub(in crate::world) fn check_stale(&mut self, known: &BTreeMap<FileId, u64>) {
        let (ours, theirs) = (*self.primary_disk.record.get(), *self.secondary_disk.record.get());
        let whole = matches!(theirs.data, DataState::Consistent | DataState::UpToDate);
        let older = theirs.lineage.current.number < ours.lineage.current.number;
        // In the other modes a copy is behind what callers were told, and is known to be. A primary with an older state than it had goes on
        // in a history of its own.
        if self.mode != Mode::Sync || !whole || older || self.stale {
            return;
        }
        if let Err(reason) = self.check_copy("would be promoted", known, &self.told) {
            self.fail(format!("stale-never-promotes: {ours:?} {theirs:?}: {reason}"));
        }
    }
}
