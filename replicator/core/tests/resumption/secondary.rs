//! What a secondary says to hold, and what it goes on from.

use replicator_core::action::{Action, Body, StateRecord};
use replicator_core::config::SecondaryConfig;
use replicator_core::event::{AppliedOutcome, Event, ReceivedBody};
use replicator_core::ids::{Errno, Generation, Sequence, SessionId, Term, Time};
use replicator_core::lineage::Lineage;
use replicator_core::node::Node;
use replicator_core::resume::{Beginning, Held};
use replicator_core::wire::body::{Holding, Resumption, encode_stream};
use replicator_core::wire::header::{Header, Kind, VERSION_FLAGS as VERSION};

use super::driven::{id, stream};

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
                Action::Apply { session, sequence, .. } => {
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
