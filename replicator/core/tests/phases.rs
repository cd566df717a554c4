//! Every event in every phase: nothing panics, nothing is answered twice, and a primary without a peer stays able to work.

use std::collections::BTreeSet;
use std::time::Duration;

use replicator_core::action::{Action, Body, DataState, DurableScope, Phase, StateRecord};
use replicator_core::config::{Mode, PrimaryConfig, SecondaryConfig, VolumeRoot, WhenAlone};
use replicator_core::event::{
    AppliedOutcome, Event, NamespaceChange, ReadOutcome, ReceivedBody, Segment, SegmentContent, SyncScope,
};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, Generation, LocalSyncId, PersistId, ReadId, Sequence, SessionId, Term,
    Ticket, Time, VolumeId,
};
use replicator_core::lineage::Lineage;
use replicator_core::node::Node;
use replicator_core::resume::{Held, StreamId};
use replicator_core::wire::body::{
    Ack, Holding, Resumption, encode_barrier, encode_extents, encode_files, encode_stream,
};
use replicator_core::wire::header::{Header, Kind};

fn id(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

fn record(alone: bool, data: DataState) -> StateRecord {
    StateRecord {
        term: Term(2),
        lineage: Lineage::untagged(Generation(5)),
        data,
        alone,
        ..StateRecord::unknown()
    }
}

fn config(mode: Mode, when_alone: WhenAlone) -> PrimaryConfig {
    let mut config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root: id(1) }]);
    (config.mode, config.when_alone) = (mode, when_alone);
    config.incarnation = Some([1; 16]);
    config
}

/// A node with its clock, which keeps what was ordered.
struct Driven {
    node: Node,
    now: Time,
    actions: Vec<Action>,
}

impl Driven {
    fn new(node: Node) -> Driven {
        Driven { node, now: Time(1_000_000_000), actions: Vec::new() }
    }

    fn tell(&mut self, event: Event) -> &mut Driven {
        self.node.handle(self.now, event, &mut self.actions);
        self
    }

    fn pass(&mut self, time: Duration) -> &mut Driven {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(100)).min(end);
            self.tell(Event::Tick);
        }
        self
    }

    fn phase(&self) -> Phase {
        self.node.snapshot().phase
    }

    fn frame(&mut self, session: u64, fill: impl FnOnce(&mut Header), kind: Kind, body: ReceivedBody) {
        let mut header = Header::new(kind, Term(2));
        fill(&mut header);
        self.tell(Event::FrameReceived { session: SessionId(session), header, body });
    }

    /// Answer what can be answered without files or a peer: an empty tree, a disk that works.
    fn settle(&mut self) {
        for _ in 0..50 {
            let actions = std::mem::take(&mut self.actions);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.answer(action);
            }
        }
    }

    fn answer(&mut self, action: Action) {
        match action {
            Action::SyncLocal { sync, .. } => {
                self.tell(Event::LocalSynced { sync, result: Ok(()) });
            }
            Action::PersistState { persist, .. } => {
                self.tell(Event::StatePersisted { persist, result: Ok(()) });
            }
            Action::ReadDirectory { read, directory } => {
                let change =
                    NamespaceChange::Listed { directory, first: true, last: true, children: Vec::new() };
                self.tell(Event::NamespaceLogged { entry: EntryId(1000 + read.0), change });
                self.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
            }
            Action::ReadAttributes { read, .. } => {
                self.tell(Event::AttributesRead { read, outcome: ReadOutcome::Read(0) });
            }
            Action::ReadExtent { read, .. } => {
                self.tell(Event::ExtentRead { read, outcome: ReadOutcome::Read(Vec::new()) });
            }
            // Of namespace operations only lists, which `settle` numbers from 1000 on, are answered.
            Action::SendFrame { body: Body::Entry { entry: EntryId(..1000) }, .. } => {}
            Action::SendFrame { session, header, .. } => self.answer_frame(session.0, &header),
            Action::Apply { session, sequence, .. } => {
                self.tell(Event::Applied { session, sequence, outcome: Ok(AppliedOutcome::Done) });
            }
            Action::MakeDurable { session, barrier, .. } => {
                self.tell(Event::MadeDurable { session, barrier, result: Ok(()) });
            }
            _ => {}
        }
    }

    /// As a secondary would.
    fn answer_frame(&mut self, session: u64, header: &Header) {
        let about = header.sequence.0;
        match header.kind {
            Kind::Namespace => {
                let body = ReceivedBody::Structured(encode_files(&[]));
                self.frame(session, |header| header.offset = about, Kind::CreatedReply, body);
            }
            Kind::Barrier | Kind::ResyncEnd => {
                self.frame(session, |header| header.offset = about, Kind::BarrierDone, ReceivedBody::Opaque);
            }
            _ => {}
        }
    }
}

fn primary(mode: Mode, when_alone: WhenAlone, alone: bool) -> Driven {
    let record = record(alone, DataState::UpToDate);
    Driven::new(Node::primary(config(mode, when_alone), record, Time(1_000_000_000)))
}

fn opened(mut driven: Driven) -> Driven {
    driven.tell(Event::Tick);
    driven.tell(Event::SessionOpened { session: SessionId(1), version: 1 });
    driven
}

fn mirrored(mode: Mode, when_alone: WhenAlone) -> Driven {
    let mut driven = opened(primary(mode, when_alone, true));
    driven.settle();
    for _ in 0..20 {
        driven.pass(Duration::from_millis(100));
        driven.settle();
    }
    assert_eq!(driven.phase(), Phase::Mirrored);
    driven
}

fn following() -> Driven {
    let record = record(false, DataState::Inconsistent);
    let mut driven = Driven::new(Node::secondary(SecondaryConfig::default(), record, Time(1_000_000_000)));
    driven.tell(Event::SessionOpened { session: SessionId(1), version: 1 });
    driven.frame(1, |header| header.sequence = Sequence(1), Kind::ResyncBegin, ReceivedBody::Opaque);
    driven.settle();
    driven.frame(
        1,
        |header| (header.sequence, header.offset) = (Sequence(2), 9),
        Kind::ResyncEnd,
        ReceivedBody::Opaque,
    );
    driven.settle();
    assert_eq!(driven.phase(), Phase::Following);
    assert_eq!(driven.node.snapshot().record.lineage, Lineage::untagged(Generation(9)));
    driven
}

/// A node in each phase, made anew each time.
fn in_each_phase() -> Vec<(Phase, fn() -> Driven)> {
    vec![
        (Phase::Alone, || primary(Mode::Sync, WhenAlone::Release, true)),
        (Phase::Holding, || primary(Mode::Sync, WhenAlone::Hold, false)),
        (Phase::Holding, || primary(Mode::Sync, WhenAlone::Ask, true)),
        (Phase::Resyncing, || opened(primary(Mode::Sync, WhenAlone::Ask, false))),
        (Phase::Mirrored, || mirrored(Mode::Sync, WhenAlone::Ask)),
        (Phase::Resyncing, || opened(primary(Mode::SemiSync, WhenAlone::Release, true))),
        (Phase::Mirrored, || mirrored(Mode::Sync, WhenAlone::Release)),
        (Phase::Waiting, || {
            let record = record(false, DataState::Inconsistent);
            Driven::new(Node::secondary(SecondaryConfig::default(), record, Time(1_000_000_000)))
        }),
        (Phase::Receiving, || {
            let record = record(false, DataState::Inconsistent);
            let node = Node::secondary(SecondaryConfig::default(), record, Time(1_000_000_000));
            let mut driven = Driven::new(node);
            driven.tell(Event::SessionOpened { session: SessionId(1), version: 1 });
            driven.frame(1, |header| header.sequence = Sequence(1), Kind::ResyncBegin, ReceivedBody::Opaque);
            driven
        }),
        (Phase::Following, following),
    ]
}

/// At least one event of each kind, with numbers that answer something, and with numbers that answer nothing.
fn events() -> Vec<Event> {
    let file = id(2);
    let extent = Extent { start: 0, end: Extent::END };
    let segments = vec![Segment { extent: Extent::at(0, 4), content: SegmentContent::Data }];
    let strange = vec![Segment { extent: Extent::at(9, u64::MAX), content: SegmentContent::Hole }];
    let mut events = vec![
        Event::WriteTraced { file, extent },
        Event::WriteTraced { file, extent: Extent { start: 9, end: 3 } },
        Event::StoreMapped { file, extent: Extent::at(4096, 4096) },
        Event::AttributesChanged { file },
        Event::CaptureLost { file },
        Event::CaptureLost { file: id(1) },
        Event::DirectoryChanged { directory: id(1) },
        Event::FileForgotten { file },
        Event::Untold { lasting: false },
        Event::Untold { lasting: true },
        Event::CopyChanged,
        Event::GoAlone { term: Term(1), absence: None },
        Event::GoAlone { term: Term(2), absence: Some(1) },
        Event::GoAlone { term: Term(3), absence: None },
        Event::Outdate { term: Term(1) },
        Event::Outdate { term: Term(3) },
        Event::SyncRequested { ticket: Ticket(1), scope: SyncScope::File { file, data_only: false } },
        Event::SyncRequested { ticket: Ticket(2), scope: SyncScope::File { file, data_only: true } },
        Event::SyncRequested { ticket: Ticket(3), scope: SyncScope::Volume(VolumeId(0)) },
        Event::SessionLost { session: SessionId(1) },
        Event::SessionLost { session: SessionId(77) },
        Event::Tick,
    ];
    for (entry, change) in changes().into_iter().enumerate() {
        events.push(Event::NamespaceLogged { entry: EntryId(entry as u64), change });
    }
    for number in [0, 1, 2, 3, 4, 99] {
        let (read, session) = (ReadId(number), SessionId(1));
        for result in [Ok(()), Err(Errno(5))] {
            events.push(Event::LocalSynced { sync: LocalSyncId(number), result });
            events.push(Event::StatePersisted { persist: PersistId(number), result });
            events.push(Event::MadeDurable { session, barrier: Sequence(number), result });
        }
        for outcome in [
            ReadOutcome::Read(segments.clone()),
            ReadOutcome::Read(strange.clone()),
            ReadOutcome::Read(Vec::new()),
            ReadOutcome::Gone,
            ReadOutcome::Failed(Errno(5)),
        ] {
            events.push(Event::ExtentRead { read, outcome });
        }
        for outcome in [
            ReadOutcome::Read(0),
            ReadOutcome::Read(u64::MAX),
            ReadOutcome::Gone,
            ReadOutcome::Failed(Errno(5)),
        ] {
            events.push(Event::AttributesRead { read, outcome });
        }
        for outcome in [ReadOutcome::Read(extent), ReadOutcome::Gone, ReadOutcome::Failed(Errno(5))] {
            events.push(Event::DigestsRead { read, outcome });
        }
        for outcome in [ReadOutcome::Read(()), ReadOutcome::Gone, ReadOutcome::Failed(Errno(5))] {
            events.push(Event::DirectoryRead { read, outcome });
        }
        events.push(Event::FramesSent { session, upto: Sequence(number) });
        for outcome in [
            Ok(AppliedOutcome::Done),
            Ok(AppliedOutcome::Differs(vec![extent])),
            Ok(AppliedOutcome::Created(vec![file])),
            Err(Errno(28)),
        ] {
            events.push(Event::Applied { session, sequence: Sequence(number), outcome });
        }
        events.push(Event::SessionOpened { session: SessionId(number), version: 1 });
        events.push(Event::SessionOpened { session: SessionId(number), version: 2 });
    }
    events.extend(frames());
    events
}

fn changes() -> Vec<NamespaceChange> {
    let (parent, file) = (id(1), id(2));
    vec![
        NamespaceChange::Created { parent, file, kind: FileKind::Regular },
        NamespaceChange::Created { parent, file: id(3), kind: FileKind::Directory },
        NamespaceChange::Linked { parent, file, kind: FileKind::Regular },
        NamespaceChange::Unlinked { parent, file, last: true },
        NamespaceChange::Renamed {
            old_parent: parent,
            new_parent: id(3),
            file,
            other: Some(id(4)),
            other_last: true,
            exchanged: false,
        },
        NamespaceChange::Renamed {
            old_parent: parent,
            new_parent: parent,
            file,
            other: None,
            other_last: false,
            exchanged: true,
        },
        NamespaceChange::Listed {
            directory: parent,
            first: true,
            last: false,
            children: vec![(file, FileKind::Regular)],
        },
        NamespaceChange::Listed {
            directory: parent,
            first: false,
            last: true,
            children: vec![(id(3), FileKind::Directory)],
        },
    ]
}

fn frames() -> Vec<Event> {
    let held = Held { stream: StreamId { incarnation: [1; 16], number: 1 }, received: Sequence(2) };
    let bodies = [
        ReceivedBody::Opaque,
        ReceivedBody::Structured(Vec::new()),
        ReceivedBody::Structured(Ack::default().encode()),
        ReceivedBody::Structured(encode_files(&[id(2)])),
        ReceivedBody::Structured(encode_extents(&[Extent::at(0, 4)])),
        ReceivedBody::Structured(encode_stream(held.stream)),
        ReceivedBody::Structured(Resumption { stream: held.stream, from: held }.encode()),
        ReceivedBody::Structured(Holding { generation: Generation(5), held: Some(held) }.encode()),
        ReceivedBody::Structured(encode_barrier(&DurableScope::Files(vec![(id(2), true)]))),
        ReceivedBody::Namespace(NamespaceChange::Unlinked { parent: id(1), file: id(2), last: true }),
    ];
    let mut events = Vec::new();
    for kind in Kind::ALL {
        for body in &bodies {
            for (sequence, term, offset, length) in [
                (0, 2, 0, 0),
                (1, 2, 1, 4),
                (2, 2, 2, 4),
                (3, 2, 3, 4),
                (3, 1, 1, 4),
                (2, 9, 1, 4),
                (3, 2, u64::MAX, u64::MAX),
            ] {
                let mut header = Header::new(kind, Term(term));
                (header.sequence, header.offset, header.length) = (Sequence(sequence), offset, length);
                header.file = id(2);
                let session = SessionId(1);
                events.push(Event::FrameReceived { session, header, body: body.clone() });
            }
        }
    }
    events
}

fn check_answers(actions: &[Action]) {
    let mut answered = BTreeSet::new();
    for action in actions {
        if let Action::ReleaseBarrier { ticket, .. } = action {
            assert!(answered.insert(*ticket), "{ticket:?} was answered twice");
        }
    }
}

#[test]
fn every_event_in_every_phase() {
    for (phase, make) in in_each_phase() {
        assert_eq!(make().phase(), phase);
        for event in events() {
            let mut driven = make();
            driven.actions.clear();
            driven.tell(event);
            driven.pass(Duration::from_secs(1));
            check_answers(&driven.actions);
            let _ = driven.node.next_deadline();
        }
    }
}

#[test]
fn every_pair_of_events_in_every_phase() {
    // Of the many frames only a part, chosen by place, to stay within seconds.
    let events: Vec<Event> =
        events().into_iter().enumerate().filter(|(at, _)| at % 11 == 0).map(|(_, e)| e).collect();
    for (_, make) in in_each_phase() {
        for first in &events {
            for second in &events {
                let mut driven = make();
                driven.actions.clear();
                driven.tell(first.clone()).tell(second.clone()).tell(Event::Tick);
                check_answers(&driven.actions);
            }
        }
    }
}

#[test]
fn a_primary_recorded_as_mirrored_releases_nobody_before_alone_is_recorded() {
    let mut driven = primary(Mode::Sync, WhenAlone::Release, false);
    driven.tell(Event::SyncRequested {
        ticket: Ticket(1),
        scope: SyncScope::File { file: id(2), data_only: true },
    });
    let persist = driven.actions.iter().find_map(|action| match action {
        Action::PersistState { persist, record } => Some((*persist, *record)),
        _ => None,
    });
    let (persist, wanted) = persist.expect("the wish to be alone is recorded first");
    assert!(wanted.alone && wanted.lineage.current.number == Generation(6));
    for action in driven.actions.clone() {
        if let Action::SyncLocal { sync, .. } = action {
            driven.tell(Event::LocalSynced { sync, result: Ok(()) });
        }
    }
    let released =
        |driven: &Driven| driven.actions.iter().any(|a| matches!(a, Action::ReleaseBarrier { .. }));
    assert!(!released(&driven));
    driven.tell(Event::StatePersisted { persist, result: Ok(()) });
    assert!(released(&driven));
    assert_eq!(driven.phase(), Phase::Alone);
}

#[test]
fn a_held_caller_gets_an_error_in_the_end() {
    let mut driven = primary(Mode::Sync, WhenAlone::Hold, false);
    driven.tell(Event::SyncRequested {
        ticket: Ticket(1),
        scope: SyncScope::File { file: id(2), data_only: true },
    });
    driven.settle();
    driven.pass(Duration::from_secs(29));
    assert!(!driven.actions.iter().any(|action| matches!(action, Action::ReleaseBarrier { .. })));
    driven.pass(Duration::from_secs(2));
    let answer = Action::ReleaseBarrier { ticket: Ticket(1), result: Err(Errno(5)) };
    assert!(driven.actions.contains(&answer));
}

#[test]
fn a_peer_with_a_higher_term_ends_the_primacy() {
    let mut driven = mirrored(Mode::Sync, WhenAlone::Release);
    let mut header = Header::new(Kind::KeepAlive, Term(3));
    header.sequence = Sequence(0);
    driven.tell(Event::FrameReceived { session: SessionId(1), header, body: ReceivedBody::Opaque });
    assert_eq!(driven.phase(), Phase::Holding);
    driven.tell(Event::SyncRequested { ticket: Ticket(1), scope: SyncScope::Volume(VolumeId(0)) });
    driven.settle();
    driven.pass(Duration::from_secs(5));
    assert!(!driven.actions.iter().any(|a| matches!(a, Action::PersistState { .. } | Action::Dial { .. })));
    assert!(!driven.actions.iter().any(|a| matches!(a, Action::ReleaseBarrier { result: Ok(()), .. })));
}

#[test]
fn several_callers_share_a_barrier() {
    let mut driven = mirrored(Mode::Sync, WhenAlone::Release);
    driven.actions.clear();
    for ticket in 1..=10 {
        driven.tell(Event::SyncRequested {
            ticket: Ticket(ticket),
            scope: SyncScope::File { file: id(1), data_only: true },
        });
    }
    let barriers = |driven: &Driven| {
        let is_barrier =
            |a: &&Action| matches!(a, Action::SendFrame { header, .. } if header.kind == Kind::Barrier);
        driven.actions.iter().filter(is_barrier).count()
    };
    assert_eq!(barriers(&driven), 4);
    let first = driven.actions.iter().find_map(|action| match action {
        Action::SendFrame { header, .. } if header.kind == Kind::Barrier => Some(header.sequence),
        _ => None,
    });
    let about = first.expect("a barrier").0;
    driven.frame(1, |header| header.offset = about, Kind::BarrierDone, ReceivedBody::Opaque);
    assert_eq!(barriers(&driven), 5, "those that came meanwhile share the next one");
    driven.settle();
    driven.settle();
    assert_eq!(driven.node.snapshot().waiting, 0);
}

/// Times that only follow from a write are not read for a caller, but soon after; attributes set by themselves are.
#[test]
fn a_caller_waits_for_attributes_only_if_they_were_set() {
    let asks = |driven: &Driven| driven.actions.iter().any(|a| matches!(a, Action::ReadAttributes { .. }));
    for set in [false, true] {
        let mut driven = mirrored(Mode::Sync, WhenAlone::Release);
        let change = NamespaceChange::Created { parent: id(1), file: id(2), kind: FileKind::Regular };
        driven.tell(Event::NamespaceLogged { entry: EntryId(1), change });
        for _ in 0..10 {
            driven.frame(1, |_| {}, Kind::KeepAlive, ReceivedBody::Opaque);
            driven.pass(Duration::from_millis(300));
            driven.settle();
        }
        driven.actions.clear();
        driven.tell(Event::WriteTraced { file: id(2), extent: Extent { start: 0, end: 4096 } });
        if set {
            driven.tell(Event::AttributesChanged { file: id(2) });
        }
        let scope = SyncScope::File { file: id(2), data_only: false };
        driven.tell(Event::SyncRequested { ticket: Ticket(1), scope });
        let read = driven.actions.iter().find_map(|action| match action {
            Action::ReadExtent { read, .. } => Some(*read),
            _ => None,
        });
        let extent = Extent { start: 0, end: 4096 };
        let read_all = ReadOutcome::Read(vec![Segment { extent, content: SegmentContent::Data }]);
        driven.tell(Event::ExtentRead { read: read.expect("a read"), outcome: read_all });
        assert_eq!(asks(&driven), set);
        driven.pass(Duration::from_millis(100));
        assert!(asks(&driven));
    }
}

#[test]
fn a_paused_machine_does_not_take_its_peer_for_dead() {
    let mut driven = mirrored(Mode::Sync, WhenAlone::Release);
    driven.now = driven.now.after(Duration::from_secs(60));
    driven.tell(Event::Tick);
    assert_eq!(driven.phase(), Phase::Mirrored);
    driven.pass(Duration::from_secs(4));
    assert_ne!(driven.phase(), Phase::Mirrored);
}

#[test]
fn a_secondary_that_cannot_sync_confirms_nothing() {
    let mut driven = following();
    driven.actions.clear();
    let body = ReceivedBody::Structured(encode_barrier(&DurableScope::Everything));
    driven.frame(1, |header| header.sequence = Sequence(3), Kind::Barrier, body);
    driven.tell(Event::MadeDurable { session: SessionId(1), barrier: Sequence(3), result: Err(Errno(5)) });
    let sent = |kind| {
        driven.actions.iter().any(|a| matches!(a, Action::SendFrame { header, .. } if header.kind == kind))
    };
    assert!(sent(Kind::Failed) && !sent(Kind::BarrierDone));
    let recorded = driven.actions.iter().any(|action| {
        matches!(action, Action::PersistState { record, .. } if record.data == DataState::Inconsistent)
    });
    assert!(recorded);
}

#[test]
fn a_million_traced_writes_without_a_peer() {
    let mut driven = primary(Mode::Sync, WhenAlone::Release, true);
    let mut random = 1_u64;
    let started = std::time::Instant::now();
    for _ in 0..1_000_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let extent = Extent::at((random >> 40) % (1 << 18) * 4096, 4096);
        driven.node.handle(driven.now, Event::WriteTraced { file: id(2), extent }, &mut driven.actions);
    }
    println!("1,000,000 traced writes in {:?}", started.elapsed());
    assert!(driven.node.is_marked(id(2)));
    assert!(driven.node.snapshot().dirty_bytes >= 1 << 28);
}
