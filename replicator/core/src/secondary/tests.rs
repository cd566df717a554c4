//! The order of applies and barriers, against a naive model: whatever the frames and however the edge's answers come, nothing
//! that conflicts runs at once but what the edge does in order, and no barrier is made durable before what it covers is applied.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::Secondary;
use crate::action::{Action, DurableScope, StateRecord};
use crate::config::SecondaryConfig;
use crate::event::{AppliedOutcome, Event, NamespaceChange, ReceivedBody};
use crate::extent::{BLOCK_MAX, Extent};
use crate::ids::{FileId, FileKind, Generation, Sequence, SessionId, Term, Time, VolumeId};
use crate::lineage::Lineage;
use crate::wire::body::{Ack, encode_barrier};
use crate::wire::header::{Header, Kind};

const SESSION: SessionId = SessionId(1);
const APPLIES_MAX: usize = 4;
const IN_ORDER_BYTES: u64 = 3;

fn file(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

#[derive(Clone, Debug)]
enum Sent {
    Bytes(u64, Extent),
    Hole(u64, Extent),
    Attributes(u64),
    Digests(u64),
    Names,
    Barrier(Vec<u64>),
    BarrierForAll,
}

impl Sent {
    fn conflicts(&self, other: &Sent) -> bool {
        use Sent::{Attributes, Barrier, BarrierForAll, Bytes, Digests, Hole, Names};
        match (self, other) {
            (Barrier(_) | BarrierForAll, _) | (_, Barrier(_) | BarrierForAll) => false,
            (Names, _) | (_, Names) => true,
            (Bytes(one, _) | Hole(one, _), Bytes(two, _) | Hole(two, _)) => {
                one == two && self.touches().overlaps(other.touches())
            }
            (
                Bytes(one, _) | Hole(one, _) | Attributes(one) | Digests(one),
                Bytes(two, _) | Hole(two, _) | Attributes(two) | Digests(two),
            ) => one == two,
        }
    }

    /// A hole may take the rest of its last block with it.
    fn touches(&self) -> Extent {
        match self {
            Sent::Bytes(_, extent) => *extent,
            Sent::Hole(_, extent) => Extent { end: extent.end.next_multiple_of(BLOCK_MAX), ..*extent },
            _ => Extent::default(),
        }
    }

    fn is_work(&self) -> bool {
        !matches!(self, Sent::Barrier(_) | Sent::BarrierForAll)
    }

    /// Whether a barrier has to wait for it.
    fn concerns(&self, barrier: &Sent) -> bool {
        match (self, barrier) {
            (Sent::Names, _) | (_, Sent::BarrierForAll) => true,
            (
                Sent::Bytes(inode, _) | Sent::Hole(inode, _) | Sent::Attributes(inode) | Sent::Digests(inode),
                Sent::Barrier(files),
            ) => files.contains(inode),
            _ => false,
        }
    }

    fn event(&self, sequence: Sequence) -> Event {
        let (kind, inode, extent, body) = match self {
            Sent::Bytes(inode, extent) => (Kind::Data, *inode, *extent, ReceivedBody::Opaque),
            Sent::Hole(inode, extent) => (Kind::Hole, *inode, *extent, ReceivedBody::Opaque),
            Sent::Attributes(inode) => (Kind::Attributes, *inode, Extent::default(), ReceivedBody::Opaque),
            Sent::Digests(inode) => (Kind::Digests, *inode, Extent::at(0, 8), ReceivedBody::Opaque),
            Sent::Names => {
                let change =
                    NamespaceChange::Created { parent: file(1), file: file(9), kind: FileKind::Directory };
                (Kind::Namespace, 0, Extent::default(), ReceivedBody::Namespace(change))
            }
            Sent::Barrier(files) => {
                let scope = DurableScope::Files(files.iter().map(|inode| (file(*inode), true)).collect());
                (Kind::Barrier, 0, Extent::default(), ReceivedBody::Structured(encode_barrier(&scope)))
            }
            Sent::BarrierForAll => {
                let body = encode_barrier(&DurableScope::Everything);
                (Kind::Barrier, 0, Extent::default(), ReceivedBody::Structured(body))
            }
        };
        let mut header = Header::new(kind, Term(1));
        (header.sequence, header.file) = (sequence, file(inode));
        (header.offset, header.length) = (extent.start, extent.length());
        Event::FrameReceived { session: SESSION, header, body }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        8 => (2..6_u64, 0..16_u64, 1..6_u64).prop_map(|(inode, start, length)| Sent::Bytes(inode, Extent::at(start, length))),
        2 => (2..6_u64, 0..16_u64, 1..6_u64).prop_map(|(inode, start, length)| Sent::Hole(inode, Extent::at(start, length))),
        2 => (2..6_u64).prop_map(Sent::Attributes),
        1 => (2..6_u64).prop_map(Sent::Digests),
        1 => Just(Sent::Names),
        2 => prop::collection::vec(2..6_u64, 1..3).prop_map(Sent::Barrier),
        1 => Just(Sent::BarrierForAll),
    ]
}

/// The secondary under test and what it ordered that is not answered.
struct Bench {
    secondary: Secondary,
    frames: BTreeMap<Sequence, Sent>,
    /// What was ordered and is not answered, in the order of the orders; whether it is to be done in order.
    ordered: Vec<(Sequence, bool)>,
    unapplied: BTreeSet<Sequence>,
    syncing: Vec<(Sequence, DurableScope)>,
    answered: BTreeSet<Sequence>,
    acked: Ack,
    touched: bool,
}

impl Bench {
    fn tell(&mut self, event: Event) -> Result<(), TestCaseError> {
        let mut actions = Vec::new();
        self.secondary.handle(Time(1), event, &mut actions);
        for action in actions {
            match action {
                Action::Apply { sequence, in_order, .. } => self.check_apply(sequence, in_order)?,
                Action::MakeDurable { barrier, scope, .. } => self.check_durable(barrier, scope)?,
                Action::SendFrame { header, .. } if header.kind == Kind::BarrierDone => {
                    prop_assert!(self.answered.insert(Sequence(header.offset)));
                }
                Action::SendFrame { header, body: crate::action::Body::Structured(body), .. }
                    if header.kind == Kind::Ack =>
                {
                    let ack = Ack::decode(&body).expect("positions in order");
                    let before = self.acked;
                    prop_assert!(ack.received >= before.received && ack.applied >= before.applied);
                    prop_assert!(ack.synced >= before.synced);
                    prop_assert!(self.unapplied.first().is_none_or(|first| *first > ack.applied));
                    self.acked = ack;
                }
                Action::CloseSession { reason, .. } => prop_assert!(false, "closed: {reason:?}"),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_apply(&mut self, sequence: Sequence, in_order: bool) -> Result<(), TestCaseError> {
        let Some(work) = self.frames.get(&sequence) else { return Ok(()) };
        let takes_long = match work {
            Sent::Bytes(_, extent) => extent.length() > IN_ORDER_BYTES,
            Sent::Digests(_) => true,
            _ => false,
        };
        prop_assert_eq!(in_order, !takes_long);
        for before in self.unapplied.range(..sequence) {
            let apart = self.ordered.contains(&(*before, true));
            prop_assert!(apart || !work.conflicts(&self.frames[before]), "{sequence} overtakes {before}");
        }
        self.ordered.push((sequence, in_order));
        prop_assert!(self.ordered.len() <= APPLIES_MAX);
        Ok(())
    }

    /// What the edge may answer next.
    fn answerable(&self) -> Vec<Sequence> {
        let first = self.ordered.iter().position(|(_, in_order)| *in_order).unwrap_or(self.ordered.len());
        // What runs beside has not begun before all that is in order and was ordered before it has ended.
        self.ordered.iter().take(first + 1).map(|(sequence, _)| *sequence).collect()
    }

    fn check_durable(&mut self, barrier: Sequence, scope: DurableScope) -> Result<(), TestCaseError> {
        let asked = &self.frames[&barrier];
        for before in self.unapplied.range(..barrier) {
            prop_assert!(!self.frames[before].concerns(asked), "{barrier} does not wait for {before}");
        }
        if let (Sent::Barrier(files), DurableScope::Files(covered)) = (asked, &scope) {
            let covers = |inode| covered.iter().any(|(covered, _)| *covered == file(inode));
            prop_assert!(files.iter().all(|inode| covers(*inode)));
            prop_assert!(
                !self.touched || (covers(1) && covers(9)),
                "directories touched before are in the list"
            );
        }
        self.syncing.push((barrier, scope));
        Ok(())
    }
}

fn bench() -> Bench {
    let record =
        StateRecord { term: Term(1), lineage: Lineage::untagged(Generation(1)), ..StateRecord::unknown() };
    let config = SecondaryConfig {
        applies_max: APPLIES_MAX,
        in_order_bytes: IN_ORDER_BYTES,
        ..SecondaryConfig::default()
    };
    let mut bench = Bench {
        secondary: Secondary::new(config, record, Time(1)),
        frames: BTreeMap::new(),
        ordered: vec![],
        unapplied: BTreeSet::new(),
        syncing: vec![],
        answered: BTreeSet::new(),
        acked: Ack::default(),
        touched: false,
    };
    let mut header = Header::new(Kind::ResyncBegin, Term(1));
    header.sequence = Sequence(1);
    let body = ReceivedBody::Opaque;
    bench.tell(Event::SessionOpened { session: SESSION, version: 1 }).unwrap();
    bench.tell(Event::FrameReceived { session: SESSION, header, body }).unwrap();
    let outcome = Ok(AppliedOutcome::Done);
    bench.tell(Event::Applied { session: SESSION, sequence: Sequence(1), outcome }).unwrap();
    bench
}

proptest! {
    #[test]
    fn conflicting_frames_keep_their_order(frames in prop::collection::vec(sent(), 1..60), choices in prop::collection::vec(0..1000_usize, 400)) {
        let mut bench = bench();
        let mut frames = frames.into_iter();
        let mut sequence = Sequence(1);
        // Each step sends, or answers one of the orders; all is answered long before the choices are at their end.
        for choice in choices {
            let answerable = bench.answerable();
            let orders = answerable.len() + bench.syncing.len();
            if choice % 3 == 0 || orders == 0 {
                let Some(sent) = frames.next() else {
                    if orders == 0 {
                        let barriers = bench.frames.values().filter(|sent| !sent.is_work()).count();
                        prop_assert!(bench.unapplied.is_empty() && bench.answered.len() == barriers);
                        prop_assert_eq!(bench.acked.applied, sequence);
                        break;
                    }
                    continue;
                };
                sequence = sequence.next();
                if sent.is_work() {
                    bench.unapplied.insert(sequence);
                }
                let event = sent.event(sequence);
                bench.frames.insert(sequence, sent);
                bench.tell(event)?;
            } else if let Some(applied) = answerable.get(choice % orders).copied() {
                bench.ordered.retain(|(sequence, _)| *sequence != applied);
                bench.unapplied.remove(&applied);
                bench.touched |= matches!(bench.frames[&applied], Sent::Names);
                let outcome = Ok(AppliedOutcome::Done);
                bench.tell(Event::Applied { session: SESSION, sequence: applied, outcome })?;
            } else {
                let (barrier, _) = bench.syncing.swap_remove(choice % bench.syncing.len());
                prop_assert!(!bench.answered.contains(&barrier));
                bench.touched = false;
                bench.tell(Event::MadeDurable { session: SESSION, barrier, result: Ok(()) })?;
                prop_assert!(bench.answered.contains(&barrier));
            }
            bench.tell(Event::Tick)?;
        }
    }
}

#[test]
fn a_gap_in_the_stream_ends_the_session() {
    let mut bench = bench();
    let mut actions = Vec::new();
    bench.secondary.handle(Time(1), Sent::Names.event(Sequence(3)), &mut actions);
    assert!(actions.iter().any(|action| matches!(action, Action::CloseSession { .. })));
}
