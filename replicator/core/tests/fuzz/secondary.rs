//! A secondary whose primary says whatever it likes, with an edge that does as it is told, late and not always with success: whatever comes,
//! it confirms nothing that it does not have. What it may confirm is known from its orders and their answers alone.

use std::collections::BTreeMap;
use std::time::Duration;

use replicator_core::action::{Action, Body, CloseReason, DataState, DurableScope, StateRecord};
use replicator_core::begin::Start;
use replicator_core::config::SecondaryConfig;
use replicator_core::event::{AppliedOutcome, Event, ReceivedBody};
use replicator_core::ids::{Errno, FileId, Generation, PersistId, Sequence, SessionId, Term, Time};
use replicator_core::lineage::{Lineage, Tag};
use replicator_core::node::Node;
use replicator_core::recovery::Recovered;
use replicator_core::resume::Held;
use replicator_core::succession::Legacy;
use replicator_core::wire::body::{Ack, Holding, Resumption, decode_barrier, encode_barrier, encode_stream};
use replicator_core::wire::header::{Header, Kind, VERSION};
use replicator_core::wire::hello::Role;
use replicator_fuzz::{Random, Share, each};

use super::encoded;

const APPLIES_MAX: usize = 6;
/// Inputs of one run, and so frames at most.
const LENGTH: u64 = 80;

/// A frame that the secondary took.
struct Taken {
    kind: Kind,
    file: FileId,
    scope: Option<DurableScope>,
    ordered: bool,
    /// In which step it was applied.
    applied: Option<u64>,
    durable: bool,
    /// Of a barrier: asked of the edge, made durable, answered.
    made_durable: bool,
    answered: bool,
    /// It failed, or nothing of its session is applied any more.
    over: bool,
}

impl Taken {
    fn changes(&self) -> bool {
        !matches!(self.kind, Kind::Digests | Kind::Verify | Kind::Copies | Kind::Barrier)
    }

    fn is_fence(&self) -> bool {
        matches!(self.kind, Kind::Namespace | Kind::ResyncBegin | Kind::ResumeBegin | Kind::ResyncEnd)
    }

    /// Whether a barrier for these may not be made durable before this frame is applied.
    fn concerns(&self, scope: &DurableScope) -> bool {
        match scope {
            _ if !self.changes() => false,
            DurableScope::Files(files) => self.is_fence() || files.iter().any(|(file, _)| *file == self.file),
            _ => true,
        }
    }

    /// Whether making these durable makes this frame's change durable.
    fn is_covered(&self, scope: &DurableScope) -> bool {
        match scope {
            DurableScope::Everything => true,
            _ if self.is_fence() => true,
            DurableScope::Volume(volume) => self.file.volume == *volume,
            DurableScope::Files(files) => files
                .iter()
                .any(|&(file, data_only)| file == self.file && !(data_only && self.kind == Kind::Attributes)),
        }
    }
}

struct World<'a> {
    random: &'a mut Random,
    node: Node,
    now: Time,
    step: u64,
    actions: Vec<Action>,
    session: Option<SessionId>,
    sessions: u64,
    version: u16,
    /// Frames of the open session and of former ones.
    frames: BTreeMap<(SessionId, u64), Taken>,
    received: u64,
    /// The number of the frame that arrives; 0 if it has none.
    arriving: u64,
    term: Term,
    told: Option<Held>,
    applies: Vec<(SessionId, Sequence, bool)>,
    syncs: Vec<(SessionId, Sequence, DurableScope, u64)>,
    persist: Option<(PersistId, StateRecord)>,
    durable: StateRecord,
    /// The end of a resync was made durable since the copy was taken for incomplete.
    whole: bool,
}

impl World<'_> {
    fn new(random: &mut Random) -> World<'_> {
        let lineage = match random.chance(80) {
            true => Lineage::beginning_with(encoded::generation(random)),
            false => Lineage::default(),
        };
        let record = StateRecord {
            term: Term(random.below(3) as u64),
            lineage,
            data: DataState::from_u8(random.below(4) as u8).unwrap(),
            ..StateRecord::unknown()
        };
        let config =
            SecondaryConfig { applies_max: APPLIES_MAX, in_order_bytes: 4096, ..SecondaryConfig::default() };
        let mut node = Node::secondary(config, record, Time(1));
        match random.below(5) {
            0 => node.restore(replicator_core::checkpoint::Checkpoint::Secondary(encoded::held(random))),
            1 => node.leave(Legacy::decode(&encoded::legacy(random)).unwrap()),
            2 => node.recover(Recovered::decode(&encoded::recovered(random)).unwrap()),
            _ => {}
        }
        World {
            random,
            node,
            now: Time(1),
            step: 0,
            actions: Vec::new(),
            session: None,
            sessions: 0,
            version: 0,
            frames: BTreeMap::new(),
            received: 0,
            arriving: 0,
            term: record.term,
            told: None,
            applies: Vec::new(),
            syncs: Vec::new(),
            persist: None,
            durable: record,
            whole: record.data == DataState::UpToDate,
        }
    }

    fn tell(&mut self, event: Event) {
        self.step += 1;
        let arrived = matches!(event, Event::FrameReceived { .. });
        self.node.handle(self.now, event, &mut self.actions);
        let closes = |action: &Action| matches!(action, Action::CloseSession { session, .. } if Some(*session) == self.session);
        if let Some(session) = self.session.filter(|_| arrived && self.actions.iter().any(closes)) {
            // It was not taken.
            self.frames.remove(&(session, self.arriving));
        }
        let barriers = self.frames.values().filter(|frame| frame.scope.is_some()).count();
        let most = 24 + APPLIES_MAX + barriers + self.sessions as usize;
        assert!(self.actions.len() <= most, "{} orders for one event", self.actions.len());
        for action in std::mem::take(&mut self.actions) {
            self.look(action);
        }
    }

    // ---- what it orders ------------------------------------------------------------------------------------

    fn look(&mut self, action: Action) {
        match action {
            Action::SendFrame { session, header, body } => {
                assert_eq!(Some(session), self.session, "said on a session that is closed");
                self.look_at_frame(session, &header, &body);
            }
            Action::CloseSession { session, reason } => {
                if Some(session) == self.session {
                    self.session = None;
                }
                if matches!(reason, CloseReason::LocalFailure(_) | CloseReason::StaleTerm) {
                    self.frames.values_mut().for_each(|frame| frame.over = true);
                }
            }
            Action::Apply { session, sequence, in_order } => {
                let frame = self.frames.get_mut(&(session, sequence.0)).expect("a frame that was taken");
                assert!(!frame.ordered && frame.kind != Kind::Barrier, "applied twice, or a barrier");
                assert!(!frame.over, "applied though nothing of it is to be");
                frame.ordered = true;
                if matches!(frame.kind, Kind::ResyncBegin | Kind::ResumeBegin) {
                    assert_eq!(
                        self.durable.data,
                        DataState::Inconsistent,
                        "that is on record before it is so"
                    );
                }
                self.applies.push((session, sequence, in_order));
                assert!(self.applies.len() <= APPLIES_MAX);
            }
            Action::MakeDurable { session, barrier, scope } => self.look_at_sync(session, barrier, scope),
            Action::PersistState { persist, record } => {
                assert!(self.persist.is_none(), "one record at a time");
                if record.data == DataState::UpToDate {
                    assert!(self.whole, "on record as up to date without the end of a resync");
                } else {
                    self.whole = false;
                }
                self.persist = Some((persist, record));
            }
            _ => {}
        }
    }

    fn look_at_sync(&mut self, session: SessionId, barrier: Sequence, scope: DurableScope) {
        // Without an asking barrier it is the end of a session: all that was received of any is applied.
        let asked = self.frames.get(&(session, barrier.0)).and_then(|frame| frame.scope.clone());
        let asked = asked.filter(|_| self.session == Some(session)).unwrap_or(DurableScope::Everything);
        let before = self.frames.range(..(session, barrier.0)).map(|(_, frame)| frame);
        for frame in before.filter(|frame| !frame.over && frame.concerns(&asked)) {
            assert!(frame.applied.is_some(), "made durable before {:?} is applied", frame.kind);
        }
        let covers = match (&asked, &scope) {
            (_, DurableScope::Everything) => true,
            (DurableScope::Volume(one), DurableScope::Volume(other)) => one == other,
            (DurableScope::Files(some), DurableScope::Files(all)) => some.iter().all(|(file, data_only)| {
                all.iter().any(|(other, data)| file == other && (*data_only || !data))
            }),
            _ => false,
        };
        assert!(covers, "{asked:?} was asked, {scope:?} is made durable");
        self.syncs.push((session, barrier, scope, self.step));
    }

    fn look_at_frame(&mut self, session: SessionId, header: &Header, body: &Body) {
        match (header.kind, body) {
            (Kind::BarrierDone, _) => {
                let frame = self.frames.get_mut(&(session, header.offset)).expect("a barrier that was sent");
                assert!(matches!(frame.kind, Kind::Barrier | Kind::ResyncEnd), "it was asked for");
                assert!(frame.made_durable && !frame.answered, "confirmed before it is durable, or twice");
                frame.answered = true;
                if frame.kind == Kind::ResyncEnd {
                    assert_eq!(self.durable.data, DataState::UpToDate, "on record before it is said");
                }
            }
            (Kind::Ack, Body::Structured(body)) => {
                let ack = Ack::decode(body).expect("an ack that can be read");
                assert!(ack.received.0 <= self.received, "received what was not sent");
                for sequence in 1..=ack.applied.0 {
                    let frame = &self.frames[&(session, sequence)];
                    assert!(
                        frame.kind == Kind::Barrier || frame.applied.is_some(),
                        "{sequence} is not applied"
                    );
                    let durable = sequence > ack.synced.0 || !frame.changes() || frame.durable;
                    assert!(durable, "{sequence} ({:?}) is not durable", frame.kind);
                }
            }
            (Kind::Holding, Body::Structured(body)) => {
                self.told = Holding::decode(body).expect("what can be read").held;
            }
            (Kind::DigestReply | Kind::CreatedReply | Kind::VerifyReply, Body::Structured(_)) => {
                let frame = &self.frames[&(session, header.offset)];
                let asked = match header.kind {
                    Kind::DigestReply => Kind::Digests,
                    Kind::CreatedReply => Kind::Namespace,
                    _ => Kind::Verify,
                };
                assert!(frame.kind == asked && frame.applied.is_some(), "an answer to what was not done");
            }
            (Kind::Account | Kind::Legacy | Kind::Recovered, Body::Structured(_))
            | (Kind::KeepAlive | Kind::Failed | Kind::Goodbye, Body::Empty) => {}
            other => panic!("a secondary says {other:?}"),
        }
    }

    // ---- what it is told -----------------------------------------------------------------------------------

    fn answer_one(&mut self) {
        let first_in_order = self.applies.iter().position(|(_, _, in_order)| *in_order);
        match self.random.below(4) {
            0 if !self.syncs.is_empty() => {
                let at = self.random.below(self.syncs.len());
                let (session, barrier, scope, ordered) = self.syncs.remove(at);
                let result = if self.random.chance(1) { Err(Errno(5)) } else { Ok(()) };
                if result.is_ok() {
                    self.made_durable(session, barrier, &scope, ordered);
                }
                self.tell(Event::MadeDurable { session, barrier, result });
            }
            1 if self.persist.is_some() => {
                let (persist, record) = self.persist.take().unwrap();
                let result = if self.random.chance(2) { Err(Errno(28)) } else { Ok(()) };
                if result.is_ok() {
                    self.durable = record;
                }
                self.tell(Event::StatePersisted { persist, result });
            }
            _ if !self.applies.is_empty() => {
                let mut at = self.random.below(self.applies.len());
                if self.applies[at].2 {
                    at = first_in_order.unwrap_or(at);
                }
                let (session, sequence, _) = self.applies.remove(at);
                self.applied(session, sequence);
            }
            _ => self.tell(Event::Tick),
        }
    }

    fn made_durable(&mut self, session: SessionId, barrier: Sequence, scope: &DurableScope, ordered: u64) {
        for frame in self.frames.values_mut() {
            let in_time = frame.applied.is_some_and(|step| step < ordered);
            frame.durable |= in_time && frame.is_covered(scope);
        }
        let open = self.session == Some(session);
        if let Some(frame) = self.frames.get_mut(&(session, barrier.0)).filter(|_| open) {
            frame.made_durable = true;
            self.whole |= frame.kind == Kind::ResyncEnd;
        }
    }

    fn applied(&mut self, session: SessionId, sequence: Sequence) {
        let step = self.step;
        let frame = self.frames.get_mut(&(session, sequence.0)).unwrap();
        let fails = self.random.chance(1);
        let outcome = match frame.kind {
            _ if fails => Err(Errno(28)),
            Kind::Digests if self.random.chance(60) => {
                Ok(AppliedOutcome::Differs(encoded::extents(self.random)))
            }
            Kind::Namespace if self.random.chance(60) => {
                Ok(AppliedOutcome::Created(vec![encoded::file(self.random)]))
            }
            Kind::Verify => Ok(AppliedOutcome::Verified(encoded::verdict(self.random))),
            _ => Ok(AppliedOutcome::Done),
        };
        if outcome.is_ok() {
            frame.applied = Some(step);
        } else {
            frame.over = true;
        }
        self.tell(Event::Applied { session, sequence, outcome });
    }

    fn open(&mut self) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.session = Some(session);
        self.received = 0;
        self.version = 1 + self.random.below(usize::from(VERSION)) as u16;
        self.tell(Event::SessionOpened { session, version: self.version });
        if self.version >= 4 && self.random.chance(90) {
            let mut account = encoded::account(self.random);
            if self.random.chance(70) {
                (account.lineage, account.primary) = (self.durable.lineage, true);
                account.data = DataState::UpToDate;
            }
            let mut header = Header::new(Kind::Account, self.term);
            header.flags = u16::from(self.random.chance(60));
            if self.random.chance(3) {
                account.lineage.current.number = Generation(self.random.number());
            }
            self.say(header, ReceivedBody::Structured(account.encode()));
        }
        if self.random.chance(90) {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let stream = encoded::stream(self.random);
        let mut header = Header::new(Kind::ResyncBegin, self.term);
        header.sequence = Sequence(1);
        let mut body = if self.random.chance(80) { encode_stream(stream) } else { Vec::new() };
        if self.random.chance(40) {
            header.kind = Kind::ResumeBegin;
            header.flags = u16::from(self.random.chance(30));
            let from = self.told.filter(|_| self.random.chance(80));
            let from = from.unwrap_or_else(|| encoded::held(self.random));
            body = Resumption { stream, from }.encode();
        }
        self.say(header, ReceivedBody::Structured(body));
    }

    /// A frame that fits, as far as that can be known.
    fn say_something_fitting(&mut self) {
        let random = &mut *self.random;
        let kinds = [
            (Kind::Data, 6),
            (Kind::Hole, 2),
            (Kind::Attributes, 3),
            (Kind::Namespace, 4),
            (Kind::Digests, 2),
            (Kind::Verify, 1),
            (Kind::Barrier, 3),
            (Kind::ResyncEnd, 1),
            (Kind::KeepAlive, 1),
        ];
        let all: usize = kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(all);
        let (kind, _) = *kinds
            .iter()
            .find(|(_, weight)| at.checked_sub(*weight).map(|rest| at = rest).is_none())
            .unwrap();
        let mut header = Header::new(kind, self.term);
        header.file = encoded::file(random);
        if kind.is_sequenced() {
            header.sequence = Sequence(self.received + 1);
        }
        if matches!(kind, Kind::Data | Kind::Hole | Kind::Digests | Kind::Verify) {
            header.offset = random.below(20_000) as u64;
            header.length = 1 + random.below(9000) as u64;
            if random.chance(5) {
                (header.offset, header.length) = (random.number(), random.number());
            }
        }
        let body = match kind {
            Kind::Namespace => ReceivedBody::Namespace(encoded::operation(random).change()),
            Kind::Barrier => ReceivedBody::Structured(encode_barrier(&encoded::scope(random))),
            Kind::ResyncEnd => {
                let generation = self.durable.lineage.current.number;
                header.offset = if random.chance(50) { generation.0 } else { random.number() };
                ReceivedBody::Opaque
            }
            _ => ReceivedBody::Opaque,
        };
        self.say(header, body);
    }

    /// Any header, any body; some of it right.
    fn say_anything(&mut self) {
        let random = &mut *self.random;
        let mut header = encoded::header(random);
        if random.chance(80) {
            header.term = self.term;
        }
        if random.chance(80) {
            header.sequence = Sequence(self.received + 1);
        }
        let body = match random.below(6) {
            0 => ReceivedBody::Opaque,
            1 => ReceivedBody::Namespace(encoded::operation(random).change()),
            2 => ReceivedBody::Structured(random.bytes(80)),
            3 => ReceivedBody::Structured(encoded::any(random)),
            4 => ReceivedBody::Structured(encode_barrier(&encoded::scope(random))),
            _ => {
                let genuine = encoded::any(random);
                ReceivedBody::Structured(random.changed(&genuine))
            }
        };
        self.say(header, body);
    }

    /// The frame arrives. Whether it was taken shows in the session: what is not taken ends it.
    fn say(&mut self, header: Header, body: ReceivedBody) {
        let Some(session) = self.session else { return };
        let scope = match (header.kind, &body) {
            (Kind::Barrier, ReceivedBody::Structured(body)) => decode_barrier(body).ok(),
            (Kind::ResyncEnd, _) => Some(DurableScope::Everything),
            _ => None,
        };
        let taken = Taken {
            kind: header.kind,
            file: header.file,
            scope,
            ordered: false,
            applied: None,
            durable: false,
            made_durable: false,
            answered: false,
            over: false,
        };
        let fits = header.kind.is_sequenced() && header.sequence.0 == self.received + 1;
        // What ends the session is no frame of it: its number is none.
        let number = if fits { self.received + 1 } else { 0 };
        self.arriving = number;
        if fits {
            self.received = number;
            self.frames.insert((session, number), taken);
        }
        self.tell(Event::FrameReceived { session, header, body });
        if self.session == Some(session) {
            assert!(fits || !header.kind.is_sequenced(), "a frame out of its place is taken");
            self.term = self.term.max(header.term);
        }
    }

    fn live(&mut self) {
        for _ in 0..LENGTH {
            match self.random.below(100) {
                _ if self.session.is_none() && self.random.chance(70) => self.open(),
                0..50 => self.say_something_fitting(),
                50..56 => self.say_anything(),
                56..94 => self.answer_one(),
                94 => {
                    let session = self.session.take().unwrap_or(SessionId(self.sessions));
                    self.tell(Event::SessionLost { session });
                }
                95 if self.random.chance(20) => self.tell(Event::CopyChanged),
                _ => {
                    let pause = Duration::from_millis(self.random.below(900) as u64);
                    self.now = self.now.after(pause);
                    self.tell(Event::Tick);
                }
            }
            let _ = self.node.next_deadline();
        }
        let _ = self.node.snapshot();
    }

    /// What is on record now must be of use to a node that is to be the primary.
    fn promote(&mut self) {
        let start = Start { forced: true, ..Start::by_itself(Tag(7)) };
        let found = StateRecord { role: Some(Role::Secondary), ..self.durable };
        let record = StateRecord::begin_primary(Some(found), start).expect("forced");
        assert!(record.term >= self.durable.term && record.term > Term(0));
        assert!(record.lineage.current.number > Generation(0));
    }
}

#[test]
fn a_primary_can_say_what_it_likes() {
    let mut confirmed = 0;
    let mut resynced = 0;
    each("frames, to a secondary", Share::Runs(LENGTH), |random| {
        let mut world = World::new(random);
        world.live();
        world.promote();
        let answered = world.frames.values().filter(|frame| frame.answered);
        confirmed += answered.clone().count();
        resynced += answered.filter(|frame| frame.kind == Kind::ResyncEnd).count();
    });
    assert!(replicator_fuzz::inputs() < 20_000 || confirmed > 100 && resynced > 2, "{confirmed} {resynced}");
}
