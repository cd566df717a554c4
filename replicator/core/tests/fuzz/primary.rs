//! A primary whose peer says whatever it likes, while applications write and wait: whatever comes, nobody is let go before what was
//! asked for is done, and no mark is forgotten but by an answer to a barrier behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use replicator_core::action::{Action, Body, DataState, Notice, Phase, StateRecord};
use replicator_core::config::{Mode, PrimaryConfig, VolumeRoot, WhenAlone};
use replicator_core::event::{
    Event, NamespaceChange, ReadOutcome, ReceivedBody, Segment, SegmentContent, SyncScope,
};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, Generation, Sequence, SessionId, Term, Ticket, Time, VolumeId,
};
use replicator_core::lineage::Lineage;
use replicator_core::node::Node;
use replicator_core::resume::{Held, StreamId};
use replicator_core::verify::{Looked, VerifyPart, VerifyRequest};
use replicator_core::wire::body::{Ack, Holding, decode_stream, encode_extents, encode_files};
use replicator_core::wire::header::{Header, Kind, VERSION};
use replicator_core::wire::verdict::encode_verdict;
use replicator_fuzz::{Random, Share, each};

use super::encoded;

const LENGTH: u64 = 400;
const VOLUME: VolumeId = VolumeId(0);
const ROOT: u64 = 1;
const FILES: u64 = 6;
const FILE_BYTES: u64 = 20_000;
/// More than any step orders in a tree of this size.
const ORDERS_MAX: usize = 120;

fn id(inode: u64) -> FileId {
    FileId { volume: VOLUME, inode }
}

/// A caller that waits.
struct Caller {
    scope: SyncScope,
    since: u64,
    /// The peer may not have had what is asked for.
    marked: bool,
}

struct World<'a> {
    random: &'a mut Random,
    node: Node,
    mode: Mode,
    now: Time,
    step: u64,
    actions: Vec<Action>,
    dialled: Option<SessionId>,
    session: Option<SessionId>,
    version: u16,
    term: Term,
    generation: Generation,
    queued: u64,
    stream: Option<StreamId>,
    /// Orders that are not answered, with the step of each.
    orders: Vec<(Action, u64)>,
    /// Frames that an honest peer would answer.
    unanswered: Vec<Header>,
    /// Barriers of the session: when they were sent.
    barriers: BTreeMap<u64, u64>,
    /// The latest step before which a barrier was sent that was answered.
    confirmed: u64,
    /// The latest step in which a file was written.
    written: BTreeMap<FileId, u64>,
    callers: BTreeMap<Ticket, Caller>,
    tickets: u64,
    /// Local syncs that ended well: what, and when they were ordered.
    synced: Vec<(SyncScope, u64)>,
    mirrored: Option<u64>,
    was_mirrored: bool,
    entries: u64,
    /// Entries that are lists: the peer answers these.
    lists: BTreeSet<EntryId>,
    kinds: BTreeMap<FileId, FileKind>,
    released: u64,
    /// Not all is well any more.
    storm: bool,
}

impl World<'_> {
    fn new(random: &mut Random) -> World<'_> {
        let mode = *random.one(&[Mode::Sync, Mode::Sync, Mode::SemiSync, Mode::Async]);
        let record = StateRecord {
            term: Term(2),
            lineage: Lineage::untagged(Generation(5)),
            data: DataState::UpToDate,
            alone: random.chance(70),
            ..StateRecord::unknown()
        };
        let config = PrimaryConfig {
            mode,
            when_alone: *random.one(&[WhenAlone::Release, WhenAlone::Hold, WhenAlone::Ask]),
            settle: Duration::ZERO,
            confirm_interval: Duration::from_millis(200),
            read_bytes_max: 4096,
            digest_bytes_max: 8192,
            window_bytes: 64 << 10,
            incarnation: random.chance(80).then_some([1; 16]),
            partial: random.chance(20),
            ..PrimaryConfig::new(vec![VolumeRoot { volume: VOLUME, root: id(ROOT) }])
        };
        let kinds = (2..=FILES).map(|inode| (id(inode), encoded::kind(random))).collect();
        let node = Node::primary(config, record, Time(1));
        let mut world = World {
            random,
            node,
            mode,
            now: Time(1),
            step: 0,
            actions: Vec::new(),
            dialled: None,
            session: None,
            version: 1,
            term: Term(2),
            generation: Generation(5),
            queued: 0,
            stream: None,
            orders: Vec::new(),
            unanswered: Vec::new(),
            barriers: BTreeMap::new(),
            confirmed: 0,
            written: BTreeMap::new(),
            callers: BTreeMap::new(),
            tickets: 0,
            synced: Vec::new(),
            mirrored: None,
            was_mirrored: false,
            entries: 0,
            lists: BTreeSet::new(),
            kinds,
            released: 0,
            storm: false,
        };
        world.tell(Event::Tick);
        world
    }

    fn tell(&mut self, event: Event) {
        self.step += 1;
        self.node.handle(self.now, event, &mut self.actions);
        assert!(self.actions.len() <= ORDERS_MAX, "{} orders for one event", self.actions.len());
        for action in std::mem::take(&mut self.actions) {
            self.look(action);
        }
    }

    // ---- what it orders ------------------------------------------------------------------------------------

    fn look(&mut self, action: Action) {
        match action {
            Action::Dial { session } => {
                assert!(self.session.is_none() && self.dialled.is_none(), "one connection at a time");
                self.dialled = Some(session);
            }
            Action::CloseSession { session, .. } => {
                assert_eq!(self.session, Some(session), "closed twice");
                self.lost();
            }
            Action::SendFrame { session, header, body } => {
                assert_eq!(self.session, Some(session), "said on a session that is closed");
                self.look_at_frame(&header, &body);
            }
            Action::ReleaseBarrier { ticket, result } => self.look_at_release(ticket, result),
            Action::Report(Notice::Phase { to, .. }) => {
                self.mirrored = (to == Phase::Mirrored).then_some(self.step);
                self.was_mirrored |= self.mirrored.is_some();
            }
            Action::PersistState { record, .. } => {
                assert!(record.term >= self.term, "a term is never taken back");
                self.orders.push((action, self.step));
            }
            Action::SyncLocal { .. }
            | Action::ReadExtent { .. }
            | Action::ReadAttributes { .. }
            | Action::ReadDigests { .. }
            | Action::ReadDirectory { .. }
            | Action::ReadVerify { .. }
            | Action::AwaitCapture { .. } => self.orders.push((action, self.step)),
            Action::Report(_)
            | Action::ReportDifference { .. }
            | Action::DropRead { .. }
            | Action::DropEntry { .. } => {}
            Action::Apply { .. } | Action::MakeDurable { .. } | Action::KeepAside { .. } => {
                panic!("an order of a secondary: {action:?}")
            }
        }
    }

    fn look_at_frame(&mut self, header: &Header, body: &Body) {
        if header.kind.is_sequenced() {
            self.queued += 1;
            assert_eq!(header.sequence.0, self.queued, "one frame after the other");
            assert!(header.offset.checked_add(header.length).is_some(), "an impossible extent");
        }
        if let (Kind::ResyncBegin | Kind::ResumeBegin, Body::Structured(body)) = (header.kind, body) {
            self.stream = body.get(..24).and_then(|stream| decode_stream(stream).ok());
        }
        match header.kind {
            Kind::Barrier | Kind::ResyncEnd => {
                self.barriers.insert(self.queued, self.step);
                self.unanswered.push(*header);
            }
            Kind::Digests | Kind::Verify => self.unanswered.push(*header),
            Kind::Namespace => {
                if matches!(body, Body::Entry { entry } if self.lists.remove(entry)) {
                    self.unanswered.push(*header);
                }
            }
            Kind::Data
            | Kind::Hole
            | Kind::Attributes
            | Kind::ResyncBegin
            | Kind::ResumeBegin
            | Kind::Copies
            | Kind::KeepAlive
            | Kind::Account
            | Kind::Goodbye => {}
            other => panic!("a primary says {other:?}"),
        }
    }

    fn look_at_release(&mut self, ticket: Ticket, result: Result<(), Errno>) {
        let caller = self.callers.remove(&ticket).expect("a caller that waits, once");
        if result.is_err() {
            return;
        }
        self.released += 1;
        let local = self.synced.iter().any(|(scope, ordered)| {
            *ordered >= caller.since
                && match (caller.scope, *scope) {
                    (_, SyncScope::Volume(_)) => true,
                    (SyncScope::File { file, .. }, SyncScope::File { file: other, .. }) => file == other,
                    (SyncScope::Volume(_), SyncScope::File { .. }) => false,
                }
        });
        assert!(local, "let go before it is durable here");
        let mirrored = self.mirrored.is_some_and(|since| since < caller.since);
        if self.mode == Mode::Sync && mirrored && caller.marked {
            assert!(self.confirmed >= caller.since, "let go before it is durable there");
        }
    }

    /// Marks are what nothing may be forgotten of.
    fn check_marks(&self) {
        for (&file, &written) in &self.written {
            let forgotten = !self.node.is_marked(file) && self.confirmed < written;
            assert!(!forgotten, "the mark of {file} is gone and nothing was confirmed since");
        }
    }

    fn lost(&mut self) {
        self.session = None;
        self.dialled = None;
        self.unanswered.clear();
        self.barriers.clear();
    }

    // ---- what the peer says --------------------------------------------------------------------------------

    fn say(&mut self, header: Header, body: ReceivedBody) {
        let Some(session) = self.session else { return };
        let about = header.offset;
        if header.kind == Kind::BarrierDone
            && header.term <= self.term
            && let Some(sent) = self.barriers.remove(&about)
        {
            // Whether it is true is the peer's affair.
            self.confirmed = self.confirmed.max(sent);
        }
        self.tell(Event::FrameReceived { session, header, body });
    }

    fn greet(&mut self) {
        let Some(session) = self.dialled.take() else { return };
        self.version = 1 + self.random.below(usize::from(VERSION)) as u16;
        (self.session, self.queued) = (Some(session), 0);
        self.tell(Event::SessionOpened { session, version: self.version });
        let term = Term(1);
        let mut words = Vec::new();
        if self.version >= 4 && self.random.chance(95) {
            let mut account = encoded::account(self.random);
            if self.random.chance(80) {
                account.lineage = Lineage::default();
                if self.random.chance(60) {
                    account.lineage = Lineage::untagged(self.generation);
                    account.data = DataState::Consistent;
                }
                account.primary = false;
            }
            words.push((Kind::Account, account.encode()));
        }
        if self.random.chance(15) {
            words.push((Kind::Legacy, encoded::legacy(self.random)));
        }
        if self.random.chance(15) {
            words.push((Kind::Recovered, encoded::recovered(self.random)));
        }
        if self.version >= 2 && self.random.chance(95) {
            let received = Sequence(if self.random.chance(80) { self.queued } else { self.random.number() });
            let held = self.stream.filter(|_| self.random.chance(60)).map(|stream| Held { stream, received });
            let holding = Holding { generation: self.generation, held }.encode();
            words.push((
                Kind::Holding,
                if self.random.chance(80) { holding } else { encoded::holding(self.random) },
            ));
        }
        for (kind, body) in words {
            let body = if self.random.chance(2) { self.random.changed(&body) } else { body };
            self.say(Header::new(kind, term), ReceivedBody::Structured(body));
        }
    }

    /// An answer that an honest peer might give to what was sent, or an acknowledgement.
    fn say_something_fitting(&mut self) {
        if self.unanswered.is_empty() || self.random.chance(20) {
            let received = self.random.below(self.queued as usize + 1) as u64;
            let applied = self.random.below(received as usize + 1) as u64;
            let ack = Ack {
                received: Sequence(received),
                applied: Sequence(applied),
                synced: Sequence(applied / 2),
            };
            let kind = if self.random.chance(80) { Kind::Ack } else { Kind::KeepAlive };
            return self.say(Header::new(kind, Term(2)), ReceivedBody::Structured(ack.encode()));
        }
        let in_order = !self.storm || self.random.chance(80);
        let at = if in_order { 0 } else { self.random.below(self.unanswered.len()) };
        let asked = self.unanswered.remove(at);
        let random = &mut *self.random;
        let (kind, body) = match asked.kind {
            Kind::Digests => {
                let differs = Extent::at(asked.offset, asked.length.min(1 + random.below(9000) as u64));
                let extents = if random.chance(85) { Vec::new() } else { vec![differs] };
                (Kind::DigestReply, encode_extents(&extents))
            }
            Kind::Verify => (Kind::VerifyReply, encode_verdict(&encoded::verdict(random))),
            Kind::Namespace => {
                let files: Vec<FileId> = (0..random.below(6) / 4).map(|_| encoded::file(random)).collect();
                (Kind::CreatedReply, encode_files(&files))
            }
            _ => (Kind::BarrierDone, Vec::new()),
        };
        let mut header = Header::new(kind, Term(2));
        header.offset = asked.sequence.0;
        header.flags = u16::from(self.storm && random.chance(10));
        self.say(header, ReceivedBody::Structured(body));
    }

    /// Any header, any body; some of it right.
    fn say_anything(&mut self) {
        let random = &mut *self.random;
        let mut header = encoded::header(random);
        if random.chance(90) {
            header.term = Term(random.below(3) as u64);
        }
        if random.chance(50) {
            header.offset = random.below(self.queued as usize + 2) as u64;
        }
        if random.chance(40) {
            let kinds = [
                Kind::Ack,
                Kind::BarrierDone,
                Kind::DigestReply,
                Kind::CreatedReply,
                Kind::VerifyReply,
                Kind::Holding,
                Kind::Failed,
            ];
            header.kind = *random.one(&kinds);
        }
        let body = match random.below(5) {
            0 => ReceivedBody::Opaque,
            1 => ReceivedBody::Namespace(encoded::operation(random).change()),
            2 => ReceivedBody::Structured(encoded::ack(random).encode()),
            3 => ReceivedBody::Structured(encoded::any(random)),
            _ => {
                let genuine = encoded::any(random);
                ReceivedBody::Structured(random.changed(&genuine))
            }
        };
        self.say(header, body);
    }
}

// ---- what the edge and applications do ---------------------------------------------------------------------

impl World<'_> {
    fn answer_one(&mut self) {
        if self.orders.is_empty() {
            return self.tell(Event::Tick);
        }
        let at = if self.random.chance(70) { 0 } else { self.random.below(self.orders.len()) };
        let (order, ordered) = self.orders.remove(at);
        let fails = self.random.chance(1);
        match order {
            Action::SyncLocal { sync, scope } => {
                let result = if fails { Err(Errno(5)) } else { Ok(()) };
                if result.is_ok() {
                    self.synced.push((scope, ordered));
                }
                self.tell(Event::LocalSynced { sync, result });
            }
            Action::PersistState { persist, record } => {
                let result = if fails { Err(Errno(28)) } else { Ok(()) };
                if result.is_ok() {
                    self.term = record.term;
                    self.generation = record.lineage.current.number;
                }
                self.tell(Event::StatePersisted { persist, result });
            }
            Action::ReadExtent { read, file, extent } => {
                let end = extent.end.min(FILE_BYTES).max(extent.start);
                let content =
                    if self.random.chance(80) { SegmentContent::Data } else { SegmentContent::Hole };
                let whole = Extent { start: extent.start, end };
                let segments =
                    if whole.is_empty() { Vec::new() } else { vec![Segment { extent: whole, content }] };
                let outcome = self.outcome(file, segments);
                self.tell(Event::ExtentRead { read, outcome });
            }
            Action::ReadAttributes { read, file } => {
                let size = self.random.below(20_000) as u64;
                let outcome = self.outcome(file, size);
                self.tell(Event::AttributesRead { read, outcome });
            }
            Action::ReadDigests { read, file, extent } => {
                let end = extent.end.min(extent.start + 8192).min(FILE_BYTES).max(extent.start);
                let outcome = self.outcome(file, Extent { start: extent.start, end });
                self.tell(Event::DigestsRead { read, outcome });
            }
            Action::ReadDirectory { read, directory } => {
                if directory == id(ROOT) {
                    let children = self.kinds.iter().map(|(file, kind)| (*file, *kind)).collect();
                    self.log(NamespaceChange::Listed { directory, first: true, last: true, children });
                } else {
                    self.log(NamespaceChange::Listed {
                        directory,
                        first: true,
                        last: true,
                        children: Vec::new(),
                    });
                }
                self.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
            }
            Action::ReadVerify { read, part, .. } => {
                let end = if let VerifyPart::Contents(extent) = part { extent.end.min(8192) } else { 0 };
                let outcome = ReadOutcome::Read(Looked { end, bytes: 4096 });
                self.tell(Event::VerifyRead { read, outcome });
            }
            Action::AwaitCapture { read, .. } => self.tell(Event::CaptureAwaited { read }),
            other => panic!("not an order with an answer: {other:?}"),
        }
    }

    fn outcome<T>(&mut self, file: FileId, read: T) -> ReadOutcome<T> {
        match self.random.below(100) {
            0 => ReadOutcome::Failed(Errno(5)),
            1 if file != id(ROOT) => {
                self.written.remove(&file);
                self.kinds.remove(&file);
                ReadOutcome::Gone
            }
            _ => ReadOutcome::Read(read),
        }
    }

    fn log(&mut self, change: NamespaceChange) {
        self.entries += 1;
        if matches!(change, NamespaceChange::Listed { .. }) {
            self.lists.insert(EntryId(self.entries));
        }
        self.tell(Event::NamespaceLogged { entry: EntryId(self.entries), change });
    }

    fn work(&mut self) {
        let file = id(2 + self.random.below(FILES as usize - 1) as u64);
        // Nobody writes to a file that is gone: at most another one gets its number.
        let choice = match self.kinds.get(&file) {
            Some(FileKind::Regular) => self.random.below(16),
            Some(_) => *self.random.one(&[6, 8, 9]),
            None => 9,
        };
        match choice {
            0..6 => {
                let extent = Extent::at(self.random.below(20_000) as u64, 1 + self.random.below(5000) as u64);
                self.tell(Event::WriteTraced { file, extent });
                self.written.insert(file, self.step);
            }
            6 => self.tell(Event::AttributesChanged { file }),
            7 => self.tell(Event::StoreMapped { file, extent: Extent::at(0, 4096) }),
            8 => self.tell(Event::DirectoryChanged { directory: id(ROOT) }),
            9 => {
                // The file ends, and another one gets its number.
                self.written.remove(&file);
                self.log(NamespaceChange::Unlinked { parent: id(ROOT), file, last: true });
                self.tell(Event::FileForgotten { file });
                let kind = encoded::kind(self.random);
                self.kinds.insert(file, kind);
                self.log(NamespaceChange::Created { parent: id(ROOT), file, kind });
            }
            10 if self.random.chance(30) => self.tell(Event::CaptureLost { file }),
            11 if self.random.chance(30) => {
                let repair = self.random.chance(50);
                let number = 1 + self.step;
                self.tell(Event::VerifyRequested(VerifyRequest { number, repair, bytes_per_second: None }));
            }
            12 if self.random.chance(30) => {
                self.tell(Event::ResyncRequested { number: self.step, files: vec![file] });
            }
            13 if self.random.chance(30) => self.tell(Event::Overrule),
            14 if self.random.chance(30) => self.tell(Event::GoAlone { term: self.term, absence: None }),
            _ => {
                let scope = match self.random.chance(90) {
                    true => SyncScope::File { file, data_only: self.random.chance(50) },
                    false => SyncScope::Volume(VOLUME),
                };
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                let marked = match scope {
                    SyncScope::File { file, .. } => {
                        self.written.get(&file).is_some_and(|written| *written > self.confirmed)
                    }
                    SyncScope::Volume(_) => false,
                };
                self.callers.insert(ticket, Caller { scope, since: self.step + 1, marked });
                self.tell(Event::SyncRequested { ticket, scope });
            }
        }
    }

    fn live(&mut self) {
        // At first all goes well, so that the two may come to hold the same.
        let well = self.random.below(LENGTH as usize) as u64;
        for turn in 0..LENGTH {
            self.storm = turn >= well;
            let (storm, busy) = (self.storm, self.storm || turn % 4 == 0);
            match self.random.below(100) {
                _ if self.dialled.is_some() && self.random.chance(60) => self.greet(),
                0..35 => self.say_something_fitting(),
                35..37 if storm => self.say_anything(),
                35..82 => self.answer_one(),
                82..90 if busy => self.work(),
                90 if storm && self.random.chance(30) => {
                    if let Some(session) = self.session.or(self.dialled) {
                        // What was logged before is still said, to nobody.
                        self.tell(Event::SessionLost { session });
                        self.lost();
                    }
                }
                _ => {
                    self.now = self.now.after(Duration::from_millis(self.random.below(500) as u64));
                    self.tell(Event::Tick);
                }
            }
            let _ = self.node.next_deadline();
            self.check_marks();
        }
        let _ = self.node.snapshot();
    }
}

#[test]
fn a_secondary_can_say_what_it_likes() {
    let (mut released, mut confirmed, mut mirrored) = (0, 0, 0);
    let mut sessions = BTreeSet::new();
    each("frames, to a primary", Share::Runs(LENGTH), |random| {
        let mut world = World::new(random);
        world.live();
        released += world.released;
        confirmed += u64::from(world.confirmed > 0);
        mirrored += u64::from(world.was_mirrored);
        sessions.insert(world.version);
    });
    // Inputs that never get that far would try nothing.
    let enough = released > 10 && confirmed > 10 && mirrored > 2 && sessions.len() == usize::from(VERSION);
    assert!(replicator_fuzz::inputs() < 20_000 || enough, "{released} {confirmed} {mirrored} {sessions:?}");
}
