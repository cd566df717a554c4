//! The rotation on two nodes in one thread, with crashes after every step that is durable. Time is rounds of beats, which only the tests move.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::heartbeat::Keyring;
use crate::membership::{Founding, NewNode, Policy};

/// Ticks after which a heartbeat forgets the older key here.
const ENOUGH: u32 = 5;
/// More rounds than anything takes.
const ROUNDS: usize = 40;
/// So many beats in a row may not be understood: a node that restarted tries both keys in turn, and may restart again between two beats.
const SILENCE_MAX: u32 = 2;

const A: usize = 0;
const B: usize = 1;

/// A heartbeat's keys without its network.
struct Hearing(Mutex<Keyring>);

impl Hearing {
    fn start(secrets: &Secrets) -> Hearing {
        let (key, next) = keys(secrets);
        let mut ring = Keyring::new(&key);
        if let Some(next) = &next {
            ring.rekey(next);
        }
        Hearing(Mutex::new(ring))
    }
}

impl Ears for Hearing {
    fn accept(&self, key: Key) {
        lock(&self.0).rekey(&key);
    }

    fn only_key(&self) -> Option<KeyId> {
        let ring = lock(&self.0);
        (!ring.is_changing()).then(|| ring.newest())
    }
}

/// A node between two crashes.
struct Running {
    path: PathBuf,
    hearing: Arc<Hearing>,
    rotation: Arc<Rotation<Hearing>>,
    /// Beats of the other in a row that it did not understand.
    silence: u32,
}

impl Running {
    /// It starts with what is on its disk.
    fn start(path: PathBuf) -> Running {
        let membership = Membership::open(&path).unwrap();
        let hearing = Arc::new(Hearing::start(membership.secrets()));
        let rotation = Arc::new(Rotation::new(Member::new(membership), Arc::clone(&hearing)));
        Running { path, hearing, rotation, silence: 0 }
    }

    fn disk(&self) -> Membership {
        Membership::open(&self.path).unwrap()
    }

    /// Its current, next and previous secret, by their numbers.
    fn numbers(&self) -> (u64, Option<u64>, Option<u64>) {
        let (next, previous) = self.disk().secrets().others();
        (self.disk().secrets().number(), next, previous)
    }
}

/// How far a question and its answer come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Open,
    AnswerLost,
    Closed,
}

/// The other node, as one asks it.
struct Over(Arc<Rotation<Hearing>>, Way);

impl Peer for Over {
    async fn ask(&self, request: Request) -> Answer {
        let Request::TakeSecret { offer } = request else { return Answer::refused("not asked for") };
        if self.1 == Way::Closed {
            return Answer::refused("nobody is there");
        }
        match self.0.take(offer).await {
            _ if self.1 == Way::AnswerLost => Answer::refused("no answer came"),
            Ok(()) => Answer::Done,
            Err(message) => Answer::Refused { message },
        }
    }
}

/// Two nodes of a cluster.
struct World {
    nodes: [Running; 2],
    /// Both have heard each other since the last start.
    steady: bool,
    _place: TempDir,
}

impl World {
    fn new() -> World {
        let place = TempDir::new().unwrap();
        let [alpha, beta] = ["alpha", "beta"].map(|name| place.path().join(name));
        let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let node = NewNode {
            name: "alpha".into(),
            heartbeat: BTreeMap::from([("lan".into(), at(7410))]),
            control: at(7411),
            mirror: vec![at(1).ip()],
        };
        let founding = Founding { cluster: "shop".into(), policy: Policy::default(), arbiter: None, node };
        Membership::found(&alpha, founding, SystemTime::now()).unwrap();
        // What a node is does not matter here: the other one has the same secrets.
        copy(&alpha, &beta);
        World { nodes: [alpha, beta].map(Running::start), steady: true, _place: place }
    }

    fn over(&self, node: usize, way: Way) -> Over {
        Over(Arc::clone(&self.nodes[1 - node].rotation), way)
    }

    async fn begin(&self, node: usize, way: Way) -> Result<SecretStatus, String> {
        self.nodes[node].rotation.begin(&self.over(node, way)).await
    }

    async fn go_on(&self, node: usize, way: Way) {
        self.nodes[node].rotation.go_on(&self.over(node, way)).await.unwrap();
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node] = Running::start(self.nodes[node].path.clone());
        self.steady = false;
    }

    /// Each sends a beat, which the other has to understand as often as not at least.
    fn beat(&mut self) {
        let mut understood = 0;
        for (from, to) in [(A, B), (B, A)] {
            let (_, id, other) = lock(&self.nodes[from].hearing.0).select(self.steady);
            let mut ring = lock(&self.nodes[to].hearing.0);
            let heard = ring.find(id).is_some();
            if heard {
                ring.note_peer(id, other);
                understood += 1;
            }
            ring.tick(ENOUGH);
            drop(ring);
            let silence = if heard { 0 } else { self.nodes[to].silence + 1 };
            self.nodes[to].silence = silence;
            assert!(
                silence <= SILENCE_MAX && (heard || !self.steady),
                "{to} does not hear {from}: {silence}, steady {}",
                self.steady
            );
        }
        self.steady |= understood == 2;
    }

    fn beats(&mut self, count: usize) {
        (0..count).for_each(|_| self.beat());
    }

    /// Everything arrives: both come to one secret, and use nothing else.
    async fn settle(&mut self, number: u64) {
        for _ in 0..ROUNDS {
            self.beat();
            self.go_on(A, Way::Open).await;
            self.go_on(B, Way::Open).await;
        }
        let [alpha, beta] = [A, B].map(|node| self.nodes[node].disk().secrets().clone());
        assert_eq!(alpha, beta);
        for node in &self.nodes {
            assert_eq!(node.numbers(), (number, None, None));
            assert_eq!(node.hearing.only_key(), Some(newest(&alpha).id()));
            let status = SecretStatus { number, ..SecretStatus::default() };
            assert_eq!(node.rotation.status(), status);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_secret_is_rotated_and_no_beat_is_lost() {
    let mut world = World::new();
    world.beats(3);
    for number in 2..5 {
        let status = world.begin(A, Way::Open).await.unwrap();
        assert_eq!((status.number, status.next, status.previous), (number, None, Some(number - 1)));
        world.settle(number).await;
    }
}

#[tokio::test]
async fn it_waits_for_a_node_that_is_not_there_and_says_so() {
    let mut world = World::new();
    let status = world.begin(A, Way::Closed).await.unwrap();
    assert_eq!((status.number, status.next, status.previous), (1, Some(2), None));
    assert_eq!(status.waits.as_deref(), Some("nobody is there"));
    for _ in 0..ROUNDS {
        world.beat();
        world.go_on(A, Way::Closed).await;
    }
    assert_eq!(world.nodes[A].numbers(), (1, Some(2), None));
    // Once more is no other one.
    let offered = world.nodes[A].disk().secrets().offer();
    world.begin(A, Way::Closed).await.unwrap();
    assert_eq!(world.nodes[A].disk().secrets().offer(), offered);
    world.settle(2).await;
}

#[tokio::test]
async fn another_one_is_not_begun_before_the_former_is_over() {
    let mut world = World::new();
    world.begin(A, Way::Open).await.unwrap();
    for node in [A, B] {
        world.begin(node, Way::Open).await.unwrap_err();
    }
    world.settle(2).await;
    world.begin(B, Way::Open).await.unwrap();
    world.settle(3).await;
}

/// What is durable when the crash comes.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// Proposed, and nobody was told; also not the heartbeat.
    ProposedOnly,
    Proposed,
    /// The other node has it on its disk, and nobody was told.
    TakenOnly,
    Taken,
    /// It is confirmed on the disk, and nobody was told.
    ConfirmedOnly,
    Confirmed,
    /// The one that began has forgotten the former secret; the other has not.
    RetiredHere,
    /// The other way round.
    RetiredThere,
}

const POINTS: [Point; 8] = [
    Point::ProposedOnly,
    Point::Proposed,
    Point::TakenOnly,
    Point::Taken,
    Point::ConfirmedOnly,
    Point::Confirmed,
    Point::RetiredHere,
    Point::RetiredThere,
];

async fn come_to(point: Point) -> World {
    let mut world = World::new();
    world.beats(3);
    match point {
        Point::ProposedOnly => drop(world.nodes[A].disk().propose_secret().unwrap()),
        Point::Proposed => drop(world.begin(A, Way::Closed).await.unwrap()),
        Point::TakenOnly => {
            world.begin(A, Way::Closed).await.unwrap();
            let offer = world.nodes[A].disk().secrets().offer();
            world.nodes[B].disk().take_secret(offer).unwrap();
        }
        Point::Taken => drop(world.begin(A, Way::AnswerLost).await.unwrap()),
        Point::ConfirmedOnly => {
            world.begin(A, Way::AnswerLost).await.unwrap();
            world.nodes[A].disk().confirm_secret(2).unwrap();
        }
        Point::Confirmed => drop(world.begin(A, Way::Open).await.unwrap()),
        Point::RetiredHere | Point::RetiredThere => {
            world.begin(A, Way::Open).await.unwrap();
            let (node, other) = if matches!(point, Point::RetiredHere) { (A, B) } else { (B, A) };
            while world.nodes[node].numbers() != (2, None, None) {
                world.beat();
                world.go_on(node, Way::Closed).await;
            }
            assert_eq!(world.nodes[other].numbers(), (2, None, Some(1)));
        }
    }
    world
}

#[tokio::test]
async fn whoever_crashes_after_whatever_step_both_end_with_one_secret_and_hear_each_other() {
    for point in POINTS {
        for crash in [&[A][..], &[B], &[A, B]] {
            // With some beats before, so that the heartbeats may have gone on, and without.
            for beats in [0, 2, 2 * ENOUGH as usize] {
                let mut world = come_to(point).await;
                world.beats(beats);
                crash.iter().for_each(|node| world.restart(*node));
                world.beats(3);
                assert!(world.steady, "{point:?}, {crash:?} crash after {beats} beats");
                world.settle(2).await;
            }
        }
    }
}

#[tokio::test]
async fn when_both_rotate_at_once_one_secret_stays() {
    for ways in [[Way::Open, Way::Open], [Way::Closed, Way::Closed], [Way::AnswerLost, Way::Closed]] {
        for crash in [&[][..], &[A], &[B], &[A, B]] {
            let mut world = World::new();
            // So that both are made before either arrives.
            for node in [A, B] {
                world.nodes[node].disk().propose_secret().unwrap();
            }
            let (one, other) = tokio::join!(world.begin(A, ways[A]), world.begin(B, ways[B]));
            drop((one, other));
            crash.iter().for_each(|node| world.restart(*node));
            world.settle(2).await;
        }
    }
}

/// Whatever may happen.
#[derive(Clone, Copy, Debug)]
enum Event {
    Begin(usize, Way),
    GoOn(usize, Way),
    Restart(usize),
    Beats(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 0..2_usize;
    let way = || prop_oneof![Just(Way::Open), Just(Way::AnswerLost), Just(Way::Closed)];
    prop_oneof![
        (node(), way()).prop_map(|(node, way)| Event::Begin(node, way)),
        (node(), way()).prop_map(|(node, way)| Event::GoOn(node, way)),
        node().prop_map(Event::Restart),
        (1..12_usize).prop_map(Event::Beats),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn in_any_order_both_hear_each_other_and_come_to_one_secret(events in prop::collection::vec(event(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for event in events {
                match event {
                    Event::Begin(node, way) => drop(world.begin(node, way).await),
                    Event::GoOn(node, way) => world.go_on(node, way).await,
                    Event::Restart(node) => world.restart(node),
                    Event::Beats(count) => world.beats(count),
                }
                world.beats(2);
            }
            let number = [A, B].map(|node| {
                let (number, next, _) = world.nodes[node].numbers();
                next.unwrap_or(number)
            });
            world.settle(number[A].max(number[B])).await;
        });
    }
}
