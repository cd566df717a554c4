//! Barriers: what was sent is made durable at the peer, and its marks are cleared.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::action::{Body, CloseReason, DurableScope};
use crate::config::Mode;
use crate::dirty::{FileMarks, Sent, WaiterId};
use crate::ids::{FileId, Sequence};
use crate::wire::body::encode_barrier;
use crate::wire::header::Kind;

use super::Primary;
use super::resync::Resync;
use super::session::Session;
use super::waiter::{Stage, WaitScope};

/// Frames under way that are not confirmed durable, beyond which a barrier is sent at once.
const UNCONFIRMED_FRAMES_MAX: u64 = 16_384;
/// Bytes of the same, in windows.
const UNCONFIRMED_WINDOWS_MAX: u64 = 4;
/// While a peer is brought up to date, so many times as much, and so many times as long, may be unconfirmed: to make everything
/// durable stops the peer's writes for a while, and nobody waits for it.
const RESYNC_FACTOR: u32 = 8;
/// A barrier for more files asks for everything.
const BARRIER_FILES_MAX: usize = 1024;

/// A Barrier or ResyncEnd frame that is not answered.
#[derive(Debug)]
pub(super) struct SentBarrier {
    pub scope: DurableScope,
    pub waiters: Vec<WaiterId>,
    /// Files with their first name whose content it covers.
    pub fresh: Vec<FileId>,
    /// For waiting callers; the others are the core's own.
    pub for_callers: bool,
}

impl Primary {
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
        // Only in `sync` do callers wait for the peer's disk. Otherwise it need not work for each of them: what they wrote
        // becomes durable there with the next barrier of the core's own.
        let scope = match self.config.mode {
            Mode::Sync => self.barrier_scope(&callers),
            Mode::SemiSync | Mode::Async => DurableScope::Files(Vec::new()),
        };
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
                    for fresh in waiter.fresh.iter().filter(|fresh| self.is_known(**fresh)) {
                        files.insert(*fresh, false);
                    }
                    if self.is_known(file) {
                        let data_only = data_only && !self.has_explicit_in_flight(file);
                        files.entry(file).and_modify(|both| *both &= data_only).or_insert(data_only);
                    }
                }
                WaitScope::Volume(volume) => {
                    volumes.insert(volume);
                    volumes.extend(waiter.fresh.iter().map(|fresh| fresh.volume));
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
        let generation = self.record.durable().lineage.current.number;
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
        if self.session.is_some() {
            let queued = |file: FileId| self.marks.get(file).is_none_or(FileMarks::is_queued);
            let covered = |file: FileId| match &scope {
                DurableScope::Files(files) => files.contains(&(file, false)),
                DurableScope::Volume(volume) => file.volume == *volume,
                DurableScope::Everything => true,
            };
            let waited = |file: FileId| waiters.iter().any(|id| self.waits_for_fresh(*id, file));
            let fresh = self.names.fresh.iter().map(|(file, _)| file);
            let fresh = fresh.filter(|file| covered(*file) && (queued(*file) || waited(*file))).collect();
            self.remember_barrier(sequence, SentBarrier { scope, waiters, fresh, for_callers });
        }
        Some(sequence)
    }

    fn remember_barrier(&mut self, sequence: Sequence, barrier: SentBarrier) {
        if let Some(session) = &mut self.session {
            session.barriers.insert(sequence, barrier);
        }
    }

    /// Whether the waiter, all of whose marks are on their way, waited for the content of that file.
    pub(super) fn waits_for_fresh(&self, id: WaiterId, file: FileId) -> bool {
        self.waiters.get(&id).is_some_and(|waiter| waiter.fresh.contains(&file))
    }

    /// What was sent is made durable at the peer from time to time, though nobody waits for it.
    pub(super) fn send_confirm_barrier(&mut self) {
        let Some(session) = &mut self.session else { return };
        let Some(due) = session.confirm_at else { return };
        let factor = u64::from(resync_factor(session));
        let full = self.in_flight_frames > UNCONFIRMED_FRAMES_MAX * factor
            || self.in_flight_bytes > UNCONFIRMED_WINDOWS_MAX * self.config.window_bytes * factor
            || self.passing.is_full();
        let under_way = session.barriers.values().any(|barrier| !barrier.for_callers);
        if under_way {
            session.confirm_at = Some(due.max(self.now.after(self.config.confirm_interval)));
            return;
        }
        if due > self.now && !full {
            return;
        }
        session.confirm_at = None;
        if self.is_unconfirmed() {
            self.send_barrier(Kind::Barrier, DurableScope::Everything, Vec::new(), false);
        }
    }

    pub(super) fn on_barrier_done(&mut self, sequence: Sequence) -> Result<(), CloseReason> {
        let Some(barrier) = self.session.as_mut().and_then(|session| session.barriers.remove(&sequence))
        else {
            return Err(CloseReason::Protocol("an answer to a barrier that was not sent"));
        };
        self.prove(sequence);
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
        self.passing.confirm(sequence, &barrier.scope, self.stream());
        barrier.fresh.iter().for_each(|file| self.names.fresh.cover(*file, sequence));
        self.waiters_done(&barrier.waiters, sequence);
        self.on_settled(sequence);
        self.on_resync_end_done(sequence);
        self.on_healed(sequence);
        self.on_asked_done(sequence);
        if self.is_unconfirmed() {
            self.confirm_later();
        }
        Ok(())
    }

    /// Whether the peer has anything that it may not have durably.
    fn is_unconfirmed(&self) -> bool {
        !self.unconfirmed.is_empty() || !self.passing.is_empty()
    }

    /// What is sent now is to be made durable at the peer some time later.
    pub(super) fn confirm_later(&mut self) {
        if let Some(session) = &mut self.session {
            let pause = self.config.confirm_interval * resync_factor(session);
            session.confirm_at.get_or_insert(self.now.after(pause));
        }
    }

    /// The barrier at that position is answered for those that still wait for it.
    fn waiters_done(&mut self, waiters: &[WaiterId], barrier: Sequence) {
        for id in waiters {
            if let Some(waiter) = self.waiters.get_mut(id)
                && waiter.stage == Stage::Sent(barrier)
            {
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
        let received: Vec<(Sequence, Vec<WaiterId>)> =
            barriers.map(|(sequence, barrier)| (*sequence, barrier.waiters.clone())).collect();
        for (sequence, waiters) in received {
            self.waiters_done(&waiters, sequence);
        }
    }
}

/// How much more may be unconfirmed than while both nodes are mirrored.
fn resync_factor(session: &Session) -> u32 {
    if session.resync == Resync::Scanning { RESYNC_FACTOR } else { 1 }
}
