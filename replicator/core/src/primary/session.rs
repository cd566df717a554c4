//! The connection to the peer: made again and again, watched, and when it is lost everything that was on its way is
//! marked again.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use crate::action::{Action, Body, CloseReason, IMPOSSIBLE_TERM, Notice};
use crate::dirty::WaiterId;
use crate::event::ReceivedBody;
use crate::extent::Extent;
use crate::ids::{COUNTED_MAX, Errno, FileId, Sequence, SessionId, Time};
use crate::resume::{Held, StreamId};
use crate::snapshot::Positions;
use crate::verify::VerifyState;
use crate::wire::body::{Ack, decode_extents, decode_files};
use crate::wire::header::{FLAG_MORE, Header, Kind};
use crate::wire::verdict::decode_verdict;

use super::barrier::SentBarrier;
use super::capture::Logged;
use super::resumption::Doubt;
use super::resync::Resync;
use super::waiter::Stage;
use super::{Primary, Queues};

/// All that lives as long as a connection.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub positions: Positions,
    pub last_sent: Time,
    /// How long nothing was heard, counted while this node was running.
    pub silence: Duration,
    pub resync: Resync,
    /// How often the peer was let settle before the end of the resync.
    pub settled: u32,
    /// Known regular files with something to compare.
    pub compare_files: BTreeSet<FileId>,
    /// Known files with something recorded.
    pub recorded_files: BTreeSet<FileId>,
    /// Digests frames that are not answered.
    pub digests: BTreeMap<Sequence, (FileId, Extent)>,
    /// Verify frames that are not answered.
    pub verifying: BTreeSet<Sequence>,
    pub barriers: BTreeMap<Sequence, SentBarrier>,
    pub confirm_at: Option<Time>,
    /// Frames the peer has not applied yet (until then it holds their payload), with what they count in the window.
    unapplied: VecDeque<(Sequence, u64)>,
    pub unapplied_bytes: u64,
    pub bytes_sent: u64,
    pub bytes_compared: u64,
    pub files_compared: u64,
    /// What the stream is called, if the peer may be asked to go on from it.
    pub stream: Option<StreamId>,
    /// What the peer held when it began.
    pub before: Option<Held>,
    /// Frames up to this one arrived, by what the peer says or answers.
    pub proven: Sequence,
    /// The frame with which the peer has been told which file is which, until it is proven to have arrived.
    pub copies_told: Option<Sequence>,
    /// Namespace operations behind that.
    pub doubts: VecDeque<Doubt>,
}

impl Session {
    pub(super) fn new(id: SessionId, now: Time, stream: Option<StreamId>) -> Session {
        Session {
            id,
            positions: Positions::default(),
            last_sent: now,
            silence: Duration::ZERO,
            resync: Resync::Scanning,
            settled: 0,
            compare_files: BTreeSet::new(),
            recorded_files: BTreeSet::new(),
            digests: BTreeMap::new(),
            verifying: BTreeSet::new(),
            barriers: BTreeMap::new(),
            confirm_at: None,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            bytes_sent: 0,
            bytes_compared: 0,
            files_compared: 0,
            stream,
            before: None,
            proven: Sequence(0),
            copies_told: None,
            doubts: VecDeque::new(),
        }
    }
}

/// The next attempt to connect.
#[derive(Debug)]
pub(super) struct Dial {
    random: u64,
    pause: Duration,
    state: DialState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DialState {
    Pausing(Time),
    Dialing(SessionId),
}

impl Dial {
    pub(super) fn new(seed: u64, now: Time) -> Dial {
        Dial { random: seed | 1, pause: Duration::ZERO, state: DialState::Pausing(now) }
    }

    /// Whoever is to be connected to is to be connected to now.
    pub(super) fn hasten(&mut self, now: Time) {
        if let DialState::Pausing(until) = &mut self.state {
            *until = now.min(*until);
        }
        self.pause = Duration::ZERO;
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match self.state {
            DialState::Pausing(until) => Some(until),
            DialState::Dialing(_) => None,
        }
    }

    /// Connect without waiting for the end of the pause.
    pub(super) fn hurry(&mut self, now: Time) {
        self.pause = Duration::ZERO;
        if let DialState::Pausing(_) = self.state {
            self.state = DialState::Pausing(now);
        }
    }

    /// A pause of half to all of the present length, so that two nodes do not keep in step (xorshift64, Marsaglia 2003).
    fn jittered(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = self.pause / 2;
        let nanoseconds = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(self.random % nanoseconds.max(1))
    }
}

impl Primary {
    /// Whether there is no connection, and one is wanted.
    pub(super) fn wants_session(&self) -> bool {
        self.session.is_none() && self.deposed.is_none() && !self.stopping
    }

    /// Whether it may be connected now: a stream has one term, which is on record before anybody hears of it.
    pub(super) fn may_dial(&self) -> bool {
        self.wants_session() && self.is_term_durable()
    }

    pub(super) fn is_term_durable(&self) -> bool {
        self.record.durable().term == self.record.wanted.term
    }

    /// Connect if there is no connection and the pause is over.
    pub(super) fn connect(&mut self) {
        if !self.may_dial() {
            return;
        }
        if let DialState::Pausing(until) = self.dial.state
            && until <= self.now
        {
            self.numbers.session = self.numbers.session.next();
            let session = self.numbers.session;
            self.dial.state = DialState::Dialing(session);
            self.out.push(Action::Dial { session });
        }
    }

    pub(super) fn pause_dialing(&mut self) {
        let doubled = self.dial.pause * 2;
        self.dial.pause = doubled.clamp(self.config.reconnect_min, self.config.reconnect_max);
        let pause = self.dial.jittered();
        self.dial.state = DialState::Pausing(self.now.after(pause));
    }

    pub(super) fn on_session_lost(&mut self, id: SessionId) {
        if self.session.as_ref().is_some_and(|session| session.id == id) {
            self.lose_session(None);
        } else if self.dial.state == DialState::Dialing(id) {
            self.greeting = None;
            self.pause_dialing();
        }
    }

    /// Whether a connection with that number was asked for.
    pub(super) fn is_dialled(&self, id: SessionId) -> bool {
        self.wants_session() && self.dial.state == DialState::Dialing(id)
    }

    /// End the session for a reason of this node.
    pub(super) fn close(&mut self, reason: CloseReason) {
        let Some(session) = &self.session else { return };
        self.out.push(Action::CloseSession { session: session.id, reason });
        self.lose_session(Some(reason));
    }

    /// The peer is lost: all that was on its way is marked again, and who answers callers is decided anew.
    fn lose_session(&mut self, reason: Option<CloseReason>) {
        let Some(mut session) = self.session.take() else { return };
        self.counters.sessions_lost += 1;
        self.pacing.end();
        if session.resync == Resync::Done {
            let received = session.positions.synced;
            self.record.wanted.synced = session.stream.map(|stream| Held { stream, received });
            self.dial.pause = Duration::ZERO;
        }
        self.pause_dialing();
        self.stop_verify(VerifyState::Interrupted);
        self.end_asked();
        self.keep_stream(&mut session, reason);
        for logged in core::mem::take(&mut self.log) {
            match logged {
                Logged::Entry(entry, change) => {
                    self.mark_change(&change);
                    self.not_told(&change);
                    self.out.push(Action::DropEntry { entry });
                }
                Logged::Forgotten(file) => self.forget_nameless(file),
                Logged::Changed(directory) => self.mark_directory(directory, false),
            }
        }
        self.reads.values_mut().for_each(|read| *read = None);
        (self.reading_bytes, self.digests_reading) = (0, 0);
        self.queues = Queues::default();
        self.unconfirmed.clear();
        (self.in_flight_bytes, self.in_flight_frames) = (0, 0);
        let resumes = self.last.is_ok();
        self.marks.on_session_lost(resumes);
        for file in self.marks.bound() {
            self.report(Notice::Widened { file });
        }
        self.ready.clear();
        self.waiters.retain(|_, waiter| waiter.on_session_lost());
        self.review = true;
        self.decide_without_peer(session.resync.is_exposed());
    }

    /// A peer that says nothing for too long is gone.
    pub(super) fn check_silence(&mut self) {
        let silence = self.session.as_ref().map(|session| session.silence);
        if silence.is_some_and(|silence| silence >= self.config.link.dead_after) {
            self.close(CloseReason::PeerSilent);
        }
    }

    pub(super) fn keep_alive(&mut self) {
        let Some(session) = &self.session else { return };
        if self.now.since(session.last_sent) >= self.config.link.keep_alive {
            self.send_frame(Kind::KeepAlive, |_| {}, Body::Empty);
        }
    }

    /// Put a frame into the stream; one with a position gets the next one, which is returned. `None` without a session.
    pub(super) fn send_frame(
        &mut self,
        kind: Kind,
        fill: impl FnOnce(&mut Header),
        body: Body,
    ) -> Option<Sequence> {
        let session = self.session.as_mut()?;
        let mut header = Header::new(kind, self.record.durable().term);
        fill(&mut header);
        if kind.is_sequenced() {
            session.positions.queued = session.positions.queued.next();
            header.sequence = session.positions.queued;
            let payload = match &body {
                Body::ReadData { extent, .. } => extent.length(),
                Body::Empty => 0,
                // What the edge holds is small, but there may be many of them.
                _ => 1024,
            };
            let bytes = payload + crate::wire::header::HEADER_BYTES as u64;
            session.unapplied.push_back((header.sequence, bytes));
            session.unapplied_bytes += bytes;
        }
        session.last_sent = self.now;
        self.out.push(Action::SendFrame { session: session.id, header, body });
        Some(header.sequence)
    }

    pub(super) fn on_frames_sent(&mut self, id: SessionId, upto: Sequence) {
        if let Some(session) = self.session.as_mut().filter(|session| session.id == id) {
            let upto = upto.min(session.positions.queued);
            session.positions.sent = session.positions.sent.max(upto);
        }
    }

    pub(super) fn on_frame_received(&mut self, id: SessionId, header: Header, body: ReceivedBody) {
        let Some(session) = self.session.as_mut().filter(|session| session.id == id) else {
            return self.on_greeted(id, &header, body);
        };
        session.silence = Duration::ZERO;
        if header.term.0 > COUNTED_MAX {
            self.close(CloseReason::Protocol(IMPOSSIBLE_TERM));
            return;
        }
        if header.term > self.record.durable().term {
            self.depose(header.term);
            self.close(CloseReason::StaleTerm);
            return;
        }
        match self.take_frame(&header, body) {
            Ok(())
                if matches!(
                    header.kind,
                    Kind::BarrierDone | Kind::DigestReply | Kind::CreatedReply | Kind::VerifyReply
                ) =>
            {
                self.prove(Sequence(header.offset));
            }
            Ok(()) => {}
            Err(reason) => self.close(reason),
        }
    }

    fn take_frame(&mut self, header: &Header, body: ReceivedBody) -> Result<(), CloseReason> {
        let about = Sequence(header.offset);
        match (header.kind, body) {
            (Kind::KeepAlive, _) => Ok(()),
            (Kind::Ack, ReceivedBody::Structured(body)) => self.on_ack(&body),
            (Kind::BarrierDone, _) => self.on_barrier_done(about),
            (Kind::DigestReply, ReceivedBody::Structured(body)) => {
                let extents = decode_extents(&body).map_err(|_| CloseReason::Protocol("digest reply"))?;
                self.on_digest_reply(about, &extents, header.flags & FLAG_MORE != 0)
            }
            (Kind::CreatedReply, ReceivedBody::Structured(body)) => {
                let files = decode_files(&body).map_err(|_| CloseReason::Protocol("created reply"))?;
                self.on_created_reply(about, &files, header.flags & FLAG_MORE != 0)
            }
            (Kind::VerifyReply, ReceivedBody::Structured(body)) => {
                let verdict = decode_verdict(&body).map_err(|_| CloseReason::Protocol("verify reply"))?;
                self.on_verify_reply(about, verdict)
            }
            (Kind::Failed, _) => {
                Err(CloseReason::PeerFailed(Errno(i32::try_from(header.offset).unwrap_or(i32::MAX))))
            }
            (Kind::Goodbye, _) => Err(CloseReason::Stopping),
            _ => Err(CloseReason::Protocol("a frame that a secondary does not send")),
        }
    }

    fn on_ack(&mut self, body: &[u8]) -> Result<(), CloseReason> {
        let ack = Ack::decode(body).map_err(|_| CloseReason::Protocol("ack"))?;
        let Some(session) = &mut self.session else { return Ok(()) };
        if ack.received > session.positions.queued {
            return Err(CloseReason::Protocol("an ack of frames that were not sent"));
        }
        session.positions.acknowledge(ack);
        while let Some(&(sequence, bytes)) = session.unapplied.front() {
            if sequence > ack.applied {
                break;
            }
            session.unapplied.pop_front();
            session.unapplied_bytes -= bytes;
        }
        self.prove(ack.received);
        self.on_received(ack.received);
        Ok(())
    }

    /// How far a waiter is.
    pub(super) fn stage_of(&self, waiter: WaiterId) -> Option<Stage> {
        self.waiters.get(&waiter).map(|waiter| waiter.stage)
    }
}
