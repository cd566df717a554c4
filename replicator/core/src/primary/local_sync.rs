//! Syncs of this node's own files: for callers, and to see stores through shared mappings.
//!
//! A store to a page that is writable through a mapping is silent. A local sync makes the pages read-only again, so that what
//! was stored before it can be read after it, and what is stored later is told.

use alloc::vec::Vec;

use crate::action::Action;
use crate::dirty::{FileMarks, Syncing, WaiterId};
use crate::event::SyncScope;
use crate::ids::{Errno, FileId, LocalSyncId, Time, VolumeId};

use super::waiter::WaitScope;
use super::{Primary, RETRY};

/// A sync of this node's own files under way.
#[derive(Debug)]
pub(super) struct LocalSync {
    /// Files with stores through mappings that it makes visible; ascending.
    files: Vec<FileId>,
    caller: Option<WaiterId>,
    /// The first sync of this volume.
    protects: Option<VolumeId>,
}

/// What is left to do until stores through mappings that were made before this node was started, or of which nothing is known any
/// more, are told like all others.
#[derive(Debug)]
pub(super) enum Protection {
    /// The volume is to be synced at this time.
    Due(Time),
    /// It is being synced, with this number.
    Running(LocalSyncId),
}

impl Primary {
    /// Order a local sync. Stores through mappings that are known by now are covered by it.
    pub(super) fn sync_local(&mut self, scope: SyncScope, caller: Option<WaiterId>) -> LocalSyncId {
        self.numbers.sync = self.numbers.sync.next();
        let sync = self.numbers.sync;
        let mut files = Vec::new();
        for file in self.files_in(match scope {
            SyncScope::File { file, data_only } => WaitScope::File(file, data_only),
            SyncScope::Volume(volume) => WaitScope::Volume(volume),
        }) {
            let Some(marks) = self.marks.get_mut(file) else { continue };
            if marks.needs_sync() {
                let (stored, lost) = (marks.mapped.take(), core::mem::take(&mut marks.lost));
                marks.syncing.push(Syncing { sync, stored, lost });
            }
            if !marks.syncing.is_empty() {
                files.push(file);
            }
        }
        self.syncs.insert(sync, LocalSync { files, caller, protects: None });
        self.out.push(Action::SyncLocal { sync, scope });
        sync
    }

    pub(super) fn on_local_synced(&mut self, sync: LocalSyncId, result: Result<(), Errno>) {
        let Some(LocalSync { files, caller, protects }) = self.syncs.remove(&sync) else { return };
        if let Some(volume) = protects {
            self.protected(volume, sync, result);
        }
        for file in files {
            match result {
                Ok(()) => self.mapped_synced(file, sync),
                Err(_) => self.mapped_not_synced(file, sync),
            }
        }
        if let Some(caller) = caller.and_then(|id| self.waiters.get_mut(&id)?.caller.as_mut()) {
            caller.local = Some(result);
            self.review = true;
        }
    }

    /// A local sync with that number has ended well: the stores it covers can be read now.
    fn mapped_synced(&mut self, file: FileId, sync: LocalSyncId) {
        let Some(marks) = self.marks.get_mut(file) else { return };
        let mut lost = false;
        // A sync that began later covers the stores of all that began before.
        for syncing in marks.syncing.extract_if(.., |syncing| syncing.sync <= sync) {
            marks.dirty.insert_all(&syncing.stored);
            lost |= syncing.lost;
        }
        for wait in marks.waits.iter_mut().filter(|wait| wait.mapped_sync <= sync) {
            let stored = wait.mapped.take();
            wait.wanted.insert_all(&stored);
        }
        if lost {
            self.mark_compare(file, false);
        }
        self.finish_waits(file);
        self.requeue(file);
    }

    /// A local sync with that number has failed: the stores it was to cover wait for another one.
    fn mapped_not_synced(&mut self, file: FileId, sync: LocalSyncId) {
        let covers = |(later, ordered): (&LocalSyncId, &LocalSync)| {
            ordered.files.binary_search(&file).is_ok().then_some(*later)
        };
        let later = self.syncs.range(sync..).find_map(covers);
        let Some(marks) = self.marks.get_mut(file) else { return };
        for wait in marks.waits.iter_mut().filter(|wait| wait.mapped_sync == sync) {
            wait.mapped_sync = sync.next();
        }
        if let Some(later) = later {
            // It covers them, too: its caller, whose marks may not be taken yet, relies on that.
            let failed = marks.syncing.iter_mut().filter(|syncing| syncing.sync == sync);
            failed.for_each(|syncing| syncing.sync = later);
            return;
        }
        for syncing in marks.syncing.extract_if(.., |syncing| syncing.sync == sync) {
            marks.mapped.insert_all(&syncing.stored);
            marks.lost |= syncing.lost;
        }
        if self.session.is_some() {
            self.queues.mapped.insert((self.now.after(RETRY), file));
        }
        self.requeue(file);
    }

    /// Pages that were stored to before this node was started are writable: further stores to them are silent until a sync.
    /// Nothing is read for the peer before that sync.
    pub(super) fn protect_volumes(&mut self) {
        let due = |protection: &Protection| matches!(protection, Protection::Due(at) if *at <= self.now);
        let volumes = self.unprotected.iter().filter(|(_, protection)| due(protection));
        for volume in volumes.map(|(volume, _)| *volume).collect::<Vec<_>>() {
            let sync = self.sync_local(SyncScope::Volume(volume), None);
            self.unprotected.insert(volume, Protection::Running(sync));
            if let Some(ordered) = self.syncs.get_mut(&sync) {
                ordered.protects = Some(volume);
            }
        }
    }

    /// All volumes are to be synced before anything is read for the peer, which makes all pages read-only.
    pub(super) fn unprotect(&mut self) {
        let volumes = self.config.volumes.iter();
        self.unprotected = volumes.map(|volume| (volume.volume, Protection::Due(self.now))).collect();
    }

    fn protected(&mut self, volume: VolumeId, sync: LocalSyncId, result: Result<(), Errno>) {
        // Another one may have been found necessary after it had begun.
        if matches!(self.unprotected.get(&volume), Some(Protection::Running(running)) if *running == sync) {
            self.unprotected.remove(&volume);
            if result.is_err() {
                self.unprotected.insert(volume, Protection::Due(self.now.after(RETRY)));
            }
        }
    }

    pub(super) fn protection_deadline(&self) -> Option<Time> {
        let due = self.unprotected.values().filter_map(|protection| match protection {
            Protection::Due(at) => Some(*at),
            Protection::Running(_) => None,
        });
        due.min()
    }

    /// Stores through mappings are sent a while after they were seen, following a local sync.
    pub(super) fn sync_mapped(&mut self) {
        while let Some(&(due, file)) = self.queues.mapped.first() {
            if due > self.now {
                break;
            }
            self.queues.mapped.pop_first();
            let stored = self.marks.get(file).is_some_and(FileMarks::needs_sync);
            if stored && self.is_known(file) {
                self.sync_local(SyncScope::File { file, data_only: true }, None);
            }
        }
    }
}
