//! Numbers that nobody counts to, and lengths that no frame has: who says them is not believed, so that there is room to count on.

mod record;

use replicator_core::action::{Action, CloseReason, DataState, DurableScope, StateRecord};
use replicator_core::config::{PrimaryConfig, SecondaryConfig, VolumeRoot};
use replicator_core::event::{AppliedOutcome, Event, ReceivedBody};
use replicator_core::ids::{COUNTED_MAX, FileId, Generation, Sequence, SessionId, Term, Time, VolumeId};
use replicator_core::lineage::Lineage;
use replicator_core::node::Node;
use replicator_core::reunion::Account;
use replicator_core::wire::BodyError;
use replicator_core::wire::body::{encode_barrier, encode_stream};
use replicator_core::wire::header::{Header, Kind, PAYLOAD_MAX};

const SESSION: SessionId = SessionId(1);

/// What a node orders when a session of that version is open and this comes.
fn told(mut node: Node, version: u16, frames: &[(Header, ReceivedBody)]) -> Option<CloseReason> {
    let mut actions = Vec::new();
    node.handle(Time(1), Event::Tick, &mut actions);
    node.handle(Time(1), Event::SessionOpened { session: SESSION, version }, &mut actions);
    for (header, body) in frames {
        let (header, body) = (*header, body.clone());
        node.handle(Time(1), Event::FrameReceived { session: SESSION, header, body }, &mut actions);
    }
    actions.into_iter().find_map(|action| match action {
        Action::CloseSession { reason, .. } => Some(reason),
        _ => None,
    })
}

fn secondary() -> Node {
    Node::secondary(SecondaryConfig::default(), StateRecord::unknown(), Time(1))
}

fn primary() -> Node {
    let root = FileId { volume: VolumeId(0), inode: 1 };
    let config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root }]);
    Node::primary(config, record::alone(), Time(1))
}

fn begin() -> (Header, ReceivedBody) {
    let mut header = Header::new(Kind::ResyncBegin, Term(1));
    header.sequence = Sequence(1);
    (header, ReceivedBody::Structured(encode_stream(Default::default())))
}

#[test]
fn a_term_that_leaves_no_room_for_another_is_not_taken() {
    let say = |term| (Header::new(Kind::KeepAlive, Term(term)), ReceivedBody::Opaque);
    for version in [1, 4] {
        for node in [secondary, primary] {
            let closed = told(node(), version, &[say(u64::MAX)]);
            assert_eq!(closed, Some(CloseReason::Protocol("an impossible term")), "version {version}");
        }
        assert_eq!(told(secondary(), version, &[say(COUNTED_MAX)]), None);
        assert_eq!(told(primary(), version, &[say(COUNTED_MAX)]), Some(CloseReason::StaleTerm));
    }
}

#[test]
fn a_generation_that_leaves_no_room_for_another_is_not_taken() {
    let account = |number| Account {
        lineage: Lineage::untagged(Generation(number)),
        data: DataState::UpToDate,
        primary: true,
        crashed: false,
        lost: false,
        marked: false,
    };
    assert!(Account::decode(&account(COUNTED_MAX).encode()).is_ok());
    let beyond = Account::decode(&account(COUNTED_MAX + 1).encode());
    assert_eq!(beyond, Err(BodyError::Value("generation")));
    // A primary of an old version names it at the end of a resync alone.
    let end = |number| {
        let mut header = Header::new(Kind::ResyncEnd, Term(1));
        (header.sequence, header.offset) = (Sequence(2), number);
        (header, ReceivedBody::Opaque)
    };
    assert_eq!(told(secondary(), 1, &[begin(), end(COUNTED_MAX)]), None);
    let closed = told(secondary(), 1, &[begin(), end(u64::MAX)]);
    assert_eq!(closed, Some(CloseReason::Protocol("an impossible generation")));
}

#[test]
fn a_data_frame_has_no_more_bytes_than_fit_into_a_frame() {
    let data = |length| {
        let mut header = Header::new(Kind::Data, Term(1));
        (header.sequence, header.length) = (Sequence(2), length);
        (header, ReceivedBody::Opaque)
    };
    assert_eq!(told(secondary(), 1, &[begin(), data(PAYLOAD_MAX.into())]), None);
    let closed = told(secondary(), 1, &[begin(), data(u64::from(PAYLOAD_MAX) + 1)]);
    assert_eq!(closed, Some(CloseReason::Protocol("an impossible extent")));
}

/// Once for its bytes, once for all of it: the answer is for all of it.
#[test]
fn a_file_that_a_barrier_names_twice_is_made_durable_as_a_whole() {
    let file = FileId { volume: VolumeId(0), inode: 5 };
    for twice in [[(file, true), (file, false)], [(file, false), (file, true)]] {
        let mut barrier = Header::new(Kind::Barrier, Term(1));
        barrier.sequence = Sequence(2);
        let asked = ReceivedBody::Structured(encode_barrier(&DurableScope::Files(twice.to_vec())));
        let (mut node, mut actions) = (secondary(), Vec::new());
        let mut tell = |event| {
            node.handle(Time(1), event, &mut actions);
            std::mem::take(&mut actions)
        };
        tell(Event::SessionOpened { session: SESSION, version: 1 });
        let mut orders = Vec::new();
        for (header, body) in [begin(), (barrier, asked)] {
            orders.extend(tell(Event::FrameReceived { session: SESSION, header, body }));
        }
        let mut synced = None;
        while let Some(order) = orders.pop() {
            orders.extend(match order {
                Action::PersistState { persist, .. } => {
                    tell(Event::StatePersisted { persist, result: Ok(()) })
                }
                Action::Apply { session, sequence, .. } => {
                    tell(Event::Applied { session, sequence, outcome: Ok(AppliedOutcome::Done) })
                }
                Action::MakeDurable { scope, .. } => {
                    synced = Some(scope);
                    Vec::new()
                }
                _ => Vec::new(),
            });
        }
        assert_eq!(synced, Some(DurableScope::Files(vec![(file, false)])));
    }
}
