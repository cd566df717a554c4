//! Callers that wait for durability, and barriers.
//!
//! A caller's marks are those present when it asked; later ones do not delay it. Its way, while both nodes are mirrored:
//!
//! ```text
//!            directories marked      lists answered       its marks are       a Barrier frame      BarrierDone, or
//!            before are listed       by the peer          on their way        covers it            Ack (semi-sync)
//!  Held --> Names -----------------> Answers -----------> Content ----------> Ready -------------> Sent --------> Done
//!                                                           (on this node the local sync runs beside all this)
//! ```

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::action::{Action, Body, CloseReason, DurableScope, Notice, Phase};
use crate::config::Mode;
use crate::dirty::{FileMarks, Sent, Syncing, Wait, WaiterId};
use crate::event::SyncScope;
use crate::extent::ExtentSet;
use crate::ids::{Errno, FileId, LocalSyncId, Sequence, Ticket, Time, VolumeId};
use crate::wire::body::encode_barrier;
use crate::wire::header::Kind;

use super::{Primary, RETRY};

/// errno(3) EIO.
const EIO: Errno = Errno(5);
/// Frames under way that are not confirmed durable, beyond which a barrier is sent at once.
const UNCONFIRMED_FRAMES_MAX: u64 = 16_384;
/// Bytes of the same, in windows.
const UNCONFIRMED_WINDOWS_MAX: u64 = 4;
/// A barrier for more files asks for everything.
const BARRIER_FILES_MAX: usize = 1024;

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
    caller: Option<Caller>,
    scope: WaitScope,
    pub(super) stage: Stage,
    /// In the count of running time.
    requested_awake: Time,
    /// What was known to be listed when it began to wait for names.
    deep_marks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitScope {
    File(FileId, bool),
    Volume(VolumeId),
    Everything,
}

#[derive(Debug)]
struct Caller {
    ticket: Ticket,
    requested: Time,
    sync: LocalSyncId,
    local: Option<Result<(), Errno>>,
    /// The peer's part cannot be done.
    failed: Option<Errno>,
    /// Was let go (the peer's part goes on: async).
    released: bool,
}

impl Waiter {
    /// What is left of it when the session is lost: a caller that still waits, held. `false`: nothing.
    pub(super) fn on_session_lost(&mut self) -> bool {
        self.stage = Stage::Held;
        self.caller.as_ref().is_some_and(|caller| !caller.released)
    }

    pub(super) fn fail_names(&mut self, errno: Errno) {
        if let (Stage::Names(_), Some(caller)) = (self.stage, &mut self.caller) {
            caller.failed = Some(errno);
        }
    }

    fn waits_for_caller(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| !caller.released)
    }
}

/// A sync of this node's own files under way.
#[derive(Debug)]
pub(super) struct LocalSync {
    /// Files with stores through mappings that it makes visible.
    files: Vec<FileId>,
    caller: Option<WaiterId>,
    /// The first sync of this volume.
    protects: Option<VolumeId>,
}

/// What is left to do until stores through mappings that were made before this node was started are told like all others.
#[derive(Debug)]
pub(super) enum Protection {
    /// The volume is to be synced at this time.
    Due(Time),
    /// It is being synced.
    Running,
}

/// A Barrier or ResyncEnd frame that is not answered.
#[derive(Debug)]
pub(super) struct SentBarrier {
    pub scope: DurableScope,
    pub waiters: Vec<WaiterId>,
    /// For waiting callers; the others are the core's own.
    pub for_callers: bool,
}

impl Primary {
    pub(super) fn on_sync_requested(&mut self, ticket: Ticket, scope: SyncScope) {
        let id = self.new_waiter(match scope {
            SyncScope::File { file, data_only } => WaitScope::File(file, data_only),
            SyncScope::Volume(volume) => WaitScope::Volume(volume),
        });
        let sync = self.sync_local(scope, Some(id));
        let caller = Caller { ticket, requested: self.now, sync, local: None, failed: None, released: false };
        if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.caller = Some(caller);
        }
        self.review = true;
        // Its marks are taken now, before anything else is done.
        self.review_callers();
    }

    pub(super) fn new_waiter(&mut self, scope: WaitScope) -> WaiterId {
        self.numbers.waiter += 1;
        let id = WaiterId(self.numbers.waiter);
        let waiter =
            Waiter { caller: None, scope, stage: Stage::Held, requested_awake: self.awake, deep_marks: 0 };
        self.waiters.insert(id, waiter);
        id
    }

    // ---- this node's own sync --------------------------------------------------------------------------

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

    /// Files with marks in a scope.
    fn files_in(&self, scope: WaitScope) -> Vec<FileId> {
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

    pub(super) fn on_local_synced(&mut self, sync: LocalSyncId, result: Result<(), Errno>) {
        let Some(LocalSync { files, caller, protects }) = self.syncs.remove(&sync) else { return };
        match (protects, result) {
            (Some(volume), Ok(())) => {
                self.unprotected.remove(&volume);
            }
            (Some(volume), Err(_)) => {
                self.unprotected.insert(volume, Protection::Due(self.now.after(RETRY)));
            }
            (None, _) => {}
        }
        for file in files {
            self.mapped_synced(file, sync, result.is_ok());
        }
        if let Some(caller) = caller.and_then(|id| self.waiters.get_mut(&id)?.caller.as_mut()) {
            caller.local = Some(result);
            self.review = true;
        }
    }

    /// A local sync with that number has ended: the stores it covers can be read now, or wait for another one.
    fn mapped_synced(&mut self, file: FileId, sync: LocalSyncId, ok: bool) {
        let Some(marks) = self.marks.get_mut(file) else { return };
        if ok {
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
        } else {
            for syncing in marks.syncing.extract_if(.., |syncing| syncing.sync == sync) {
                marks.mapped.insert_all(&syncing.stored);
                marks.lost |= syncing.lost;
            }
            for wait in marks.waits.iter_mut().filter(|wait| wait.mapped_sync == sync) {
                wait.mapped_sync = sync.next();
            }
            if self.session.is_some() {
                self.queues.mapped.insert((self.now.after(RETRY), file));
            }
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
            self.unprotected.insert(volume, Protection::Running);
            if let Some(ordered) = self.syncs.get_mut(&sync) {
                ordered.protects = Some(volume);
            }
        }
    }

    pub(super) fn protection_deadline(&self) -> Option<Time> {
        let due = self.unprotected.values().filter_map(|protection| match protection {
            Protection::Due(at) => Some(*at),
            Protection::Running => None,
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

    // ---- waits -------------------------------------------------------------------------------------------

    /// Take the marks that are present now as what this waiter waits for.
    pub(super) fn start_waiter(&mut self, id: WaiterId) {
        let Some(session) = &self.session else { return };
        let (mark, deep_marks) = (session.names.last_mark(), session.names.deep_marks());
        if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.stage = Stage::Names(mark);
            waiter.deep_marks = deep_marks;
        }
        self.advance_waiter(id);
    }

    /// Take the steps that need no data.
    fn advance_waiter(&mut self, id: WaiterId) {
        let (Some(session), Some(waiter)) = (&self.session, self.waiters.get_mut(&id)) else { return };
        if let Stage::Names(mark) = waiter.stage
            && session.names.listed_up_to(mark)
        {
            waiter.stage = Stage::Answers(session.positions.queued);
        }
        if let Stage::Answers(position) = waiter.stage
            && session.names.unanswered.first_key_value().is_none_or(|(list, _)| *list > position)
        {
            if waiter.deep_marks == session.names.deep_marks() {
                self.take_content(id);
            } else {
                // A list took away what another one has to bring back.
                self.start_waiter(id);
            }
        }
    }

    fn take_content(&mut self, id: WaiterId) {
        let Some(waiter) = self.waiters.get(&id) else { return };
        let scope = waiter.scope;
        let data_only = matches!(scope, WaitScope::File(_, true));
        let urgent = waiter.caller.is_some();
        let own_sync = waiter.caller.as_ref().map(|caller| caller.sync);
        let mut left = 0;
        for file in self.files_in(scope) {
            if !self.is_known(file) {
                continue;
            }
            let Some(marks) = self.marks.get(file) else { continue };
            let stored = |marks: &FileMarks| marks.needs_sync() || !marks.syncing.is_empty();
            let sync = match own_sync {
                Some(sync) => sync,
                None if stored(marks) => self.sync_local(SyncScope::File { file, data_only: true }, None),
                None => LocalSyncId(0),
            };
            let marks = self.marks.entry(file);
            let wait = new_wait(id, marks, data_only, urgent, sync);
            if wait_is_over(&wait, marks) {
                continue;
            }
            left += 1;
            marks.waits.push(wait);
            self.requeue(file);
            self.queue_compare(file);
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

    /// What those have to wait for that are not covered by a barrier yet is to be found anew.
    pub(super) fn restart_waiters(&mut self) {
        let begun = |waiter: &Waiter| matches!(waiter.stage, Stage::Content(_) | Stage::Ready);
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

    fn remove_waits(&mut self, id: WaiterId) {
        let Some(scope) = self.waiters.get(&id).map(|waiter| waiter.scope) else { return };
        for file in self.files_in(scope) {
            if let Some(marks) = self.marks.get_mut(file) {
                marks.waits.retain(|wait| wait.waiter != id);
            }
            self.marks.tidy(file);
        }
    }

    // ---- letting callers go --------------------------------------------------------------------------------

    /// Whether callers are answered without the peer now.
    fn is_local_only(&self) -> bool {
        let closing = self.session.as_ref().is_some_and(|session| session.resync.holds_callers());
        let alone = self.phase != Phase::Mirrored && self.record.says_alone() && !closing;
        !self.deposed && (alone || self.config.mode == Mode::Async)
    }

    /// Let go who has all that was asked for; begin with the peer's part where that is due.
    pub(super) fn review_callers(&mut self) {
        if !core::mem::take(&mut self.review) {
            return;
        }
        let local_only = self.is_local_only();
        let mirrored = self.phase == Phase::Mirrored;
        let ids: Vec<WaiterId> = self.waiters.keys().copied().collect();
        for id in ids {
            let Some(waiter) = self.waiters.get_mut(&id) else { continue };
            let starts = mirrored || waiter.caller.is_none();
            if waiter.stage == Stage::Held && starts && self.session.is_some() {
                self.start_waiter(id);
            } else if matches!(waiter.stage, Stage::Names(_) | Stage::Answers(_)) {
                self.advance_waiter(id);
            }
            self.review_caller(id, local_only);
        }
    }

    fn review_caller(&mut self, id: WaiterId, local_only: bool) {
        let Some(waiter) = self.waiters.get_mut(&id) else { return };
        let stage = waiter.stage;
        let Some(caller) = &mut waiter.caller else { return };
        let result = match (caller.local, caller.failed) {
            (Some(Err(errno)), _) | (_, Some(errno)) => Err(errno),
            (Some(Ok(())), None) if local_only || stage == Stage::Done => Ok(()),
            _ => return,
        };
        if !core::mem::replace(&mut caller.released, true) {
            let ticket = caller.ticket;
            self.out.push(Action::ReleaseBarrier { ticket, result });
            self.counters.released += u64::from(result.is_ok());
            self.counters.refused += u64::from(result.is_err());
        }
        // In async mode the barrier is sent though nobody waits for it.
        if result.is_err() || matches!(stage, Stage::Held | Stage::Done) {
            self.remove_waits(id);
            self.waiters.remove(&id);
        }
    }

    /// Bounds on waiting: a peer that is too slow is given up, and a caller without a peer gets an error.
    pub(super) fn check_callers(&mut self) {
        let (mut late, mut expired) = (false, Vec::new());
        for (id, waiter) in &self.waiters {
            let Some(caller) = waiter.caller.as_ref().filter(|caller| !caller.released) else { continue };
            if waiter.stage == Stage::Held {
                if self.now.since(caller.requested) >= self.config.hold_limit {
                    expired.push(*id);
                }
            } else if caller.local.is_some() && waiter.stage != Stage::Done {
                late |= self.awake.since(waiter.requested_awake) >= self.config.barrier_limit;
            }
        }
        if !expired.is_empty() {
            let tickets = u32::try_from(expired.len()).unwrap_or(u32::MAX);
            self.report(Notice::HoldExpired { tickets });
            for id in expired {
                self.refuse(id, EIO);
            }
        }
        if late {
            self.close(CloseReason::BarrierLate);
        }
    }

    fn refuse(&mut self, id: WaiterId, errno: Errno) {
        if let Some(Waiter { caller: Some(caller), .. }) = self.waiters.remove(&id) {
            self.out.push(Action::ReleaseBarrier { ticket: caller.ticket, result: Err(errno) });
            self.counters.refused += 1;
        }
    }

    /// When one of the bounds is reached.
    pub(super) fn caller_deadline(&self) -> Option<Time> {
        self.waiters
            .values()
            .filter_map(|waiter| {
                let caller = waiter.caller.as_ref().filter(|caller| !caller.released)?;
                match waiter.stage {
                    Stage::Held => Some(caller.requested.after(self.config.hold_limit)),
                    Stage::Done => None,
                    _ if caller.local.is_none() => None,
                    _ => {
                        let waited = self.awake.since(waiter.requested_awake);
                        Some(self.now.after(self.config.barrier_limit.saturating_sub(waited)))
                    }
                }
            })
            .min()
    }

    pub(super) fn waiting_callers(&self) -> usize {
        self.waiters.values().filter(|waiter| waiter.waits_for_caller()).count()
    }

    // ---- barriers --------------------------------------------------------------------------------------------

    /// Send a barrier for the callers whose marks are all on their way, unless too many barriers are under way: those
    /// that come meanwhile share the next one.
    pub(super) fn send_barriers(&mut self) {
        self.advance_names();
        let Some(session) = &self.session else { return };
        if session.barriers.values().filter(|barrier| barrier.for_callers).count() >= self.config.barriers_max
        {
            return;
        }
        let waiters: Vec<WaiterId> = self.ready.drain(..).collect();
        let (callers, epochs): (Vec<WaiterId>, Vec<WaiterId>) = waiters
            .into_iter()
            .partition(|id| self.waiters.get(id).is_some_and(|waiter| waiter.caller.is_some()));
        // Epochs of the resync have no barrier of their own.
        self.ready.extend(epochs.into_iter().filter(|id| self.waiters.contains_key(id)));
        if callers.is_empty() {
            return;
        }
        let scope = self.barrier_scope(&callers);
        if let Some(sequence) = self.send_barrier(Kind::Barrier, scope, callers.clone(), true) {
            for id in callers {
                if let Some(waiter) = self.waiters.get_mut(&id) {
                    waiter.stage = Stage::Sent(sequence);
                }
            }
        }
    }

    /// Waiters for lists go on when these have come.
    fn advance_names(&mut self) {
        let waiting: Vec<WaiterId> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| matches!(waiter.stage, Stage::Names(_) | Stage::Answers(_)))
            .map(|(id, _)| *id)
            .collect();
        waiting.into_iter().for_each(|id| self.advance_waiter(id));
    }

    /// What covers all of these callers.
    fn barrier_scope(&self, callers: &[WaiterId]) -> DurableScope {
        let mut files: BTreeMap<FileId, bool> = BTreeMap::new();
        let mut volumes = BTreeSet::new();
        for waiter in callers.iter().filter_map(|id| self.waiters.get(id)) {
            match waiter.scope {
                WaitScope::File(file, data_only) => {
                    if self.is_known(file) {
                        let data_only = data_only && !self.has_explicit_in_flight(file);
                        files.entry(file).and_modify(|both| *both &= data_only).or_insert(data_only);
                    }
                }
                WaitScope::Volume(volume) => {
                    volumes.insert(volume);
                }
                WaitScope::Everything => return DurableScope::Everything,
            }
        }
        let mut others = volumes.iter();
        match (others.next(), others.next()) {
            (None, _) if files.len() <= BARRIER_FILES_MAX => DurableScope::Files(files.into_iter().collect()),
            (Some(volume), None) if files.keys().all(|file| file.volume == *volume) => {
                DurableScope::Volume(*volume)
            }
            _ => DurableScope::Everything,
        }
    }

    /// Whether attributes that changed by themselves, a cut size perhaps, are under way: a barrier for data alone might not
    /// cover them.
    fn has_explicit_in_flight(&self, file: FileId) -> bool {
        self.marks.get(file).is_some_and(|marks| {
            marks.in_flight.iter().any(|(_, sent)| matches!(sent, Sent::Attributes { explicit: true, .. }))
        })
    }

    pub(super) fn send_barrier(
        &mut self,
        kind: Kind,
        scope: DurableScope,
        waiters: Vec<WaiterId>,
        for_callers: bool,
    ) -> Option<Sequence> {
        let generation = self.record.durable().generation;
        let fill = |header: &mut crate::wire::header::Header| {
            if kind == Kind::ResyncEnd {
                header.offset = generation.0;
            }
        };
        let body = match kind {
            Kind::Barrier => Body::Structured(encode_barrier(&scope)),
            _ => Body::Empty,
        };
        let sequence = self.send_frame(kind, fill, body)?;
        self.counters.barriers += 1;
        if let Some(session) = &mut self.session {
            session.barriers.insert(sequence, SentBarrier { scope, waiters, for_callers });
        }
        Some(sequence)
    }

    /// What was sent is made durable at the peer from time to time, though nobody waits for it.
    pub(super) fn send_confirm_barrier(&mut self) {
        let Some(session) = &mut self.session else { return };
        let Some(due) = session.confirm_at else { return };
        let full = self.in_flight_frames > UNCONFIRMED_FRAMES_MAX
            || self.in_flight_bytes > UNCONFIRMED_WINDOWS_MAX * self.config.window_bytes;
        let under_way = session.barriers.values().any(|barrier| !barrier.for_callers);
        if under_way {
            session.confirm_at = Some(due.max(self.now.after(self.config.confirm_interval)));
            return;
        }
        if due > self.now && !full {
            return;
        }
        session.confirm_at = None;
        if !self.unconfirmed.is_empty() {
            self.send_barrier(Kind::Barrier, DurableScope::Everything, Vec::new(), false);
        }
    }

    pub(super) fn on_barrier_done(&mut self, sequence: Sequence) -> Result<(), CloseReason> {
        let Some(barrier) = self.session.as_mut().and_then(|session| session.barriers.remove(&sequence))
        else {
            return Err(CloseReason::Protocol("an answer to a barrier that was not sent"));
        };
        match &barrier.scope {
            DurableScope::Files(files) => {
                files.iter().for_each(|&(file, data_only)| self.confirm(file, sequence, data_only));
            }
            DurableScope::Volume(volume) => {
                let files = self.unconfirmed.iter().filter(|file| file.volume == *volume).copied();
                let files: Vec<FileId> = files.collect();
                files.into_iter().for_each(|file| self.confirm(file, sequence, false));
            }
            DurableScope::Everything => {
                let files: Vec<FileId> = self.unconfirmed.iter().copied().collect();
                files.into_iter().for_each(|file| self.confirm(file, sequence, false));
            }
        }
        self.waiters_done(&barrier.waiters);
        self.on_resync_end_done(sequence);
        let at = self.now.after(self.config.confirm_interval);
        if !self.unconfirmed.is_empty()
            && let Some(session) = &mut self.session
        {
            session.confirm_at.get_or_insert(at);
        }
        Ok(())
    }

    fn waiters_done(&mut self, waiters: &[WaiterId]) {
        for id in waiters {
            if let Some(waiter) = self.waiters.get_mut(id) {
                waiter.stage = Stage::Done;
                self.review = true;
            }
        }
    }

    /// The peer has received all frames up to there: in semi-sync mode that is enough for callers.
    pub(super) fn on_received(&mut self, upto: Sequence) {
        if self.config.mode != Mode::SemiSync {
            return;
        }
        let Some(session) = &self.session else { return };
        let barriers = session.barriers.range(..=upto).filter(|(_, barrier)| barrier.for_callers);
        let waiters: Vec<WaiterId> = barriers.flat_map(|(_, barrier)| barrier.waiters.clone()).collect();
        self.waiters_done(&waiters);
    }
}

fn new_wait(waiter: WaiterId, marks: &FileMarks, data_only: bool, urgent: bool, sync: LocalSyncId) -> Wait {
    let mut mapped = ExtentSet::new();
    // Stores that were seen before the local sync began; later ones came after the request.
    for syncing in marks.syncing.iter().filter(|syncing| syncing.sync <= sync) {
        mapped.insert_all(&syncing.stored);
    }
    let compare = marks.has_compare();
    let any = !marks.dirty.is_empty() || !marks.reads.is_empty() || !mapped.is_empty() || compare;
    let attributes = if data_only {
        !marks.tail.is_empty() || (marks.attributes && marks.explicit)
    } else {
        marks.attributes || any
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
