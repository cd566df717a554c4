//! Who may go on without the other node: a primary that has to be told, a secondary that is told, and how nodes begin in the other role.

use replicator_core::action::{Action, Body, CloseReason, DataState, Notice, Phase, StateRecord};
use replicator_core::begin::{NotPromotable, Start};
use replicator_core::config::{PrimaryConfig, SecondaryConfig, VolumeRoot, WhenAlone};
use replicator_core::event::{AppliedOutcome, Event, NamespaceChange, ReadOutcome, ReceivedBody, SyncScope};
use replicator_core::ids::{EntryId, FileId, Generation, Sequence, SessionId, Term, Ticket, Time, VolumeId};
use replicator_core::lineage::{GenerationId, Lineage, Tag};
use replicator_core::node::Node;
use replicator_core::reunion::{Account, Relation, Side, decide};
use replicator_core::wire::body::{Holding, encode_files};
use replicator_core::wire::header::{Header, Kind, VERSION};
use replicator_core::wire::hello::Role;

const ROOT: FileId = FileId { volume: VolumeId(0), inode: 2 };

fn id(number: u64, tag: u64) -> GenerationId {
    GenerationId { number: Generation(number), tag: Tag(tag) }
}

fn asks(tag: u64) -> Start {
    Start { when_alone: WhenAlone::Ask, ..Start::by_itself(Tag(tag)) }
}

/// A primary that has run before, in term 1.
fn found() -> StateRecord {
    let first = StateRecord::begin_primary(None, asks(1)).expect("a first start");
    StateRecord { alone: false, running: false, ..first }
}

struct Driven {
    node: Node,
    now: Time,
    actions: Vec<Action>,
    session: SessionId,
    /// Records are made durable.
    persists: bool,
    pending: Vec<Event>,
}

impl Driven {
    fn new(node: Node) -> Driven {
        let (actions, pending) = (Vec::new(), Vec::new());
        Driven { node, now: Time(1), actions, session: SessionId(0), persists: true, pending }
    }

    fn primary(record: StateRecord, go_alone: bool) -> Driven {
        let mut config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root: ROOT }]);
        (config.when_alone, config.go_alone, config.incarnation) = (WhenAlone::Ask, go_alone, Some([1; 16]));
        let mut driven = Driven::new(Node::primary(config, record, Time(1)));
        driven.tell(Event::Tick);
        driven
    }

    fn secondary(record: StateRecord) -> Driven {
        Driven::new(Node::secondary(SecondaryConfig::default(), record, Time(1)))
    }

    /// An empty tree, and disks that work.
    fn tell(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.node.handle(self.now, event, &mut actions);
        for action in actions {
            self.actions.push(action.clone());
            match action {
                Action::PersistState { persist, .. } => {
                    let answer = Event::StatePersisted { persist, result: Ok(()) };
                    if self.persists { self.tell(answer) } else { self.pending.push(answer) }
                }
                Action::SyncLocal { sync, .. } => self.tell(Event::LocalSynced { sync, result: Ok(()) }),
                Action::ReadDirectory { read, directory } => {
                    let change =
                        NamespaceChange::Listed { directory, first: true, last: true, children: Vec::new() };
                    self.tell(Event::NamespaceLogged { entry: EntryId(read.0), change });
                    self.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
                }
                Action::ReadAttributes { read, .. } => {
                    self.tell(Event::AttributesRead { read, outcome: ReadOutcome::Read(0) });
                }
                Action::Dial { session } => self.session = session,
                _ => {}
            }
        }
    }

    fn receive(&mut self, kind: Kind, term: u64, offset: u64, body: Vec<u8>) {
        let header = Header { offset, ..Header::new(kind, Term(term)) };
        self.tell(Event::FrameReceived {
            session: self.session,
            header,
            body: ReceivedBody::Structured(body),
        });
    }

    /// The present connection is made, to a peer that has what this node has shared.
    fn meet(&mut self, term: u64) {
        self.tell(Event::SessionOpened { session: self.session, version: VERSION });
        let account = Account { primary: false, marked: false, ..self.node.snapshot().account };
        self.receive(Kind::Account, term, 0, account.encode());
        let holding = Holding { generation: account.lineage.current.number, held: None };
        self.receive(Kind::Holding, term, 0, holding.encode());
    }

    /// As a secondary would, until a frame of that kind is to be answered.
    fn answer_until(&mut self, last: Option<Kind>) -> bool {
        let term = self.node.snapshot().record.term.0;
        for _ in 0..200 {
            for action in std::mem::take(&mut self.actions) {
                let Action::SendFrame { header, .. } = action else { continue };
                if Some(header.kind) == last {
                    return true;
                }
                match header.kind {
                    Kind::Namespace => {
                        self.receive(Kind::CreatedReply, term, header.sequence.0, encode_files(&[]));
                    }
                    Kind::Barrier | Kind::ResyncEnd => {
                        self.receive(Kind::BarrierDone, term, header.sequence.0, Vec::new());
                    }
                    _ => {}
                }
            }
            self.receive(Kind::KeepAlive, term, 0, Vec::new());
            self.now = Time(self.now.0 + 20_000_000);
            self.tell(Event::Tick);
        }
        false
    }

    fn mirror(&mut self) {
        let term = self.record().term.0;
        self.meet(term);
        self.answer_until(None);
        assert_eq!(self.phase(), Phase::Mirrored);
    }

    /// The connection that is made next.
    fn dial(&mut self) {
        let before = self.session;
        for _ in 0..100 {
            if self.session > before {
                return;
            }
            self.now = self.node.next_deadline().unwrap_or(self.now).max(self.now);
            self.tell(Event::Tick);
        }
        panic!("nobody is dialled");
    }

    fn lose(&mut self) {
        let session = self.session;
        self.tell(Event::SessionLost { session });
    }

    fn phase(&self) -> Phase {
        self.node.snapshot().phase
    }

    fn record(&self) -> StateRecord {
        self.node.snapshot().record
    }

    fn asks(&self) -> Option<u64> {
        self.node.snapshot().asks
    }

    fn go_alone(&mut self, term: u64, absence: Option<u64>) {
        self.tell(Event::GoAlone { term: Term(term), absence });
    }

    fn sync(&mut self, ticket: u64) {
        let scope = SyncScope::File { file: ROOT, data_only: false };
        self.tell(Event::SyncRequested { ticket: Ticket(ticket), scope });
    }

    fn is_released(&self, ticket: u64) -> bool {
        let released = Action::ReleaseBarrier { ticket: Ticket(ticket), result: Ok(()) };
        self.actions.contains(&released)
    }

    fn closed(&self) -> Option<CloseReason> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::CloseSession { reason, .. } => Some(*reason),
            _ => None,
        })
    }
}

#[test]
fn a_primary_that_asks_lets_nobody_go_before_it_is_told_and_that_is_on_record() {
    let mut driven = Driven::primary(found(), false);
    driven.sync(1);
    assert_eq!((driven.phase(), driven.asks(), driven.is_released(1)), (Phase::Holding, Some(1), false));
    driven.go_alone(0, None);
    driven.go_alone(7, Some(2));
    assert_eq!((driven.asks(), driven.record()), (Some(1), found()), "a lower term, another absence");
    driven.persists = false;
    driven.go_alone(7, Some(1));
    assert!(!driven.is_released(1) && driven.asks().is_none());
    let answer = driven.pending.pop().expect("a record to be made durable");
    driven.persists = true;
    driven.tell(answer);
    let record = driven.record();
    assert!(driven.is_released(1) && driven.phase() == Phase::Alone);
    assert_eq!((record.term, record.alone), (Term(7), true));
    assert_eq!((record.lineage.current.number, record.lineage.shared), (Generation(2), id(1, 1)));
    // Said again, it changes nothing.
    driven.go_alone(8, None);
    assert_eq!(driven.record(), record);
}

/// A peer that yielded to a higher term listens to no lower one, and does not say so as long as it waits for that term.
#[test]
fn who_runs_alone_takes_a_higher_term_and_nothing_else() {
    let mut driven = Driven::primary(found(), false);
    driven.go_alone(7, Some(0));
    assert_eq!(driven.asks(), Some(1), "it asks, so it does not run alone");
    driven.go_alone(7, Some(1));
    let record = driven.record();
    driven.go_alone(7, Some(0));
    driven.go_alone(6, Some(0));
    assert_eq!(driven.record(), record, "not a higher one");
    driven.persists = false;
    driven.go_alone(8, Some(0));
    driven.sync(1);
    assert!(!driven.is_released(1), "not on record");
    let answer = driven.pending.pop().expect("a record to be made durable");
    driven.persists = true;
    driven.tell(answer);
    assert!(driven.is_released(1) && driven.phase() == Phase::Alone);
    assert_eq!((driven.record().term, driven.record().alone), (Term(8), true));
    driven.mirror();
    driven.go_alone(9, Some(0));
    assert_eq!(driven.record().term, Term(8), "both hold the same");
}

#[test]
fn the_permission_ends_when_both_hold_the_same() {
    let mut driven = Driven::primary(found(), false);
    driven.go_alone(1, None);
    driven.mirror();
    assert_eq!((driven.asks(), driven.record().alone), (None, false));
    // Whoever saw the loss before this node does, or late: it is not kept for later.
    driven.go_alone(9, None);
    assert_eq!(driven.record().term, Term(1));
    driven.lose();
    driven.sync(2);
    assert_eq!((driven.phase(), driven.asks()), (Phase::Holding, Some(2)));
    driven.go_alone(9, Some(1));
    assert_eq!((driven.asks(), driven.is_released(2), driven.record().alone), (Some(2), false, false));
    driven.go_alone(9, Some(2));
    assert!(driven.is_released(2) && driven.phase() == Phase::Alone);
}

/// The peer may have recorded that it is up to date, and may be promoted: nothing is acknowledged without it any more.
#[test]
fn a_session_that_ends_while_the_peer_records_its_end_is_another_absence() {
    let mut driven = Driven::primary(found(), false);
    driven.go_alone(3, None);
    driven.meet(3);
    assert!(driven.answer_until(Some(Kind::ResyncEnd)));
    driven.go_alone(4, Some(1));
    assert!(driven.closed().is_none() && driven.record().term == Term(3), "about to be mirrored");
    driven.sync(1);
    driven.lose();
    assert_eq!((driven.phase(), driven.asks(), driven.is_released(1)), (Phase::Holding, Some(2), false));
    let told = driven.record().lineage.current;
    assert!(!driven.record().alone);
    driven.go_alone(4, Some(2));
    assert!(driven.is_released(1));
    assert_eq!(driven.record().lineage.shared, told, "the peer may have what it was told");
}

#[test]
fn a_peer_that_is_back_but_not_up_to_date_is_not_waited_for_if_so_told() {
    let mut driven = Driven::primary(found(), false);
    driven.meet(1);
    driven.sync(1);
    assert_eq!((driven.phase(), driven.asks(), driven.is_released(1)), (Phase::Resyncing, Some(1), false));
    driven.go_alone(2, Some(1));
    assert_eq!((driven.closed(), driven.phase()), (Some(CloseReason::GoingAlone), Phase::Alone));
    assert!(driven.is_released(1));
    // The next stream is of the new term from its beginning.
    driven.actions.clear();
    driven.dial();
    driven.meet(2);
    let frames = driven.actions.iter().filter_map(|action| match action {
        Action::SendFrame { header, .. } => Some(header.term),
        _ => None,
    });
    assert!(frames.clone().count() > 0 && frames.clone().all(|term| term == Term(2)));
}

#[test]
fn a_primary_that_was_alone_asks_again_when_it_is_started() {
    let alone = StateRecord { alone: true, ..found() };
    let begun = StateRecord::begin_primary(Some(alone), asks(5)).expect("it is whole");
    assert_eq!((begun.alone, begun.lineage), (true, alone.lineage), "nothing is begun before it is told");
    let mut driven = Driven::primary(begun, false);
    driven.sync(1);
    assert_eq!((driven.phase(), driven.asks(), driven.is_released(1)), (Phase::Holding, Some(1), false));
    driven.go_alone(1, None);
    assert!(driven.is_released(1) && driven.record().lineage.current.number == Generation(2));

    let told = Start { go_alone: true, term: Some(Term(4)), ..asks(6) };
    let begun = StateRecord::begin_primary(Some(found()), told).expect("it is whole");
    assert_eq!((begun.alone, begun.term), (true, Term(4)));
    assert_eq!((begun.lineage.current, begun.lineage.shared), (id(2, 6), id(1, 1)));
    let mut driven = Driven::primary(begun, true);
    driven.sync(1);
    assert_eq!((driven.phase(), driven.asks(), driven.is_released(1)), (Phase::Alone, None, true));
}

#[test]
fn a_primary_that_hears_of_a_later_one_lets_nobody_go_until_its_own_term_is_no_lower() {
    let mut driven = Driven::primary(found(), true);
    driven.go_alone(1, None);
    driven.tell(Event::SessionOpened { session: driven.session, version: VERSION });
    driven.receive(Kind::KeepAlive, 5, 0, Vec::new());
    assert_eq!((driven.closed(), driven.phase()), (Some(CloseReason::StaleTerm), Phase::Holding));
    assert!(driven.actions.contains(&Action::Report(Notice::Deposed { term: Term(5) })));
    driven.sync(1);
    assert_eq!((driven.node.snapshot().deposed, driven.is_released(1)), (Some(Term(5)), false));
    driven.go_alone(4, driven.asks());
    assert!(!driven.is_released(1));
    // The peer was told of this primacy first.
    driven.go_alone(5, driven.asks());
    assert!(driven.is_released(1) && driven.node.snapshot().deposed.is_none());
}

fn copy(term: u64, data: DataState) -> StateRecord {
    let lineage = Lineage::beginning_with(id(3, 3));
    StateRecord {
        term: Term(term),
        lineage,
        data,
        role: Some(Role::Secondary),
        ..StateRecord::begin_secondary(None)
    }
}

/// A stream in that term begins, and its beginning is applied if it may be.
fn begin(driven: &mut Driven, term: u64) {
    driven.session = driven.session.next();
    let session = driven.session;
    driven.tell(Event::SessionOpened { session, version: VERSION });
    let account = Account { primary: true, data: DataState::UpToDate, ..driven.node.snapshot().account };
    driven.receive(Kind::Account, term, 0, account.encode());
    let header = Header { sequence: Sequence(1), ..Header::new(Kind::ResyncBegin, Term(term)) };
    let body = ReceivedBody::Structured(vec![0; 24]);
    driven.tell(Event::FrameReceived { session, header, body });
    let outcome = Ok(AppliedOutcome::Done);
    driven.tell(Event::Applied { session, sequence: Sequence(1), outcome });
}

#[test]
fn a_secondary_records_the_term_before_it_takes_anything_and_refuses_lower_ones_ever_after() {
    let mut driven = Driven::secondary(copy(2, DataState::Consistent));
    begin(&mut driven, 4);
    let at = |wanted: fn(&Action) -> bool| driven.actions.iter().position(wanted).expect("ordered");
    let recorded =
        at(|action| matches!(action, Action::PersistState { record, .. } if record.term == Term(4)));
    assert!(recorded < at(|action| matches!(action, Action::Apply { .. })));
    // A stream has one term.
    driven.receive(Kind::KeepAlive, 5, 0, Vec::new());
    assert!(matches!(driven.closed(), Some(CloseReason::Protocol(_))));

    let mut driven = Driven::secondary(StateRecord::begin_secondary(Some(driven.record())));
    begin(&mut driven, 3);
    assert_eq!(driven.closed(), Some(CloseReason::StaleTerm));
    assert!(!driven.actions.iter().any(|action| matches!(action, Action::Apply { .. })));
    let told = |action: &Action| matches!(action, Action::SendFrame { header, .. } if header.term == Term(4));
    assert!(driven.actions.iter().any(told), "the primary learns that it is over");
}

#[test]
fn a_secondary_that_is_told_so_is_outdated_until_it_is_brought_up_to_date() {
    for whole in [DataState::UpToDate, DataState::Consistent] {
        let mut driven = Driven::secondary(copy(2, whole));
        driven.tell(Event::Outdate { term: Term(1) });
        assert_eq!(driven.record(), copy(2, whole));
        driven.tell(Event::Outdate { term: Term(3) });
        assert_eq!((driven.record().data, driven.record().term), (DataState::Outdated, Term(3)));
        begin(&mut driven, 3);
        assert_eq!(driven.record().data, DataState::Inconsistent);
    }
    // In a session: it confirms nothing any more. What was received is applied, and does not make it whole again.
    let mut driven = Driven::secondary(copy(2, DataState::UpToDate));
    begin(&mut driven, 2);
    driven.actions.clear();
    driven.tell(Event::Outdate { term: Term(3) });
    assert_eq!(driven.closed(), Some(CloseReason::Outdated));
    let sends = |action: &Action| matches!(action, Action::SendFrame { body: Body::Structured(_), .. });
    assert!(!driven.actions.iter().any(sends));
    assert_eq!((driven.record().data, driven.record().term), (DataState::Inconsistent, Term(3)));
    begin(&mut driven, 2);
    assert_eq!(driven.closed(), Some(CloseReason::StaleTerm));
}

#[test]
fn a_whole_copy_is_promoted_and_goes_on_from_what_both_had() {
    for whole in [DataState::UpToDate, DataState::Consistent] {
        let start = Start { term: Some(Term(5)), go_alone: true, ..asks(9) };
        let begun = StateRecord::begin_primary(Some(copy(4, whole)), start).expect("it is whole");
        assert_eq!((begun.term, begun.data, begun.alone), (Term(5), DataState::UpToDate, true));
        assert_eq!((begun.lineage.current, begun.lineage.shared), (id(4, 9), id(3, 3)));
        assert_eq!((begun.role, begun.running), (Some(Role::Primary), true));
        // The number it knows is not given up; without one from elsewhere it takes the next.
        let low = Start { term: Some(Term(2)), ..asks(9) };
        let begun = StateRecord::begin_primary(Some(copy(4, whole)), low).expect("it is whole");
        assert_eq!((begun.term, begun.alone, begun.lineage.current), (Term(4), false, id(3, 3)));
        let begun = StateRecord::begin_primary(Some(copy(4, whole)), asks(9)).expect("it is whole");
        assert_eq!(begun.term, Term(5));
    }
}

#[test]
fn another_copy_is_not_promoted_unless_it_is_forced_and_then_nobody_is_overwritten_unasked() {
    let former =
        StateRecord { role: Some(Role::Primary), data: DataState::UpToDate, ..copy(4, DataState::UpToDate) };
    for data in [DataState::Outdated, DataState::Inconsistent] {
        let start = Start { term: Some(Term(5)), go_alone: true, ..asks(9) };
        let refused = StateRecord::begin_primary(Some(copy(4, data)), start);
        assert_eq!(refused, Err(NotPromotable::Data(data)));
        let forced = Start { forced: true, ..start };
        let begun = StateRecord::begin_primary(Some(copy(4, data)), forced).expect("it is forced");
        assert_eq!((begun.data, begun.alone, begun.term), (DataState::UpToDate, true, Term(5)));
        assert!(begun.lineage.current.number > Generation(3));
        let of = |record: StateRecord, primary| Account {
            lineage: record.lineage,
            data: record.data,
            primary,
            crashed: false,
            lost: false,
            marked: false,
        };
        let found = decide(&of(begun, true), &of(former, false));
        assert_eq!((found.relation, found.source, found.keeps), (Relation::Unrelated, None, true));
        assert!(found.overruled(Side::Here).keeps);
    }
    let lost = Some(StateRecord { lost: true, ..StateRecord::unknown() });
    assert_eq!(StateRecord::begin_primary(lost, asks(1)), Err(NotPromotable::Lost));
    assert!(StateRecord::begin_primary(lost, Start { forced: true, ..asks(1) }).is_ok());
    assert!(StateRecord::begin_primary(lost, Start::by_itself(Tag(1))).is_ok(), "the meeting will tell");
    // To force what is whole changes nothing.
    let forced = Start { forced: true, ..asks(9) };
    let begun = StateRecord::begin_primary(Some(former), forced).expect("it is whole");
    assert_eq!(begun.lineage, former.lineage);
}

#[test]
fn a_primary_that_returns_as_a_secondary_is_whole_as_far_as_it_knows_and_keeps_what_it_may_have_more() {
    let returned = StateRecord::begin_secondary(Some(StateRecord { running: true, alone: true, ..found() }));
    assert_eq!((returned.data, returned.crashed, returned.alone), (DataState::Consistent, true, false));
    // In order, but without the peer: what it has is nowhere else.
    let mut driven = Driven::primary(StateRecord { running: true, ..found() }, false);
    driven.tell(Event::AttributesChanged { file: ROOT });
    driven.tell(Event::Stop);
    assert!(driven.node.is_at_rest() && driven.record().crashed && !driven.record().running);
    let mut driven = Driven::primary(StateRecord { running: true, ..found() }, false);
    driven.mirror();
    driven.tell(Event::Stop);
    assert!(driven.node.is_at_rest() && !driven.record().crashed && !driven.record().running);
}
