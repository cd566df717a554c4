//! Two nodes tell each other where their data comes from, and a session begins or does not: frame by frame.

use replicator_core::action::{Action, Body, CloseReason, DataState, Notice, StateRecord};
use replicator_core::begin::{NotPromotable, Start};
use replicator_core::config::{PrimaryConfig, SecondaryConfig, VolumeRoot};
use replicator_core::event::{AppliedOutcome, Event, ReceivedBody};
use replicator_core::ids::{Errno, FileId, Generation, Sequence, SessionId, Term, Time, VolumeId};
use replicator_core::lineage::{GenerationId, Lineage, Tag};
use replicator_core::node::Node;
use replicator_core::reunion::{Account, Relation, Scope, Side};
use replicator_core::wire::body::Holding;
use replicator_core::wire::header::{FLAG_OVERWRITES, Header, Kind, VERSION};

const SESSION: SessionId = SessionId(1);

fn id(number: u64, tag: u64) -> GenerationId {
    GenerationId { number: Generation(number), tag: Tag(tag) }
}

/// Both shared generation 3; then this one went on alone.
fn alone(tag: u64) -> Lineage {
    let mut lineage = Lineage::beginning_with(id(3, 3));
    lineage.begin_generation(Tag(tag), true);
    lineage
}

fn account(lineage: Lineage, primary: bool) -> Account {
    Account { lineage, data: DataState::UpToDate, primary, crashed: false, lost: false, marked: false }
}

struct Driven {
    node: Node,
    now: Time,
    actions: Vec<Action>,
}

impl Driven {
    fn primary(record: StateRecord) -> Driven {
        let root = FileId { volume: VolumeId(0), inode: 2 };
        let mut config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root }]);
        config.incarnation = Some([1; 16]);
        let node = Node::primary(config, record, Time(1));
        let mut driven = Driven { node, now: Time(1), actions: Vec::new() };
        driven.tell(Event::Tick);
        driven
    }

    fn secondary(record: StateRecord) -> Driven {
        let node = Node::secondary(SecondaryConfig::default(), record, Time(1));
        Driven { node, now: Time(1), actions: Vec::new() }
    }

    /// Whatever is to be recorded is.
    fn tell(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.node.handle(self.now, event, &mut actions);
        for action in actions {
            let persisted = match &action {
                Action::PersistState { persist, .. } => Some(*persist),
                _ => None,
            };
            self.actions.push(action);
            if let Some(persist) = persisted {
                self.tell(Event::StatePersisted { persist, result: Ok(()) });
            }
        }
    }

    fn receive(&mut self, session: SessionId, kind: Kind, flags: u16, sequence: u64, body: Vec<u8>) {
        let header = Header { flags, sequence: Sequence(sequence), ..Header::new(kind, Term(1)) };
        self.tell(Event::FrameReceived { session, header, body: ReceivedBody::Structured(body) });
    }

    /// The primary's peer says what it is.
    fn meet(&mut self, session: SessionId, peer: &Account) {
        self.tell(Event::SessionOpened { session, version: VERSION });
        self.receive(session, Kind::Account, 0, 0, peer.encode());
        let holding = Holding { generation: peer.lineage.current.number, held: None };
        self.receive(session, Kind::Holding, 0, 0, holding.encode());
    }

    fn sent(&self) -> Vec<(Kind, u16)> {
        let sent = |action: &Action| match action {
            Action::SendFrame { header, .. } => Some((header.kind, header.flags)),
            _ => None,
        };
        self.actions.iter().filter_map(sent).collect()
    }

    fn closed(&self) -> Option<CloseReason> {
        self.actions.iter().find_map(|action| match action {
            Action::CloseSession { reason, .. } => Some(*reason),
            _ => None,
        })
    }

    /// Whether the peer was told that no session begins. It closes then.
    fn is_refused(&mut self, session: SessionId) -> bool {
        let told = self.sent() == [(Kind::Account, 0), (Kind::Goodbye, 0)] && self.closed().is_none();
        self.tell(Event::SessionLost { session });
        told
    }

    fn refusals(&self) -> usize {
        self.actions.iter().filter(|action| matches!(action, Action::Report(Notice::Refused { .. }))).count()
    }

    fn dialled(&self) -> Option<SessionId> {
        self.actions.iter().find_map(|action| match action {
            Action::Dial { session } => Some(*session),
            _ => None,
        })
    }

    /// Wait for the next attempt to connect.
    fn dial(&mut self) -> SessionId {
        self.actions.clear();
        for _ in 0..100 {
            if let Some(session) = self.dialled() {
                return session;
            }
            if let Some(deadline) = self.node.next_deadline() {
                self.now = self.now.max(deadline);
            }
            self.tell(Event::Tick);
        }
        panic!("nobody is dialled: {:?}", self.node.next_deadline());
    }
}

fn record(lineage: Lineage) -> StateRecord {
    StateRecord {
        term: Term(1),
        lineage,
        data: DataState::UpToDate,
        alone: true,
        ..StateRecord::begin_secondary(None)
    }
}

#[test]
fn a_primary_that_is_not_the_source_begins_no_session_until_an_operator_says_so() {
    let peer = account(alone(20), false);
    let mut driven = Driven::primary(record(alone(10)));
    assert_eq!(driven.dialled(), Some(SESSION));
    driven.meet(SESSION, &peer);
    assert_eq!((driven.is_refused(SESSION), driven.refusals()), (true, 1));
    let snapshot = driven.node.snapshot();
    let found = snapshot.reunion.expect("a finding");
    assert_eq!(found.relation, Relation::Diverged { known_parent: true });
    assert!(snapshot.refused && snapshot.record.alone);
    // It is said once, however often they meet.
    let session = driven.dial();
    driven.meet(session, &peer);
    assert_eq!((driven.is_refused(session), driven.refusals()), (true, 0));

    driven.actions.clear();
    driven.tell(Event::Overrule);
    let session = driven.dialled().expect("at once");
    driven.actions.clear();
    driven.meet(session, &peer);
    assert_eq!(driven.sent()[..2], [(Kind::Account, FLAG_OVERWRITES), (Kind::ResyncBegin, 0)]);
    // The connection ends before the peer has begun: the word still holds, for what the peer had.
    driven.tell(Event::SessionLost { session });
    let session = driven.dial();
    driven.meet(session, &peer);
    assert!(driven.sent().contains(&(Kind::Account, FLAG_OVERWRITES)));
    driven.tell(Event::SessionLost { session });
    // But for nothing else.
    let session = driven.dial();
    driven.meet(session, &account(alone(30), false));
    assert!(driven.is_refused(session));
    let session = driven.dial();
    driven.meet(session, &peer);
    assert!(driven.is_refused(session));
}

#[test]
fn an_operator_has_nothing_to_say_where_the_nodes_agree() {
    let mut driven = Driven::primary(record(alone(10)));
    driven.tell(Event::Overrule);
    driven.meet(SESSION, &account(alone(20), false));
    assert!(driven.is_refused(SESSION));
    let session = driven.dial();
    driven.meet(session, &account(Lineage::beginning_with(id(3, 3)), false));
    assert_eq!(driven.sent()[..2], [(Kind::Account, 0), (Kind::ResyncBegin, 0)]);
    assert!(!driven.node.snapshot().refused);
}

#[test]
fn a_secondary_that_says_nothing_of_its_data_is_no_peer() {
    let mut driven = Driven::primary(record(alone(10)));
    driven.tell(Event::SessionOpened { session: SESSION, version: VERSION });
    let holding = Holding { generation: Generation(3), held: None };
    driven.receive(SESSION, Kind::Holding, 0, 0, holding.encode());
    assert!(matches!(driven.closed(), Some(CloseReason::Protocol(_))));
}

/// What a primary does that does not keep to the rules, or an older copy of one.
#[test]
fn a_secondary_is_not_overwritten_by_what_it_is_ahead_of() {
    for (flags, taken) in [(0, false), (FLAG_OVERWRITES, true)] {
        let mut driven = Driven::secondary(record(alone(20)));
        driven.tell(Event::SessionOpened { session: SESSION, version: VERSION });
        assert_eq!(driven.sent(), [(Kind::Account, 0), (Kind::Holding, 0)]);
        let primary = account(Lineage::beginning_with(id(3, 3)), true);
        driven.receive(SESSION, Kind::Account, flags, 0, primary.encode());
        driven.receive(SESSION, Kind::ResyncBegin, 0, 1, vec![0; 24]);
        let found = driven.node.snapshot().reunion.expect("a finding");
        assert_eq!((found.source, found.scope), (Some(Side::Here), Scope::Marks));
        if !taken {
            assert_eq!((driven.closed(), driven.refusals()), (Some(CloseReason::NotTheSource), 1));
            assert!(!driven.actions.iter().any(|action| matches!(action, Action::Apply { .. })));
            assert_eq!(driven.node.snapshot().record, record(alone(20)));
            continue;
        }
        // What it gives up is on record, and kept aside, before the first frame is applied.
        let at = |wanted: fn(&Action) -> bool| driven.actions.iter().position(wanted).expect("ordered");
        let persisted = at(|action| matches!(action, Action::PersistState { .. }));
        let kept = at(|action| matches!(action, Action::KeepAside { of } if *of == id(4, 20)));
        let applied = at(|action| matches!(action, Action::Apply { .. }));
        assert!(persisted < kept && kept < applied);
        let now = driven.node.snapshot().record;
        assert_eq!((now.data, now.keeping), (DataState::Inconsistent, id(4, 20)));
        assert!(now.lineage.current.is_none());
    }
}

#[test]
fn a_stream_without_an_account_is_refused() {
    let mut driven = Driven::secondary(record(alone(20)));
    driven.tell(Event::SessionOpened { session: SESSION, version: VERSION });
    driven.receive(SESSION, Kind::ResyncBegin, 0, 1, vec![0; 24]);
    assert!(matches!(driven.closed(), Some(CloseReason::Protocol(_))));
}

/// A primary begins a generation of its own at each start while it is alone: what it started from may be an older copy.
#[test]
fn a_start_never_acknowledges_in_a_generation_that_the_peer_may_have_gone_on_from() {
    let begin = |found, tag| StateRecord::begin_primary(found, Start::by_itself(Tag(tag)));
    let first = begin(None, 1).expect("a first start");
    assert_eq!((first.lineage.current, first.alone, first.running), (id(1, 1), true, true));
    let again = begin(Some(first), 2).expect("it is whole");
    assert_eq!((again.lineage.current, again.lineage.shared, again.crashed), (id(2, 2), id(1, 1), true));
    let stopped = StateRecord { running: false, crashed: false, ..again };
    let later = begin(Some(stopped), 3).expect("it is whole");
    assert_eq!((later.lineage.current, later.lineage.shared, later.crashed), (id(3, 3), id(1, 1), false));
    // One that is not alone does so when it goes on alone, and no earlier.
    let mirrored = StateRecord { alone: false, ..stopped };
    let begun = begin(Some(mirrored), 3).expect("it is whole");
    assert_eq!(begun.lineage, mirrored.lineage);
    let mut driven = Driven::primary(begun);
    let now = driven.node.snapshot().record;
    assert!(now.alone && now.lineage.current.number == Generation(3) && now.lineage.shared == id(2, 2));
    driven.tell(Event::Stop);
    assert!(driven.node.is_at_rest() && !driven.node.snapshot().record.running);
    // A copy that is not whole does not become so by being called the primary.
    let copy = StateRecord::begin_secondary(None);
    assert_eq!(begin(Some(copy), 4), Err(NotPromotable::Data(DataState::Inconsistent)));
    let crashed = StateRecord::begin_secondary(Some(first));
    assert!(crashed.crashed && !crashed.running && !crashed.alone);
}

/// The copy is of the new generation, whatever became of the record: a primary that knows only the old one must not take it for its own.
#[test]
fn a_secondary_whose_record_cannot_be_written_says_what_its_copy_is() {
    let before = Lineage::beginning_with(id(3, 3));
    let mut driven = Driven::secondary(record(before));
    driven.tell(Event::SessionOpened { session: SESSION, version: VERSION });
    driven.receive(SESSION, Kind::Account, 0, 0, account(alone(20), true).encode());
    driven.receive(SESSION, Kind::ResyncBegin, 0, 1, vec![0; 24]);
    let applied = |sequence| {
        let outcome = Ok(AppliedOutcome::Done);
        Event::Applied { session: SESSION, sequence, outcome }
    };
    driven.tell(applied(Sequence(1)));
    let header = Header { offset: 4, sequence: Sequence(2), ..Header::new(Kind::ResyncEnd, Term(1)) };
    driven.tell(Event::FrameReceived { session: SESSION, header, body: ReceivedBody::Opaque });
    driven.tell(applied(Sequence(2)));
    let synced = Event::MadeDurable { session: SESSION, barrier: Sequence(2), result: Ok(()) };
    let mut actions = Vec::new();
    driven.node.handle(driven.now, synced, &mut actions);
    let [Action::PersistState { persist, record }] = actions[..] else { panic!("{actions:?}") };
    assert_eq!((record.lineage.current, record.data), (id(4, 20), DataState::UpToDate));
    driven.tell(Event::StatePersisted { persist, result: Err(Errno(5)) });
    driven.tell(Event::SessionLost { session: SESSION });
    assert_eq!(driven.node.snapshot().record.lineage.current, id(3, 3));

    let session = SessionId(2);
    driven.actions.clear();
    driven.tell(Event::SessionOpened { session, version: VERSION });
    let told = driven.actions.iter().find_map(|action| match action {
        Action::SendFrame { header, body: Body::Structured(body), .. } if header.kind == Kind::Account => {
            Account::decode(body).ok()
        }
        _ => None,
    });
    let told = told.expect("an account");
    assert_eq!((told.lineage.current, told.data), (id(4, 20), DataState::Inconsistent));
    // That primary was put back to what it was, and went on from there.
    driven.receive(session, Kind::Account, 0, 0, account(alone(30), true).encode());
    driven.receive(session, Kind::ResyncBegin, 0, 1, vec![0; 24]);
    assert_eq!(driven.closed(), Some(CloseReason::NotTheSource));
}
