//! Sessions that go on where the last one ended, and those that must not: each case by itself, driven against one node. The
//! simulation finds the others.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use replicator_core::action::{Action, Body, CloseReason, Phase, StateRecord};
use replicator_core::config::{PrimaryConfig, SecondaryConfig, VolumeRoot};
use replicator_core::event::{
    AppliedOutcome, Event, NamespaceChange, ReadOutcome, ReceivedBody, Segment, SegmentContent,
};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, Generation, Sequence, SessionId, Term, Time, VolumeId,
};
use replicator_core::lineage::Lineage;
use replicator_core::node::Node;
use replicator_core::resume::{Beginning, Held, StreamId, Why};
use replicator_core::wire::body::{Ack, Holding, Resumption, encode_extents, encode_files, encode_stream};
use replicator_core::wire::header::{Header, Kind, VERSION_FLAGS as VERSION, VERSION_MIN};

const ROOT: u64 = 1;
const INCARNATION: [u8; 16] = [7; 16];

fn id(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

fn stream(number: u64) -> StreamId {
    StreamId { incarnation: INCARNATION, number }
}

/// What was asked of the edge, or sent, in a session.
#[derive(Default, Debug)]
struct Asked {
    listed: BTreeSet<u64>,
    read: BTreeSet<u64>,
    digested: BTreeSet<u64>,
    attributes: BTreeSet<u64>,
    kinds: Vec<Kind>,
}

/// A primary with a small tree, `1/{2, 3, 4/{5}}` with the directories 1 and 4, and a peer that answers.
struct Driven {
    node: Node,
    now: Time,
    actions: Vec<Action>,
    session: SessionId,
    queued: Sequence,
    entries: u64,
    /// Those that are lists.
    listed: BTreeSet<EntryId>,
    lists: BTreeMap<u64, Vec<(u64, FileKind)>>,
    /// The peer says nothing more.
    mute: bool,
    asked: Asked,
}

impl Driven {
    /// Both nodes hold the same.
    fn mirrored() -> Driven {
        Driven::mirrored_in(VERSION)
    }

    fn mirrored_in(version: u16) -> Driven {
        let mut config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root: id(ROOT) }]);
        config.incarnation = Some(INCARNATION);
        let now = Time(1_000_000_000);
        let regular = |inode| (inode, FileKind::Regular);
        let mut driven = Driven {
            node: Node::primary(config, record::alone(), now),
            now,
            actions: Vec::new(),
            session: SessionId(0),
            queued: Sequence(0),
            entries: 0,
            listed: BTreeSet::new(),
            lists: BTreeMap::from([
                (ROOT, vec![regular(2), regular(3), (4, FileKind::Directory)]),
                (4, vec![regular(5)]),
            ]),
            mute: false,
            asked: Asked::default(),
        };
        driven.open(version, None);
        driven.run();
        assert_eq!(driven.node.snapshot().phase, Phase::Mirrored);
        assert_eq!(driven.asked.digested, BTreeSet::from([2, 3, 5]));
        driven
    }

    fn tell(&mut self, event: Event) {
        self.node.handle(self.now, event, &mut self.actions);
    }

    fn pass(&mut self) {
        self.now = self.now.after(Duration::from_millis(10));
        self.tell(Event::Tick);
        for action in mem::take(&mut self.actions) {
            self.answer(action);
        }
    }

    /// Three seconds.
    fn run(&mut self) {
        for _ in 0..300 {
            if !self.mute {
                self.reply(Kind::KeepAlive, Sequence(0), Vec::new());
            }
            self.pass();
        }
    }

    /// The next connection; the peer holds that.
    fn open(&mut self, version: u16, held: Option<Held>) {
        let before = self.session;
        while self.session == before {
            self.pass();
        }
        self.asked = Asked::default();
        self.mute = false;
        self.queued = Sequence(0);
        self.tell(Event::SessionOpened { session: self.session, version });
        if version == VERSION {
            let holding = Holding { generation: Generation(5), held };
            self.reply(Kind::Holding, Sequence(0), holding.encode());
        }
    }

    /// The connection is lost and there again: the peer has all that was sent up to there.
    fn reopen(&mut self, received: Sequence) {
        let held = Held { stream: stream(self.session.0), received };
        self.tell(Event::SessionLost { session: self.session });
        self.open(VERSION, Some(held));
        self.run();
    }

    fn answer(&mut self, action: Action) {
        match action {
            Action::Dial { session } => self.session = session,
            Action::SyncLocal { sync, .. } => self.tell(Event::LocalSynced { sync, result: Ok(()) }),
            Action::PersistState { persist, .. } => {
                self.tell(Event::StatePersisted { persist, result: Ok(()) });
            }
            Action::ReadDirectory { read, directory } => {
                self.asked.listed.insert(directory.inode);
                let children = self.lists.get(&directory.inode).cloned().unwrap_or_default();
                let children = children.into_iter().map(|(inode, kind)| (id(inode), kind)).collect();
                self.listed.insert(EntryId(self.entries + 1));
                self.log(NamespaceChange::Listed { directory, first: true, last: true, children });
                self.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
            }
            Action::ReadAttributes { read, file } => {
                self.asked.attributes.insert(file.inode);
                self.tell(Event::AttributesRead { read, outcome: ReadOutcome::Read(4) });
            }
            Action::ReadExtent { read, file, extent } => {
                self.asked.read.insert(file.inode);
                let extent = Extent { end: extent.end.min(4), ..extent };
                let segments = vec![Segment { extent, content: SegmentContent::Data }];
                let segments = if extent.is_empty() { Vec::new() } else { segments };
                self.tell(Event::ExtentRead { read, outcome: ReadOutcome::Read(segments) });
            }
            Action::ReadDigests { read, file, extent } => {
                self.asked.digested.insert(file.inode);
                let outcome = ReadOutcome::Read(Extent { end: extent.end.min(4), ..extent });
                self.tell(Event::DigestsRead { read, outcome });
            }
            Action::SendFrame { header, body, .. } => {
                self.asked.kinds.push(header.kind);
                self.queued = self.queued.max(header.sequence);
                if !self.mute {
                    self.answer_frame(&header, &body);
                }
            }
            _ => {}
        }
    }

    /// As a secondary would.
    fn answer_frame(&mut self, header: &Header, body: &Body) {
        let about = header.sequence;
        match (header.kind, body) {
            (Kind::Namespace, Body::Entry { entry }) if self.listed.contains(entry) => {
                self.reply(Kind::CreatedReply, about, encode_files(&[]));
            }
            (Kind::Digests, _) => self.reply(Kind::DigestReply, about, encode_extents(&[])),
            (Kind::Barrier | Kind::ResyncEnd, _) => self.reply(Kind::BarrierDone, about, Vec::new()),
            _ => {}
        }
    }

    fn reply(&mut self, kind: Kind, about: Sequence, body: Vec<u8>) {
        let mut header = Header::new(kind, Term(2));
        header.offset = about.0;
        let body = ReceivedBody::Structured(body);
        self.tell(Event::FrameReceived { session: self.session, header, body });
    }

    /// The connection breaks: what the peer holds then, if all that was sent arrived.
    fn cut(&mut self) -> Held {
        let held = Held { stream: stream(self.session.0), received: self.queued };
        self.tell(Event::SessionLost { session: self.session });
        held
    }

    fn log(&mut self, change: NamespaceChange) {
        self.entries += 1;
        self.tell(Event::NamespaceLogged { entry: EntryId(self.entries), change });
    }

    fn create(&mut self, parent: u64, file: u64) {
        self.lists.entry(parent).or_default().push((file, FileKind::Regular));
        self.log(NamespaceChange::Created { parent: id(parent), file: id(file), kind: FileKind::Regular });
    }

    fn write(&mut self, file: u64) {
        self.tell(Event::WriteTraced { file: id(file), extent: Extent::at(0, 2) });
    }

    /// From now on nothing arrives, and a while passes.
    fn fall_silent(&mut self) {
        self.mute = true;
        for _ in 0..20 {
            self.pass();
        }
    }

    fn beginning(&self) -> Option<Beginning> {
        self.node.snapshot().beginning
    }

    fn is_mirrored(&self) -> bool {
        let snapshot = self.node.snapshot();
        snapshot.phase == Phase::Mirrored && snapshot.dirty_files == 0
    }
}

fn set<const N: usize>(files: [u64; N]) -> BTreeSet<u64> {
    BTreeSet::from(files)
}

#[test]
fn what_did_not_change_does_not_travel() {
    let mut driven = Driven::mirrored();
    driven.reopen(driven.queued);
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    assert_eq!(driven.asked.kinds.first(), Some(&Kind::ResumeBegin));
    let useful = |kind: &&Kind| !matches!(kind, Kind::ResumeBegin | Kind::KeepAlive | Kind::ResyncEnd);
    assert_eq!(driven.asked.kinds.iter().find(useful), None);
    assert!(driven.is_mirrored());
}

#[test]
fn what_changed_meanwhile_travels_and_nothing_else() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.write(3);
    driven.tell(Event::AttributesChanged { file: id(5) });
    driven.create(4, 6);
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.asked.listed, set([4]));
    assert_eq!(driven.asked.read, set([3, 6]), "{:?}", driven.asked);
    assert_eq!(driven.asked.attributes, set([3, 4, 5, 6]));
    assert!(driven.is_mirrored());
}

#[test]
fn what_was_sent_and_is_not_confirmed_is_sent_again() {
    let mut driven = Driven::mirrored();
    driven.write(2);
    driven.fall_silent();
    assert_eq!(driven.node.snapshot().in_flight_bytes, 2);
    driven.reopen(driven.queued);
    assert_eq!((driven.asked.read, driven.asked.listed), (set([2]), set([])));
}

/// A file was made, and the frame that says so is lost, or only the word that it arrived.
fn a_made_file_in_doubt(arrived: bool, acknowledged: bool) -> Driven {
    let mut driven = Driven::mirrored();
    let before = driven.queued;
    driven.mute = true;
    driven.create(4, 6);
    driven.pass();
    assert!(driven.queued > before);
    let received = if arrived { driven.queued } else { before };
    if acknowledged {
        let ack = Ack { received, applied: before, synced: before };
        driven.reply(Kind::Ack, Sequence(0), ack.encode());
    }
    driven.reopen(received);
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    driven
}

#[test]
fn an_operation_that_did_not_arrive_is_told_by_a_list() {
    let driven = a_made_file_in_doubt(false, false);
    assert_eq!((&driven.asked.listed, &driven.asked.read), (&set([4]), &set([6])));
    assert!(driven.is_mirrored());
}

#[test]
fn an_operation_that_may_have_arrived_is_told_by_a_list() {
    assert_eq!(a_made_file_in_doubt(true, false).asked.listed, set([4]));
}

#[test]
fn an_operation_that_is_known_to_have_arrived_is_not_told_again() {
    let driven = a_made_file_in_doubt(true, true);
    assert_eq!((&driven.asked.listed, &driven.asked.read), (&set([]), &set([6])));
    assert!(driven.is_mirrored());
}

#[test]
fn a_number_that_was_given_to_a_new_file_meanwhile_is_sent_whole() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.lists.insert(ROOT, vec![(2, FileKind::Regular), (4, FileKind::Directory)]);
    driven.log(NamespaceChange::Unlinked { parent: id(ROOT), file: id(3), last: true });
    driven.tell(Event::FileForgotten { file: id(3) });
    driven.create(4, 3);
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!((&driven.asked.listed, &driven.asked.read), (&set([ROOT, 4]), &set([3])));
    assert!(driven.is_mirrored());
}

#[test]
fn a_list_without_an_answer_is_taken_again() {
    let mut driven = Driven::mirrored();
    let before = driven.queued;
    driven.mute = true;
    driven.lists.entry(4).or_default().push((6, FileKind::Regular));
    driven.tell(Event::DirectoryChanged { directory: id(4) });
    driven.pass();
    driven.pass();
    assert!(driven.queued > before);
    driven.reopen(before);
    assert_eq!((&driven.asked.listed, &driven.asked.digested), (&set([4]), &set([5, 6])));
    assert!(driven.is_mirrored());
}

#[test]
fn lost_events_are_made_up_for_in_the_next_session() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.tell(Event::CaptureLost { file: id(2) });
    driven.tell(Event::CaptureLost { file: id(4) });
    driven.tell(Event::DirectoryChanged { directory: id(ROOT) });
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    assert_eq!((&driven.asked.listed, &driven.asked.digested), (&set([ROOT, 4]), &set([2, 5])));
    assert!(driven.is_mirrored());
}

#[test]
fn a_stream_of_which_nothing_arrived_changes_nothing() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.create(4, 6);
    for _ in 0..3 {
        driven.open(VERSION, Some(held));
        driven.fall_silent();
        assert!(driven.asked.kinds.contains(&Kind::Namespace), "the list was sent");
        driven.tell(Event::SessionLost { session: driven.session });
    }
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    assert_eq!(driven.asked.listed, set([4]));
    // Of the file that was there before, the end: the lists were sent, and not answered.
    assert_eq!(driven.asked.read, set([5, 6]));
    assert!(driven.is_mirrored());
}

#[test]
fn in_doubt_everything_is_compared() {
    type Ending = fn(&mut Driven) -> (u16, Option<Held>);
    let cases: [(Why, Ending); 6] = [
        (Why::NothingHeld, |_| (VERSION, None)),
        (Why::OtherStream, |driven| {
            let stream = StreamId { incarnation: [8; 16], number: driven.session.0 };
            (VERSION, Some(Held { stream, received: driven.queued }))
        }),
        (Why::Position, |driven| {
            let received = Sequence(driven.queued.0 + 1);
            (VERSION, Some(Held { stream: stream(driven.session.0), received }))
        }),
        (Why::Untold, |driven| {
            driven.tell(Event::Untold { lasting: false });
            (VERSION, Some(Held { stream: stream(driven.session.0), received: driven.queued }))
        }),
        (Why::Unable, |driven| {
            driven.tell(Event::Untold { lasting: true });
            (VERSION, Some(Held { stream: stream(driven.session.0), received: driven.queued }))
        }),
        (Why::Unable, |_| (VERSION_MIN, None)),
    ];
    for (why, ending) in cases {
        let mut driven = Driven::mirrored();
        let (version, held) = ending(&mut driven);
        driven.tell(Event::SessionLost { session: driven.session });
        driven.open(version, held);
        driven.run();
        assert_eq!(driven.beginning(), Some(Beginning::Compared(why)));
        assert_eq!(driven.asked.kinds.first(), Some(&Kind::ResyncBegin));
        assert_eq!((&driven.asked.listed, &driven.asked.digested), (&set([ROOT, 4]), &set([2, 3, 5])));
        assert!(driven.is_mirrored(), "{why:?}");
    }
}

#[test]
fn after_a_failure_of_the_peer_everything_is_compared() {
    let mut driven = Driven::mirrored();
    let held = Held { stream: stream(driven.session.0), received: driven.queued };
    driven.reply(Kind::Failed, Sequence(5), Vec::new());
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Compared(Why::Failed)));
    assert_eq!(driven.asked.digested, set([2, 3, 5]));
}

#[test]
fn a_session_in_the_old_version_cannot_be_gone_on_from() {
    let mut driven = Driven::mirrored_in(VERSION_MIN);
    driven.tell(Event::SessionLost { session: driven.session });
    driven.open(VERSION, None);
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Compared(Why::Unable)));
}

#[test]
fn a_peer_that_does_not_say_what_it_holds_is_given_up() {
    let mut driven = Driven::mirrored();
    driven.tell(Event::SessionLost { session: driven.session });
    driven.mute = true;
    let before = driven.session;
    while driven.session == before {
        driven.pass();
    }
    let session = driven.session;
    driven.tell(Event::SessionOpened { session, version: VERSION });
    let mut closed = false;
    for _ in 0..400 {
        driven.now = driven.now.after(Duration::from_millis(10));
        driven.tell(Event::Tick);
        closed |= driven.actions.iter().any(|action| matches!(action, Action::CloseSession { session: of, reason: CloseReason::PeerSilent } if *of == session));
        driven.actions.clear();
    }
    assert!(closed);
}

// ---- the secondary ---------------------------------------------------------------------------------------

/// A secondary whose edge does everything at once.
struct Follower {
    node: Node,
    session: SessionId,
    /// What it said it holds.
    said: Option<Holding>,
    closed: bool,
    fails: bool,
}

impl Follower {
    fn new() -> Follower {
        let record = StateRecord {
            term: Term(1),
            lineage: Lineage::untagged(Generation(1)),
            ..StateRecord::unknown()
        };
        let node = Node::secondary(SecondaryConfig::default(), record, Time(1));
        Follower { node, session: SessionId(0), said: None, closed: false, fails: false }
    }

    fn tell(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.node.handle(Time(1), event, &mut actions);
        for action in actions {
            match action {
                Action::SendFrame { header, body: Body::Structured(body), .. }
                    if header.kind == Kind::Holding =>
                {
                    self.said = Some(Holding::decode(&body).expect("what it holds"));
                }
                Action::Apply { session, sequence } => {
                    let outcome = if self.fails { Err(Errno(28)) } else { Ok(AppliedOutcome::Done) };
                    self.tell(Event::Applied { session, sequence, outcome });
                }
                Action::PersistState { persist, .. } => {
                    self.tell(Event::StatePersisted { persist, result: Ok(()) });
                }
                Action::CloseSession { .. } => self.closed = true,
                _ => {}
            }
        }
    }

    /// A new connection, and what it says it holds.
    fn connect(&mut self) -> Option<Held> {
        self.tell(Event::SessionLost { session: self.session });
        self.session = self.session.next();
        (self.said, self.closed) = (None, false);
        self.tell(Event::SessionOpened { session: self.session, version: VERSION });
        self.said.expect("it is said first").held
    }

    fn receive(&mut self, kind: Kind, sequence: u64, body: Vec<u8>) {
        let mut header = Header::new(kind, Term(1));
        (header.sequence, header.file, header.length) = (Sequence(sequence), id(2), 4);
        let body = ReceivedBody::Structured(body);
        self.tell(Event::FrameReceived { session: self.session, header, body });
    }

    fn following() -> Follower {
        let mut follower = Follower::new();
        assert_eq!(follower.connect(), None);
        follower.receive(Kind::ResyncBegin, 1, encode_stream(stream(1)));
        follower.receive(Kind::Data, 2, Vec::new());
        follower
    }
}

fn held(number: u64, received: u64) -> Held {
    Held { stream: stream(number), received: Sequence(received) }
}

#[test]
fn a_secondary_says_what_it_received() {
    let mut follower = Follower::following();
    assert_eq!(follower.connect(), Some(held(1, 2)));
    // Nothing of this session arrives.
    assert_eq!(follower.connect(), Some(held(1, 2)));
    let resumption = Resumption { stream: stream(3), from: held(1, 2) };
    follower.receive(Kind::ResumeBegin, 1, resumption.encode());
    assert!(!follower.closed);
    assert_eq!(follower.node.snapshot().beginning, Some(Beginning::Resumed));
    assert_eq!(follower.connect(), Some(held(3, 1)));
}

#[test]
fn a_secondary_goes_on_from_nothing_but_what_it_holds() {
    let mut follower = Follower::following();
    follower.connect();
    let resumption = Resumption { stream: stream(3), from: held(1, 1) };
    follower.receive(Kind::ResumeBegin, 1, resumption.encode());
    assert!(follower.closed);
}

#[test]
fn a_secondary_that_failed_holds_nothing() {
    let mut follower = Follower::following();
    follower.fails = true;
    follower.receive(Kind::Data, 3, Vec::new());
    assert!(follower.closed);
    follower.fails = false;
    assert_eq!(follower.connect(), None);
}

#[test]
fn a_secondary_whose_copy_others_changed_holds_nothing() {
    let mut follower = Follower::following();
    follower.tell(Event::CopyChanged);
    follower.receive(Kind::Data, 3, Vec::new());
    assert_eq!(follower.connect(), None);
    follower.receive(Kind::ResyncBegin, 1, encode_stream(stream(4)));
    assert_eq!(follower.connect(), Some(held(4, 1)));
}

#[test]
fn a_stream_without_a_name_is_not_held() {
    let mut follower = Follower::following();
    follower.connect();
    follower.receive(Kind::ResyncBegin, 1, Vec::new());
    assert!(!follower.closed);
    assert_eq!(follower.connect(), None);
}
