//! A verification step by step: when it may begin, when a difference is told, what a peer may not say.

mod record;

use std::time::Duration;

use replicator_core::action::{Action, CloseReason, DataState, Phase};
use replicator_core::config::{PrimaryConfig, VolumeRoot};
use replicator_core::event::{Event, NamespaceChange, ReadOutcome, ReceivedBody, Segment, SegmentContent};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, Generation, ReadId, Sequence, SessionId, Term, Time, VolumeId,
};
use replicator_core::lineage::Lineage;
use replicator_core::node::Node;
use replicator_core::reunion::Account;
use replicator_core::verify::{
    Difference, Looked, Verdict, VerifyPart, VerifyProgress, VerifyRequest, VerifyState,
};
use replicator_core::wire::body::{encode_extents, encode_files};
use replicator_core::wire::header::{Header, Kind, VERSION, VERSION_ACCOUNTS, VERSION_MIN};
use replicator_core::wire::verdict::encode_verdict;

const SIZE: u64 = 1 << 20;

fn id(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

/// A primary with one regular file (number 2) in its root, and a peer that has the same unless a test says otherwise.
struct Pair {
    node: Node,
    now: Time,
    actions: Vec<Action>,
    found: Vec<(FileId, Difference)>,
    closed: Vec<CloseReason>,
    /// Looks that the peer has not answered: position, part.
    asked: Vec<(Sequence, FileId, u16, Extent)>,
    /// What the edge was asked for and has not answered.
    awaited: Vec<ReadId>,
    reads: Vec<(ReadId, FileId, VerifyPart, bool)>,
}

impl Pair {
    /// Mirrored, in a session of that version.
    fn mirrored(version: u16) -> Pair {
        let config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root: id(1) }]);
        let now = Time(1_000_000_000);
        let mut pair = Pair {
            node: Node::primary(config, record::alone(), now),
            now,
            actions: Vec::new(),
            found: Vec::new(),
            closed: Vec::new(),
            asked: Vec::new(),
            awaited: Vec::new(),
            reads: Vec::new(),
        };
        pair.tell(Event::Tick);
        let session = pair.actions.iter().find_map(|action| match action {
            Action::Dial { session } => Some(*session),
            _ => None,
        });
        pair.tell(Event::SessionOpened { session: session.expect("it dials"), version });
        if version >= VERSION_ACCOUNTS {
            // A secondary that never had any data.
            let account = Account {
                lineage: Lineage::default(),
                data: DataState::Inconsistent,
                primary: false,
                crashed: false,
                lost: false,
                marked: false,
            };
            pair.frame(0, Kind::Account, ReceivedBody::Structured(account.encode()));
        }
        if version > VERSION_MIN {
            let holding =
                replicator_core::wire::body::Holding { generation: Generation(0), held: None }.encode();
            pair.frame(0, Kind::Holding, ReceivedBody::Structured(holding));
        }
        pair.settle();
        assert_eq!(pair.node.snapshot().phase, Phase::Mirrored);
        pair
    }

    fn tell(&mut self, event: Event) {
        self.node.handle(self.now, event, &mut self.actions);
    }

    fn frame(&mut self, about: u64, kind: Kind, body: ReceivedBody) {
        let mut header = Header::new(kind, Term(2));
        header.offset = about;
        self.tell(Event::FrameReceived { session: SessionId(1), header, body });
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(20)).min(end);
            self.tell(Event::Tick);
            // As a peer that lives.
            self.frame(0, Kind::KeepAlive, ReceivedBody::Opaque);
            self.settle();
        }
    }

    /// Do everything that is no verification's.
    fn settle(&mut self) {
        loop {
            let actions = std::mem::take(&mut self.actions);
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.answer(action));
            if self.actions.is_empty() && self.node.snapshot().phase == Phase::Resyncing {
                self.now = self.now.after(Duration::from_millis(30));
                self.tell(Event::Tick);
            }
        }
    }

    fn answer(&mut self, action: Action) {
        match action {
            Action::SyncLocal { sync, .. } => self.tell(Event::LocalSynced { sync, result: Ok(()) }),
            Action::PersistState { persist, .. } => {
                self.tell(Event::StatePersisted { persist, result: Ok(()) });
            }
            Action::ReadDirectory { read, directory } => {
                let children = vec![(id(2), FileKind::Regular)];
                let change = NamespaceChange::Listed { directory, first: true, last: true, children };
                self.tell(Event::NamespaceLogged { entry: EntryId(read.0), change });
                self.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
            }
            Action::ReadAttributes { read, .. } => {
                self.tell(Event::AttributesRead { read, outcome: ReadOutcome::Read(SIZE) });
            }
            Action::ReadDigests { read, extent, .. } => {
                let outcome = ReadOutcome::Read(Extent { end: extent.end.min(SIZE), ..extent });
                self.tell(Event::DigestsRead { read, outcome });
            }
            Action::ReadExtent { read, extent, .. } => {
                let extent = Extent { end: extent.end.min(SIZE), ..extent };
                let segments = vec![Segment { extent, content: SegmentContent::Data }];
                self.tell(Event::ExtentRead { read, outcome: ReadOutcome::Read(segments) });
            }
            Action::ReadVerify { read, file, part, fine } => self.reads.push((read, file, part, fine)),
            Action::AwaitCapture { read, .. } => self.awaited.push(read),
            Action::ReportDifference { file, difference } => self.found.push((file, difference)),
            Action::CloseSession { reason, .. } => self.closed.push(reason),
            Action::SendFrame { header, .. } => self.answer_frame(&header),
            _ => {}
        }
    }

    fn answer_frame(&mut self, header: &Header) {
        let about = header.sequence.0;
        let empty = |bytes| ReceivedBody::Structured(bytes);
        match header.kind {
            Kind::Namespace => self.frame(about, Kind::CreatedReply, empty(encode_files(&[]))),
            Kind::Digests => self.frame(about, Kind::DigestReply, empty(encode_extents(&[]))),
            Kind::Barrier | Kind::ResyncEnd => self.frame(about, Kind::BarrierDone, ReceivedBody::Opaque),
            Kind::Verify => {
                let extent = Extent::at(header.offset, header.length);
                self.asked.push((header.sequence, header.file, header.flags, extent));
            }
            _ => {}
        }
    }

    fn request(&mut self, repair: bool, bytes_per_second: Option<u64>) {
        self.tell(Event::VerifyRequested(VerifyRequest { number: 1, repair, bytes_per_second }));
        self.settle();
    }

    fn progress(&self) -> VerifyProgress {
        self.node.snapshot().verify.expect("it was asked for")
    }

    /// The edge reads what it was asked for.
    fn read(&mut self) {
        for (read, file, part, _) in std::mem::take(&mut self.reads) {
            let looked = match part {
                VerifyPart::State if file == id(2) => Looked { end: SIZE, bytes: 0 },
                VerifyPart::Contents(extent) => Looked { end: extent.end, bytes: extent.length() },
                _ => Looked::default(),
            };
            self.tell(Event::VerifyRead { read, outcome: ReadOutcome::Read(looked) });
        }
        self.settle();
    }

    /// The peer answers everything.
    fn reply(&mut self, verdict: impl Fn(FileId, u16, Extent) -> Verdict) {
        for (about, file, part, extent) in std::mem::take(&mut self.asked) {
            let body = ReceivedBody::Structured(encode_verdict(&verdict(file, part, extent)));
            self.frame(about.0, Kind::VerifyReply, body);
        }
        self.settle();
    }

    fn capture(&mut self) {
        for read in std::mem::take(&mut self.awaited) {
            self.tell(Event::CaptureAwaited { read });
        }
        self.settle();
    }

    /// On to the end, or until nothing happens for long.
    fn run(&mut self, verdict: impl Fn(FileId, u16, Extent) -> Verdict) {
        for _ in 0..400 {
            self.read();
            self.reply(&verdict);
            self.capture();
            self.pass(Duration::from_millis(20));
        }
    }
}

fn same(_: FileId, _: u16, _: Extent) -> Verdict {
    Verdict::Same
}

/// One block of the file differs.
fn damaged(file: FileId, part: u16, extent: Extent) -> Verdict {
    let block = Extent::at(8192, 4096);
    if file == id(2) && part == 3 && extent.contains(block) {
        Verdict::Extents(vec![block])
    } else {
        Verdict::Same
    }
}

#[test]
fn all_parts_of_all_files_are_looked_at() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(false, None);
    pair.run(same);
    let progress = pair.progress();
    assert_eq!(progress.state, VerifyState::Done);
    assert_eq!((progress.files, progress.files_examined, progress.bytes_examined), (2, 2, SIZE));
    assert_eq!(pair.found, []);
}

#[test]
fn a_difference_is_told_when_it_is_seen_twice() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(false, None);
    pair.run(damaged);
    assert_eq!(pair.found, [(id(2), Difference::Contents(vec![Extent::at(8192, 4096)]))]);
    assert_eq!(pair.progress().differences, 1);
    assert!(!pair.node.is_marked(id(2)));
}

#[test]
fn repair_ends_when_the_peer_has_it() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(true, None);
    pair.run(damaged);
    let progress = pair.progress();
    assert_eq!((progress.state, progress.repaired), (VerifyState::Done, 1));
    assert!(!pair.node.is_marked(id(2)));
}

#[test]
fn what_was_captured_by_the_end_of_a_look_makes_it_void() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(false, None);
    for _ in 0..20 {
        pair.read();
        pair.reply(damaged);
        // Written before the look, told after it.
        pair.tell(Event::WriteTraced { file: id(2), extent: Extent::at(8192, 4096) });
        pair.capture();
        pair.pass(Duration::from_millis(20));
    }
    pair.run(same);
    assert_eq!(pair.found, []);
    assert_eq!(pair.progress().state, VerifyState::Done);
}

#[test]
fn a_directory_that_is_to_be_listed_makes_looks_void() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(false, None);
    for _ in 0..20 {
        pair.read();
        pair.reply(damaged);
        pair.tell(Event::DirectoryChanged { directory: id(1) });
        pair.capture();
        pair.pass(Duration::from_millis(20));
    }
    pair.run(same);
    assert_eq!(pair.found, []);
}

#[test]
fn what_changes_all_the_time_is_passed_over_and_counted() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(false, None);
    for _ in 0..800 {
        pair.tell(Event::AttributesChanged { file: id(1) });
        pair.tell(Event::WriteTraced { file: id(2), extent: Extent::at(8192, 4096) });
        pair.read();
        pair.reply(damaged);
        pair.capture();
        pair.pass(Duration::from_millis(10));
    }
    assert_eq!(pair.found, []);
    let progress = pair.progress();
    assert_eq!(progress.state, VerifyState::Done);
    assert!(progress.unsettled >= 2, "{progress:?}");
}

#[test]
fn what_cannot_be_read_is_told() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(false, None);
    pair.run(
        |file, part, _| {
            if file == id(2) && part == 1 { Verdict::Unreadable(Errno(5)) } else { Verdict::Same }
        },
    );
    assert_eq!(pair.found, [(id(2), Difference::UnreadableThere(VerifyPart::State, Errno(5)))]);
}

#[test]
fn the_limit_on_bytes_is_kept() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(false, Some(SIZE));
    let begin = pair.now;
    while pair.progress().state == VerifyState::Running {
        pair.read();
        pair.reply(same);
        pair.pass(Duration::from_millis(10));
    }
    // Nothing follows the last piece that could wait.
    assert!(pair.now.since(begin) >= Duration::from_millis(500), "{:?}", pair.now.since(begin));
}

#[test]
fn it_is_refused_where_it_makes_no_sense() {
    let mut pair = Pair::mirrored(VERSION_MIN);
    pair.request(false, None);
    assert_eq!(pair.progress().state, VerifyState::Refused);
    let mut pair = Pair::mirrored(VERSION);
    pair.tell(Event::SessionLost { session: SessionId(1) });
    pair.request(false, None);
    assert_eq!(pair.progress().state, VerifyState::Refused);
}

#[test]
fn it_ends_with_the_session() {
    let mut pair = Pair::mirrored(VERSION);
    pair.request(true, None);
    pair.read();
    pair.tell(Event::SessionLost { session: SessionId(1) });
    assert_eq!(pair.progress().state, VerifyState::Interrupted);
    pair.read();
    assert_eq!(pair.found, []);
}

#[test]
fn a_peer_that_answers_what_was_not_asked_is_cut_off() {
    let verdicts = [
        // A position that is no look's; an extent outside; an extent of what has none.
        (false, Verdict::Same),
        (true, Verdict::Extents(vec![Extent::at(SIZE * 7, 1)])),
    ];
    for (asked, verdict) in verdicts {
        let mut pair = Pair::mirrored(VERSION);
        pair.request(false, None);
        pair.read();
        let about = if asked { pair.asked[0].0.0 } else { 99_999 };
        pair.frame(about, Kind::VerifyReply, ReceivedBody::Structured(encode_verdict(&verdict)));
        pair.settle();
        assert!(matches!(pair.closed[..], [CloseReason::Protocol(_)]), "{verdict:?}: {:?}", pair.closed);
    }
}

#[test]
fn a_resync_that_is_asked_for_is_done_when_the_peer_has_all_of_it() {
    let mut pair = Pair::mirrored(VERSION);
    pair.tell(Event::ResyncRequested { number: 3, files: vec![id(1)] });
    assert!(pair.node.is_marked(id(1)));
    pair.pass(Duration::from_secs(5));
    let asked = pair.node.snapshot().asked.expect("it was asked for");
    assert!(asked.number == 3 && asked.done, "{asked:?}");
    assert!(!pair.node.is_marked(id(1)) && !pair.node.is_marked(id(2)));
    assert!(pair.node.snapshot().resync.bytes_compared >= SIZE);
}
