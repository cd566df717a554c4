//! The secondary: applies the primary's frames in an order that is as good as theirs, and says what it has and what is
//! durable.
//!
//! When a session is lost, what was received is still applied: in semi-sync mode callers were let go on the strength of it.
//! Then the copy is made durable and the record becomes `Consistent` (whole, but the primary may go on alone); until that is
//! recorded it says `UpToDate`, which the generation refutes if the primary did go on alone.
//!
//! A later stream may go on where one ended, because what was received is applied before anything of it. That holds until
//! something is not applied, or others change the copy; then this node says that it holds nothing.

mod answer;
mod durable;
mod pipeline;
mod reunion;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, Body, CloseReason, DataState, IMPOSSIBLE_TERM, Notice, Phase, StateRecord};
use crate::config::SecondaryConfig;
use crate::event::{Event, ReceivedBody};
use crate::ids::{COUNTED_MAX, Errno, FileId, PersistId, Sequence, SessionId, Term, Time};
use crate::lineage::GenerationId;
use crate::record::Record;
use crate::recovery::Recovered;
use crate::resume::{Beginning, Held, StreamId, Why};
use crate::reunion::Reunion;
use crate::snapshot::{Counters, Positions, ResyncProgress, Snapshot};
use crate::succession::Legacy;
use crate::wire::body::{Ack, Holding, Resumption, decode_barrier, decode_stream};
use crate::wire::header::{
    FLAG_MORE, FLAG_SUCCEEDS, Header, Kind, PAYLOAD_MAX, VERSION_ACCOUNTS, VERSION_RECOVERS, VERSION_RESUMES,
    VERSION_SUCCEEDS,
};
use durable::Durability;
use pipeline::{Frame, Pipeline, Slot};
use reunion::{Replacement, Told};

/// Longest time between two calls that counts as passed for the peer: a machine that was paused does not take its own
/// absence for the peer's.
const ABSENCE: Duration = Duration::from_millis(500);

/// All that lives as long as a connection.
#[derive(Debug)]
struct Session {
    id: SessionId,
    /// The slot before that of the first frame.
    base: Slot,
    received: Sequence,
    version: u16,
    /// What the primary said of its data.
    told: Option<Told>,
    term: Term,
    silence: Duration,
    last_sent: Time,
    acked: Ack,
    unacked_bytes: u64,
    unacked_frames: u64,
    ack_at: Option<Time>,
    /// An ack is due at once.
    ack_now: bool,
    /// Files that had to be made for the list whose parts are being applied.
    created: Vec<FileId>,
}

/// The secondary's state machine.
#[derive(Debug)]
pub(crate) struct Secondary {
    config: SecondaryConfig,
    phase: Phase,
    record: Record,
    now: Time,
    session: Option<Session>,
    /// Slot of the last frame of any session.
    last_slot: Slot,
    pipeline: Pipeline,
    durability: Durability,
    /// What a later stream may go on from: nothing after a start, after a failure, and once others changed the copy.
    held: Option<Held>,
    /// What may differ of this copy since this node was the primary, until it is known by the new one's numbers.
    legacy: Option<Legacy>,
    /// The stream in which that is being told.
    succeeding: Option<StreamId>,
    /// What is on record of this copy, after a crash, until a stream goes on from it.
    recovered: Option<Recovered>,
    beginning: Option<Beginning>,
    /// What was found when the nodes met last, seen from here.
    found: Option<Reunion>,
    /// It was found that the primary must not overwrite this copy.
    refused: bool,
    /// What the stream does to the record whose beginning is not applied yet.
    replacement: Replacement,
    /// Told to stop: no session is opened any more.
    stopping: bool,
    counters: Counters,
    out: Vec<Action>,
}

impl Secondary {
    pub fn new(config: SecondaryConfig, record: StateRecord, now: Time) -> Secondary {
        Secondary {
            phase: Phase::Waiting,
            record: Record::new(record),
            now,
            session: None,
            last_slot: Slot(0),
            pipeline: Pipeline::new(config.applies_max),
            durability: Durability::default(),
            held: None,
            legacy: None,
            succeeding: None,
            recovered: None,
            beginning: None,
            found: None,
            refused: false,
            replacement: Replacement::default(),
            stopping: false,
            counters: Counters::default(),
            out: Vec::new(),
            config,
        }
    }

    /// Go on from what an earlier run held.
    pub fn restore(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// Go on from what an earlier run had on record that crashed.
    pub fn recover(&mut self, recovered: Recovered) {
        self.held = Some(Held { stream: recovered.stream, received: Sequence(0) });
        self.recovered = Some(recovered);
    }

    /// The stream that is held, up to wherever it was received, if a later one may go on from it; and the generation that is on record.
    pub fn holds(&self) -> Option<(StreamId, GenerationId)> {
        let held = self.held.filter(|_| self.config.resumes && self.recovered.is_none());
        held.map(|held| (held.stream, self.record.durable().lineage.current))
    }

    /// This node was the primary: what of its copy may differ.
    pub fn leave(&mut self, legacy: Legacy) {
        self.legacy = Some(legacy);
    }

    /// Say goodbye. What was received is still applied.
    fn on_stop(&mut self) {
        self.stopping = true;
        self.send_frame(Kind::Goodbye, |_| {}, Body::Empty);
        self.close(CloseReason::Stopping);
    }

    /// Whether all that was received is applied and durable, and the record says what it has to.
    pub fn is_at_rest(&self) -> bool {
        self.stopping
            && self.session.is_none()
            && self.pipeline.is_empty()
            && self.durability.is_at_rest()
            && self.record.is_settled()
    }

    /// What a later run may say that it holds.
    pub fn checkpoint(&self) -> Option<Held> {
        let whole = matches!(self.record.durable().data, DataState::Consistent | DataState::UpToDate);
        // What the primary has to take back first, it does not know yet.
        let known = self.recovered.is_none();
        self.held.filter(|_| self.is_at_rest() && whole && known && self.config.resumes)
    }

    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let passed = now.since(self.now).min(ABSENCE);
        self.now = self.now.max(now);
        if let Some(session) = &mut self.session {
            session.silence += passed;
        }
        match event {
            Event::SessionOpened { session, version } => self.on_session_opened(session, version),
            Event::FrameReceived { session, header, body } => self.on_frame_received(session, &header, body),
            Event::SessionLost { session } if self.is_open(session) => self.lose_session(),
            Event::Applied { session, sequence, outcome } => self.on_applied(session, sequence, outcome),
            Event::MadeDurable { session, barrier, result } => self.on_made_durable(session, barrier, result),
            Event::StatePersisted { persist, result } => self.on_state_persisted(persist, result),
            Event::CopyChanged => self.forget_what_is_held(),
            Event::Outdate { term } => self.on_outdate(term),
            Event::Stop => self.on_stop(),
            Event::Tick => {
                if let Some(session) = &mut self.session {
                    session.ack_now = true;
                }
            }
            // A primary's.
            _ => {}
        }
        self.schedule();
        actions.append(&mut self.out);
    }

    fn schedule(&mut self) {
        if self.session.as_ref().is_some_and(|session| session.silence >= self.config.link.dead_after) {
            self.close(CloseReason::PeerSilent);
        }
        self.run_pipeline();
        self.run_barriers();
        self.record_waiting();
        let order = self.record.order(self.now);
        self.out.extend(order);
        self.acknowledge();
        self.keep_alive();
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let session = self.session.as_ref();
        [
            session.map(|session| session.last_sent.after(self.config.link.keep_alive)),
            session.and_then(|session| session.ack_at),
            self.record.retry_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // ---- session -----------------------------------------------------------------------------------------

    fn is_open(&self, id: SessionId) -> bool {
        self.session.as_ref().is_some_and(|session| session.id == id)
    }

    fn on_session_opened(&mut self, id: SessionId, version: u16) {
        if self.stopping {
            self.out.push(Action::CloseSession { session: id, reason: CloseReason::Stopping });
            return;
        }
        if self.session.is_some() {
            // The primary connected anew before this node saw the old connection end.
            self.close(CloseReason::Protocol("the primary opened another session"));
        }
        self.counters.sessions += 1;
        self.session = Some(Session {
            id,
            base: self.last_slot,
            received: Sequence(0),
            version,
            told: None,
            term: self.record.wanted.term.max(self.record.durable().term),
            silence: Duration::ZERO,
            last_sent: self.now,
            acked: Ack::default(),
            unacked_bytes: 0,
            unacked_frames: 0,
            ack_at: None,
            ack_now: false,
            created: Vec::new(),
        });
        self.set_phase(Phase::Receiving);
        if version >= VERSION_ACCOUNTS {
            let account = self.account();
            self.send_frame(Kind::Account, |_| {}, Body::Structured(account.encode()));
        } else {
            (self.found, self.refused) = (None, false);
        }
        if let Some(legacy) = self.legacy.as_ref().filter(|_| version >= VERSION_SUCCEEDS) {
            let body = Body::Structured(legacy.encode());
            self.send_frame(Kind::Legacy, |_| {}, body);
        }
        if let Some(recovered) = self.recovered.as_ref().filter(|_| version >= VERSION_RECOVERS) {
            let body = Body::Structured(recovered.encode());
            self.send_frame(Kind::Recovered, |_| {}, body);
        }
        if version >= VERSION_RESUMES {
            // Final: nothing of an earlier session is taken any more.
            let holding = Holding {
                generation: self.record.wanted.lineage.current.number,
                held: self.held.filter(|_| self.config.resumes),
            };
            self.send_frame(Kind::Holding, |_| {}, Body::Structured(holding.encode()));
        }
    }

    fn close(&mut self, reason: CloseReason) {
        let Some(session) = &self.session else { return };
        let id = session.id;
        self.out.push(Action::CloseSession { session: id, reason });
        self.lose_session();
        if matches!(reason, CloseReason::LocalFailure(_) | CloseReason::StaleTerm) {
            self.abandon(Some(id), reason);
        }
    }

    fn forget_what_is_held(&mut self) {
        (self.held, self.legacy, self.recovered) = (None, None, None);
    }

    /// Apply nothing more of what was received, of any session: the edge is told for each that it holds nothing in vain.
    fn abandon(&mut self, closed: Option<SessionId>, reason: CloseReason) {
        self.forget_what_is_held();
        for session in self.pipeline.abandon() {
            if Some(session) != closed {
                self.out.push(Action::CloseSession { session, reason });
            }
        }
    }

    /// The primary may go on without this copy from now on.
    fn on_outdate(&mut self, term: Term) {
        if term < self.record.wanted.term.max(self.record.durable().term) {
            return;
        }
        // Confirms nothing to anybody who has not heard of it.
        self.close(CloseReason::Outdated);
        let wanted = &mut self.record.wanted;
        wanted.term = term;
        if matches!(wanted.data, DataState::UpToDate | DataState::Consistent) {
            wanted.data = DataState::Outdated;
        }
    }

    /// Nobody is left to answer; what was received is still applied.
    fn lose_session(&mut self) {
        let Some(session) = self.session.take() else { return };
        self.counters.sessions_lost += 1;
        self.succeeding = None;
        self.durability.forget_barriers();
        self.durability.left = Some((session.id, session.received));
        self.set_phase(Phase::Waiting);
    }

    /// After a session: make what was received durable, then record that the primary may have gone on alone.
    fn record_waiting(&mut self) {
        if self.session.is_some() || !self.pipeline.is_empty() {
            return;
        }
        if let Some((session, barrier)) = self.durability.left.take()
            && self.record.wanted.data == DataState::UpToDate
        {
            self.make_durable_at_end(session, barrier);
        }
    }

    fn set_phase(&mut self, to: Phase) {
        if self.phase != to {
            self.out.push(Action::Report(Notice::Phase { from: self.phase, to }));
            self.phase = to;
        }
    }

    fn on_state_persisted(&mut self, persist: PersistId, result: Result<(), Errno>) {
        if let Some(Err(errno)) = self.record.answered(persist, result, self.now) {
            self.out.push(Action::Report(Notice::PersistFailed { errno }));
            if self.session.is_some() {
                self.fail(errno);
            }
        }
    }

    /// This node could not apply, or make durable: its copy is not to be relied on, and nothing is confirmed any more.
    fn fail(&mut self, errno: Errno) {
        self.record.wanted.data = DataState::Inconsistent;
        let number = u64::try_from(errno.0).unwrap_or(0);
        self.send_frame(Kind::Failed, |header| header.offset = number, Body::Empty);
        let reason = CloseReason::LocalFailure(errno);
        self.close(reason);
        // Without a session, too: what a lost one left is not applied onto a copy that is broken.
        self.abandon(None, reason);
    }

    // ---- frames --------------------------------------------------------------------------------------------

    fn send_frame(&mut self, kind: Kind, fill: impl FnOnce(&mut Header), body: Body) {
        let Some(session) = &mut self.session else { return };
        let mut header = Header::new(kind, session.term.max(self.record.durable().term));
        fill(&mut header);
        session.last_sent = self.now;
        self.out.push(Action::SendFrame { session: session.id, header, body });
    }

    fn keep_alive(&mut self) {
        let Some(session) = &self.session else { return };
        if self.now.since(session.last_sent) >= self.config.link.keep_alive {
            self.send_frame(Kind::KeepAlive, |_| {}, Body::Empty);
        }
    }

    fn on_frame_received(&mut self, id: SessionId, header: &Header, body: ReceivedBody) {
        let Some(session) = self.session.as_mut().filter(|session| session.id == id) else { return };
        session.silence = Duration::ZERO;
        if header.term.0 > COUNTED_MAX {
            self.close(CloseReason::Protocol(IMPOSSIBLE_TERM));
            return;
        }
        if header.term < session.term {
            // The answer carries this node's term: the peer learns that its primacy is over.
            self.send_frame(Kind::KeepAlive, |_| {}, Body::Empty);
            self.close(CloseReason::StaleTerm);
            return;
        }
        if header.term > session.term && session.received.0 > 0 {
            // What is confirmed is confirmed to a primacy that is on record here, since the stream began.
            self.close(CloseReason::Protocol("another term within a stream"));
            return;
        }
        session.term = header.term;
        if let Err(reason) = self.take_frame(header, body) {
            self.close(reason);
        }
    }

    fn take_frame(&mut self, header: &Header, body: ReceivedBody) -> Result<(), CloseReason> {
        match header.kind {
            Kind::KeepAlive => return Ok(()),
            Kind::Account => {
                let ReceivedBody::Structured(body) = body else {
                    return Err(CloseReason::Protocol("an account without its body"));
                };
                return self.on_account(header, &body);
            }
            Kind::Goodbye => return Err(CloseReason::Stopping),
            kind if !kind.is_sequenced() => {
                return Err(CloseReason::Protocol("a frame that a primary does not send"));
            }
            _ => {}
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        if header.sequence != session.received.next() {
            return Err(CloseReason::Protocol("a gap in the stream"));
        }
        let begins = matches!(header.kind, Kind::ResyncBegin | Kind::ResumeBegin);
        if (header.sequence == Sequence(1)) != begins {
            return Err(CloseReason::Protocol("a stream begins with ResyncBegin or ResumeBegin, once"));
        }
        let end = header.offset.checked_add(header.length);
        let is_contents = matches!(header.kind, Kind::Data | Kind::Hole | Kind::Digests);
        // A data frame has its bytes with it: more than fit into a frame would be counted, and never come.
        let too_long = header.kind == Kind::Data && header.length > u64::from(PAYLOAD_MAX);
        let nowhere = (is_contents || header.kind == Kind::Verify) && end.is_none();
        if too_long || nowhere || is_contents && header.length == 0 {
            return Err(CloseReason::Protocol("an impossible extent"));
        }
        if header.kind == Kind::ResyncEnd && header.offset > COUNTED_MAX {
            return Err(CloseReason::Protocol("an impossible generation"));
        }
        if (header.kind == Kind::Copies) != (self.succeeding.is_some() && !begins) {
            return Err(CloseReason::Protocol("which file is which is told at the beginning, all at once"));
        }
        let begun = if begins { Some(self.begun_by(header, &body)?) } else { None };
        let replacement = if begins { Some(self.check_begin()?) } else { None };
        let Some(session) = &mut self.session else { return Ok(()) };
        let slot = Slot(session.base.0 + header.sequence.0);
        let frame = Frame::new(session.id, slot, header, body, self.config.in_order_bytes)?;
        session.received = header.sequence;
        session.unacked_bytes += if header.kind == Kind::Data { header.length } else { 0 };
        session.unacked_frames += 1;
        self.replacement = replacement.unwrap_or(self.replacement);
        if let Some((stream, beginning)) = begun {
            self.begin(stream, beginning, header.sequence);
            self.beginning = Some(beginning);
            self.out.push(Action::Report(Notice::Begun { beginning }));
        } else if header.kind == Kind::Copies && header.flags & FLAG_MORE == 0 {
            let stream = self.succeeding.take().filter(|_| self.legacy.take().is_some());
            self.held = stream.map(|stream| Held { stream, received: header.sequence });
        } else if let Some(held) = &mut self.held {
            held.received = header.sequence;
        }
        self.last_slot = slot;
        if header.kind == Kind::Data {
            self.counters.data_frames += 1;
            self.counters.data_bytes += header.length;
        }
        match frame {
            Frame::Barrier(body) => {
                let scope = decode_barrier(&body).map_err(|_| CloseReason::Protocol("barrier"))?;
                if let Some(session) = &mut self.session {
                    session.ack_now = true;
                }
                self.durability.add_barrier(slot, header.sequence, scope);
            }
            Frame::Work(work) => {
                self.durability.note_received(&work);
                self.pipeline.push(work);
            }
        }
        Ok(())
    }

    /// Which stream a first frame begins (none that could be gone on from: the primary does not name it), and how.
    fn begun_by(
        &self,
        header: &Header,
        body: &ReceivedBody,
    ) -> Result<(Option<StreamId>, Beginning), CloseReason> {
        const MALFORMED: CloseReason = CloseReason::Protocol("the beginning of a stream");
        let body: &[u8] = if let ReceivedBody::Structured(body) = body { body } else { &[] };
        if header.kind == Kind::ResumeBegin {
            let Resumption { stream, from } = Resumption::decode(body).map_err(|_| MALFORMED)?;
            let succeeds = header.flags & FLAG_SUCCEEDS != 0;
            let is_left = self.legacy.as_ref().is_some_and(|legacy| legacy.is_of(from.stream));
            return match succeeds {
                true if is_left => Ok((Some(stream), Beginning::Succeeded)),
                false if Some(from) == self.held => {
                    let recovers = self.recovered.is_some();
                    Ok((Some(stream), if recovers { Beginning::Recovered } else { Beginning::Resumed }))
                }
                _ => Err(CloseReason::Protocol("a stream goes on from what is not held")),
            };
        }
        let compared = Beginning::Compared(Why::Primary);
        if body.is_empty() {
            return Ok((None, compared));
        }
        Ok((Some(decode_stream(body).map_err(|_| MALFORMED)?), compared))
    }

    /// A stream begins. One that goes on from this node's own holds nothing before it is known which file is which.
    fn begin(&mut self, stream: Option<StreamId>, beginning: Beginning, received: Sequence) {
        self.recovered = None;
        if beginning == Beginning::Succeeded {
            (self.held, self.succeeding) = (None, stream);
        } else {
            self.held = stream.map(|stream| Held { stream, received });
            self.legacy = None;
        }
    }

    // ---- status --------------------------------------------------------------------------------------------

    /// The positions reached in the present session.
    fn positions(&self) -> Ack {
        let Some(session) = &self.session else { return Ack::default() };
        let below = |slot: Slot| Sequence(slot.0.saturating_sub(session.base.0).saturating_sub(1));
        let applied = self.pipeline.first().map_or(session.received, below);
        let synced = self.durability.first().map_or(applied, below).min(applied);
        Ack { received: session.received, applied, synced }
    }

    fn acknowledge(&mut self) {
        let ack = self.positions();
        let Some(session) = &mut self.session else { return };
        if ack == session.acked {
            session.ack_now = false;
            session.ack_at = None;
            return;
        }
        let due = session.ack_now
            || session.ack_at.is_some_and(|at| at <= self.now)
            || session.unacked_bytes >= self.config.ack_bytes
            || session.unacked_frames >= self.config.ack_frames;
        if !due {
            session.ack_at.get_or_insert(self.now.after(self.config.ack_delay));
            return;
        }
        session.acked = ack;
        (session.unacked_bytes, session.unacked_frames) = (0, 0);
        session.ack_at = None;
        session.ack_now = false;
        self.send_frame(Kind::Ack, |_| {}, Body::Structured(ack.encode()));
    }

    pub fn snapshot(&self) -> Snapshot {
        let Ack { received, applied, synced } = self.positions();
        Snapshot {
            phase: self.phase,
            record: self.record.durable(),
            account: self.account(),
            asks: None,
            deposed: None,
            positions: Positions { queued: received, sent: received, received, applied, synced },
            dirty_files: 0,
            dirty_bytes: 0,
            in_flight_bytes: 0,
            window_bytes: 0,
            waiting: 0,
            resync: ResyncProgress::default(),
            asked: None,
            verify: None,
            beginning: self.beginning,
            reunion: self.found,
            refused: self.refused,
            unapplied_frames: self.pipeline.len() as u64,
            counters: self.counters,
        }
    }
}
