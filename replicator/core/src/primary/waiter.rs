//! What waits until certain marks are on their way to the peer: a caller, or an epoch of the resync.
//!
//! A caller's marks are those present when it asked; later ones do not delay it. Its way, while both nodes are mirrored:
//!
//! ```text
//!            directories marked      lists answered       its marks are       a Barrier frame      BarrierDone, or
//!            before are listed       by the peer          on their way        covers it            Ack (semi-sync)
//!  Held --> Names -----------------> Answers -----------> Content ----------> Ready -------------> Sent --------> Done
//!                                                           (on this node the local sync runs beside all this)
//! ```

use alloc::vec::Vec;

use crate::dirty::{FileMarks, Wait, WaiterId};
use crate::event::SyncScope;
use crate::extent::ExtentSet;
use crate::ids::{Errno, FileId, LocalSyncId, Sequence, Ticket, Time, VolumeId};

use super::Primary;
use super::fresh::Fresh;

/// How far a waiter is with the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nothing was begun: no peer, or not mirrored.
    Held,
    /// Waits for the listing of directories marked up to this number.
    Names(u64),
    /// Waits for the peer's answer to lists up to this position.
    Answers(Sequence),
    /// Waits for marks of so many files to be on their way.
    Content(usize),
    /// All on its way; the next barrier covers it.
    Ready,
    /// Covered by the barrier at this position.
    Sent(Sequence),
    /// The peer has it.
    Done,
}

/// Something that waits until certain marks are on their way, or at the peer.
#[derive(Debug)]
pub(super) struct Waiter {
    /// A caller, or an epoch of the resync, which nobody waits for.
    pub caller: Option<Caller>,
    pub scope: WaitScope,
    pub stage: Stage,
    /// In the count of running time.
    pub requested_awake: Time,
    /// Files that are new in the directory it is for: it waits for their content, too.
    pub fresh: Vec<FileId>,
    /// What was known to be listed when it began to wait for names.
    pub found_marks: u64,
}

/// Whose marks are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitScope {
    /// A file; `true`: data suffice.
    File(FileId, bool),
    /// All files of a volume.
    Volume(VolumeId),
    /// All files.
    Everything,
}

impl WaitScope {
    /// Whether a local sync of this scope is one of the file, too.
    fn holds(self, file: FileId) -> bool {
        match self {
            WaitScope::File(scope, _) => scope == file,
            WaitScope::Volume(volume) => file.volume == volume,
            WaitScope::Everything => true,
        }
    }
}

/// Who waits at the gate.
#[derive(Debug)]
pub(super) struct Caller {
    pub ticket: Ticket,
    pub requested: Time,
    pub sync: LocalSyncId,
    pub local: Option<Result<(), Errno>>,
    /// The peer's part cannot be done.
    pub failed: Option<Errno>,
    /// Was let go (the peer's part goes on: async).
    pub released: bool,
    /// It waited for more than the syncs: for a lost peer to be given up, or for the end of a resync.
    pub held: bool,
}

impl Waiter {
    /// What is left of it when the session is lost: a caller that still waits, held. `false`: nothing.
    pub fn on_session_lost(&mut self) -> bool {
        self.stage = Stage::Held;
        if let Some(caller) = &mut self.caller {
            caller.held = true;
        }
        self.caller.as_ref().is_some_and(|caller| !caller.released)
    }

    pub fn fail_names(&mut self, errno: Errno) {
        if let (Stage::Names(_), Some(caller)) = (self.stage, &mut self.caller) {
            caller.failed = Some(errno);
        }
    }

    pub fn waits_for_caller(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| !caller.released)
    }
}

impl Primary {
    pub(super) fn new_waiter(&mut self, scope: WaitScope) -> WaiterId {
        self.numbers.waiter += 1;
        let id = WaiterId(self.numbers.waiter);
        let waiter = Waiter {
            caller: None,
            scope,
            stage: Stage::Held,
            requested_awake: self.awake,
            fresh: Vec::new(),
            found_marks: 0,
        };
        self.waiters.insert(id, waiter);
        id
    }

    /// Files with marks in a scope.
    pub(super) fn files_in(&self, scope: WaitScope) -> Vec<FileId> {
        let from = |volume| FileId { volume, inode: 0 };
        let to = |volume| FileId { volume, inode: u64::MAX };
        match scope {
            WaitScope::File(file, _) => self.marks.get(file).map(|_| file).into_iter().collect(),
            WaitScope::Volume(volume) => {
                self.marks.files.range(from(volume)..=to(volume)).map(|(file, _)| *file).collect()
            }
            WaitScope::Everything => self.marks.files.keys().copied().collect(),
        }
    }

    /// Take the marks that are present now as what this waiter waits for.
    pub(super) fn start_waiter(&mut self, id: WaiterId) {
        if self.session.is_none() {
            return;
        }
        let (mark, found_marks) = (self.names.last_mark(), self.names.found_marks());
        if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.stage = Stage::Names(mark);
            waiter.found_marks = found_marks;
        }
        self.advance_waiter(id);
    }

    /// Take the steps that need no data.
    pub(super) fn advance_waiter(&mut self, id: WaiterId) {
        let (Some(session), Some(waiter)) = (&self.session, self.waiters.get_mut(&id)) else { return };
        if let Stage::Names(mark) = waiter.stage
            && self.names.listed_up_to(mark)
        {
            waiter.stage = Stage::Answers(session.positions.queued);
        }
        if let Stage::Answers(position) = waiter.stage
            && self.names.unanswered.first_key_value().is_none_or(|(list, _)| *list > position)
        {
            if waiter.found_marks == self.names.found_marks() {
                self.take_content(id);
            } else {
                // A list led to others, which may bring back what it took away.
                self.start_waiter(id);
            }
        }
    }

    fn take_content(&mut self, id: WaiterId) {
        let Some(waiter) = self.waiters.get(&id) else { return };
        let scope = waiter.scope;
        let with_times = !matches!(scope, WaitScope::File(..));
        let urgent = waiter.caller.is_some();
        let own_sync = waiter.caller.as_ref().map(|caller| caller.sync);
        let mut left = 0;
        let mut files = self.files_in(scope);
        if let Some(waiter) = self.waiters.get_mut(&id) {
            let relies = |(file, fresh): &(FileId, &Fresh)| match scope {
                WaitScope::File(scope, _) => fresh.directories.contains(&scope),
                WaitScope::Volume(volume) => file.volume == volume,
                WaitScope::Everything => true,
            };
            waiter.fresh = self.names.fresh.iter().filter(relies).map(|(file, _)| file).collect();
            files.extend(&waiter.fresh);
            files.sort_unstable();
            files.dedup();
        }
        for file in files {
            if !self.is_known(file) {
                continue;
            }
            self.unpace(file);
            let Some(marks) = self.marks.get(file) else { continue };
            // An epoch has no sync of its own, and a directory's does not cover the files that are new in it: what waits for those
            // waits for the syncs of them that run, or for one more.
            let running = marks.syncing.last().map_or(LocalSyncId(0), |syncing| syncing.sync);
            let sync = match own_sync.filter(|_| scope.holds(file)) {
                Some(sync) => sync,
                None if marks.needs_sync() => {
                    self.sync_local(SyncScope::File { file, data_only: true }, None)
                }
                None => running,
            };
            let marks = self.marks.entry(file);
            let wait = new_wait(id, marks, with_times, urgent, sync);
            if wait_is_over(&wait, marks) {
                continue;
            }
            left += 1;
            marks.waits.push(wait);
            self.requeue(file);
        }
        if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.stage = Stage::Content(left);
        }
        self.content_left(id, 0);
    }

    /// Some files of the waiter need nothing more.
    fn content_left(&mut self, id: WaiterId, over: usize) {
        let Some(waiter) = self.waiters.get_mut(&id) else { return };
        if let Stage::Content(left) = &mut waiter.stage {
            *left -= over.min(*left);
            if *left == 0 {
                waiter.stage = Stage::Ready;
                self.ready.push_back(id);
            }
        }
    }

    /// Let those waits of the file end that have all they waited for.
    pub(super) fn finish_waits(&mut self, file: FileId) {
        let Some(marks) = self.marks.get_mut(file) else { return };
        if marks.waits.is_empty() {
            return;
        }
        let waits = core::mem::take(&mut marks.waits);
        let (over, left): (Vec<Wait>, Vec<Wait>) =
            waits.into_iter().partition(|wait| wait_is_over(wait, marks));
        marks.waits = left;
        for wait in over {
            self.note_attributes(&wait);
            self.content_left(wait.waiter, 1);
        }
    }

    /// A barrier for a caller whose attributes were sent has to make them durable, too.
    fn note_attributes(&mut self, wait: &Wait) {
        if wait.had_attributes
            && let Some(waiter) = self.waiters.get_mut(&wait.waiter)
            && let WaitScope::File(_, data_only) = &mut waiter.scope
        {
            *data_only = false;
        }
    }

    /// The file has no name any more, or is gone: there is nothing to wait for.
    pub(super) fn drop_waits(&mut self, file: FileId) {
        let Some(marks) = self.marks.get_mut(file) else { return };
        for wait in core::mem::take(&mut marks.waits) {
            self.content_left(wait.waiter, 1);
        }
    }

    /// What callers and epochs have to wait for is to be found anew: the peer may have lost what was sent.
    pub(super) fn restart_waiters(&mut self) {
        let begun =
            |waiter: &Waiter| matches!(waiter.stage, Stage::Content(_) | Stage::Ready | Stage::Sent(_));
        let begun: Vec<WaiterId> =
            self.waiters.iter().filter(|(_, waiter)| begun(waiter)).map(|(id, _)| *id).collect();
        for id in begun {
            self.remove_waits(id);
            self.ready.retain(|ready| *ready != id);
            if let Some(waiter) = self.waiters.get_mut(&id) {
                waiter.stage = Stage::Held;
            }
            self.review = true;
        }
    }

    /// The file cannot be read: callers that wait for it get the error.
    pub(super) fn fail_waits(&mut self, file: FileId, errno: Errno) {
        let Some(marks) = self.marks.get(file) else { return };
        for wait in &marks.waits {
            if let Some(caller) = self.waiters.get_mut(&wait.waiter).and_then(|w| w.caller.as_mut()) {
                caller.failed = Some(errno);
            }
        }
        self.review = true;
    }

    pub(super) fn remove_waits(&mut self, id: WaiterId) {
        let Some(waiter) = self.waiters.get_mut(&id) else { return };
        let (scope, fresh) = (waiter.scope, core::mem::take(&mut waiter.fresh));
        for file in self.files_in(scope).into_iter().chain(fresh) {
            if let Some(marks) = self.marks.get_mut(file) {
                marks.waits.retain(|wait| wait.waiter != id);
            }
            self.requeue(file);
            self.marks.tidy(file);
        }
    }
}

/// A caller that syncs a file waits for its bytes, its size and what was set by itself, but not for times that are nothing but
/// the consequence of a write, unless it asks for them (`with_times`). To read them for each caller would cost more than the
/// reading: a kernel with fine-grained timestamps gives the inode a new one with the first write after they were asked for,
/// so that each sync would have to write the journal, too. The peer's file has the time of its own write until they come.
fn new_wait(waiter: WaiterId, marks: &FileMarks, with_times: bool, urgent: bool, sync: LocalSyncId) -> Wait {
    let mut mapped = ExtentSet::new();
    // Stores that were seen before the local sync began; later ones came after the request.
    for syncing in marks.syncing.iter().filter(|syncing| syncing.sync <= sync) {
        mapped.insert_all(&syncing.stored);
    }
    let compare = marks.has_compare();
    let any = !marks.dirty.is_empty() || !marks.reads.is_empty() || !mapped.is_empty() || compare;
    let attributes = if with_times {
        marks.attributes || any
    } else {
        !marks.tail.is_empty() || (marks.attributes && marks.explicit)
    };
    Wait {
        waiter,
        urgent,
        wanted: marks.dirty.clone(),
        reads: marks.reads.iter().filter(|read| !read.is_digests()).map(|read| read.id).collect(),
        attributes,
        had_attributes: marks.reads_attributes(),
        mapped,
        mapped_sync: sync,
        compare,
    }
}

fn wait_is_over(wait: &Wait, marks: &FileMarks) -> bool {
    wait.wanted.is_empty()
        && wait.reads.is_empty()
        && !wait.attributes
        && wait.mapped.is_empty()
        && !(wait.compare && marks.has_compare())
}
