//! Two nodes, a network that loses, delays, records and repeats, and an observer that knows what may be believed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::super::config::{HeartbeatConfig, Path, Preset};
use super::super::super::event::{Event, PathState};
use super::super::super::keys::Key;
use super::super::super::snapshot::Snapshot;
use super::super::super::wire::Session;
use super::super::{Input, Output, Pulse};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const PATHS: usize = 2;
/// How far time moves at once, in milliseconds.
const GRAIN: u64 = 5;
/// Ticks until death with the normal preset.
pub(super) const DEAD_TICKS: u64 = 12;
/// Longer than it takes until two nodes know everything of each other, in milliseconds.
pub(super) const SETTLED: u64 = 2000;

/// A datagram and where it comes from.
#[derive(Clone)]
pub(super) struct Flight {
    pub(super) from: usize,
    run: u32,
    /// Number of the moment at which it was made.
    made: u64,
    pub(super) path: usize,
    pub(super) bytes: Vec<u8>,
    arrives: u64,
}

pub(super) struct Node {
    pub(super) pulse: Pulse,
    /// Number of the run; with each a session begins.
    run: u32,
    /// Number of the moment at which the run began.
    born: u64,
    key: u8,
    pub(super) paused: bool,
    /// By how much its clock is behind.
    hidden: Duration,
    inbox: VecDeque<Flight>,
    pub(super) events: Vec<Event>,
    /// What it said last in this run.
    pub(super) said: Option<Vec<u8>>,
    /// What it has heard last.
    pub(super) heard: Option<Vec<u8>>,
    believed: BTreeSet<(u64, usize)>,
    believed_run: u32,
    counted_from: u64,
    last_version: (u32, u64),
}

pub(super) struct World {
    pub(super) time: u64,
    moment: u64,
    pub(super) nodes: Vec<Node>,
    flights: Vec<Flight>,
    pub(super) recorded: Vec<Flight>,
    /// Nothing of a node gets through on a path.
    pub(super) cut: [[bool; PATHS]; 2],
    /// Of a hundred datagrams.
    pub(super) loss: u64,
    /// Milliseconds, chosen anew for each datagram.
    pub(super) latency: std::ops::Range<u64>,
    random: u64,
    /// The run of the node whose datagram is being delivered.
    delivering: u32,
    published: HashMap<(usize, u32, u64), Vec<u8>>,
}

fn id(node: usize) -> [u8; 16] {
    [0x10 + node as u8; 16]
}

pub(super) fn key(number: u8) -> Key {
    Key::new([number; 32])
}

pub(super) fn config(node: usize, key_number: u8) -> HeartbeatConfig {
    let address =
        |node: usize, path: usize| SocketAddr::from((Ipv4Addr::new(10, 0, path as u8, 1 + node as u8), 7000));
    let paths =
        (0..PATHS).map(|path| Path { local: address(node, path), peer: address(1 - node, path) }).collect();
    HeartbeatConfig::new([7; 16], (id(node), id(1 - node)), key(key_number), paths, Preset::Normal)
}

fn session(node: usize, run: u32) -> Session {
    Session((u128::from(run) << 64) | (1 + node as u128))
}

impl World {
    pub(super) fn new() -> World {
        let node = |node| Node {
            pulse: Pulse::new(&config(node, 0), session(node, 0), Duration::ZERO),
            run: 0,
            born: 0,
            key: 0,
            paused: false,
            hidden: Duration::ZERO,
            inbox: VecDeque::new(),
            events: Vec::new(),
            said: None,
            heard: None,
            believed: BTreeSet::new(),
            believed_run: 0,
            counted_from: 0,
            last_version: (0, 0),
        };
        World {
            time: 0,
            moment: 0,
            nodes: vec![node(A), node(B)],
            flights: Vec::new(),
            recorded: Vec::new(),
            cut: [[false; PATHS]; 2],
            loss: 0,
            latency: 1..2,
            random: 1,
            delivering: 0,
            published: HashMap::new(),
        }
    }

    /// Two nodes that know each other.
    pub(super) fn settled() -> World {
        let mut world = World::new();
        world.run(SETTLED);
        assert!(world.snapshot(A).alive && world.snapshot(B).alive);
        world.forget_events();
        world
    }

    pub(super) fn snapshot(&self, node: usize) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.nodes[node].pulse.snapshot(&mut snapshot);
        snapshot
    }

    pub(super) fn states(&self, node: usize) -> Vec<PathState> {
        self.snapshot(node).paths.iter().map(|path| path.state).collect()
    }

    pub(super) fn forget_events(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.events.clear());
    }

    /// The events of a node since they were forgotten, but beats.
    pub(super) fn events(&self, node: usize) -> Vec<Event> {
        let no_beat = |event: &&Event| !matches!(event, Event::Beat { .. });
        self.nodes[node].events.iter().filter(no_beat).cloned().collect()
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random = seed | 1;
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    /// Let time pass, in milliseconds.
    pub(super) fn run(&mut self, milliseconds: u64) {
        let end = self.time + milliseconds;
        while self.time < end {
            self.time += GRAIN;
            self.arrive();
            for node in [A, B] {
                if !self.nodes[node].paused {
                    self.wake(node);
                }
            }
        }
    }

    fn arrive(&mut self) {
        let time = self.time;
        let arrived: Vec<_> = self.flights.extract_if(.., |flight| flight.arrives <= time).collect();
        for flight in arrived {
            let to = 1 - flight.from;
            self.nodes[to].inbox.push_back(flight);
        }
    }

    /// What the thread does: first what has come, then the time.
    fn wake(&mut self, node: usize) {
        while let Some(flight) = self.nodes[node].inbox.pop_front() {
            self.deliver(node, &flight);
        }
        if self.clock(node) >= self.nodes[node].pulse.next_deadline() {
            self.handle(node, Input::Time);
        }
    }

    pub(super) fn clock(&self, node: usize) -> Duration {
        Duration::from_millis(self.time) - self.nodes[node].hidden
    }

    fn accepted(&self, node: usize) -> u64 {
        self.snapshot(node).paths.iter().map(|path| path.counters.accepted).sum()
    }

    /// A datagram reaches a node on the path it was sent on, and the observer looks whether it may be believed.
    pub(super) fn deliver(&mut self, node: usize, flight: &Flight) {
        self.deliver_on(node, flight.path, flight);
    }

    pub(super) fn deliver_on(&mut self, node: usize, path: usize, flight: &Flight) {
        let before = self.accepted(node);
        self.delivering = flight.run;
        self.handle(node, Input::Datagram { path, bytes: &flight.bytes });
        if self.accepted(node) == before {
            return;
        }
        let ticks = self.snapshot(node).ticks;
        let node = &mut self.nodes[node];
        assert_ne!(
            flight.from,
            usize::from(node.pulse.settings.node[0] - 0x10),
            "an own datagram was believed"
        );
        assert_eq!(flight.path, path, "a datagram was believed on another path");
        assert!(node.believed.insert((flight.made, path)), "a datagram was believed twice");
        assert!(flight.made >= node.born, "a datagram from before this session was believed");
        assert!(flight.run >= node.believed_run, "a former session was believed");
        node.believed_run = flight.run;
        node.counted_from = ticks;
    }

    pub(super) fn handle(&mut self, node: usize, input: Input<'_>) {
        self.moment += 1;
        let clock = self.clock(node);
        let ticks_before = self.snapshot(node).ticks;
        let mut out = Vec::new();
        self.nodes[node].pulse.handle(clock, input, &mut out);
        for output in out {
            match output {
                Output::Event(event) => self.observe(node, ticks_before, event),
                Output::Send { path, datagram } => self.send(node, path, datagram.bytes().to_vec()),
            }
        }
    }

    fn send(&mut self, from: usize, path: usize, bytes: Vec<u8>) {
        // Each datagram is a moment of its own.
        self.moment += 1;
        let latency = self.latency.start + self.draw(self.latency.end - self.latency.start);
        let arrives = self.time + latency;
        let flight = Flight { from, run: self.nodes[from].run, made: self.moment, path, bytes, arrives };
        self.recorded.push(flight.clone());
        if !self.cut[from][path] && self.draw(100) >= self.loss {
            self.flights.push(flight);
        }
    }

    fn observe(&mut self, index: usize, ticks_before: u64, event: Event) {
        let ticks = self.snapshot(index).ticks;
        let node = &mut self.nodes[index];
        match &event {
            // The tick that was late counts.
            Event::Late { .. } => node.counted_from = ticks_before,
            Event::PeerDead => assert_eq!(ticks - node.counted_from, DEAD_TICKS, "own ticks until death"),
            Event::Heard { payload, session, version } => {
                assert!((*session, *version) > node.last_version, "an older payload was told");
                node.last_version = (*session, *version);
                node.heard = Some(payload.to_vec());
                let known = self.published.get(&(1 - index, self.delivering, *version));
                let known = known.is_some_and(|said| said[..] == payload[..]);
                assert!(known, "a payload nobody published was told");
            }
            Event::NewSession { .. } => node.heard = None,
            _ => {}
        }
        self.nodes[index].events.push(event);
    }

    pub(super) fn publish(&mut self, node: usize, payload: Vec<u8>) {
        let run = self.nodes[node].run;
        self.nodes[node].said = Some(payload.clone());
        let before = self.snapshot(node).published;
        // Known to the observer before it can be heard.
        self.published.insert((node, run, before + 1), payload.clone());
        self.handle(node, Input::Publish(payload));
    }

    pub(super) fn rekey(&mut self, node: usize, number: u8) {
        self.nodes[node].key = number;
        self.handle(node, Input::Rekey(&key(number)));
    }

    /// The daemon ends and begins again, with the key it was told last.
    pub(super) fn restart(&mut self, node: usize) {
        self.restart_with(node, (self.nodes[node].key, self.nodes[node].key));
    }

    /// The same in the middle of a change from one key to another.
    pub(super) fn restart_with(&mut self, node: usize, (one, other): (u8, u8)) {
        self.moment += 1;
        let (run, clock) = (self.nodes[node].run + 1, self.clock(node));
        let restarted = &mut self.nodes[node];
        restarted.run = run;
        restarted.born = self.moment;
        restarted.pulse = Pulse::new(
            &HeartbeatConfig { next_key: Some(key(other)), ..config(node, one) },
            session(node, run),
            clock,
        );
        restarted.inbox.clear();
        restarted.said = None;
        restarted.heard = None;
        restarted.believed.clear();
        restarted.believed_run = 0;
        restarted.counted_from = 0;
        restarted.last_version = (0, 0);
    }

    /// The process, and what comes in the meantime waits for it.
    pub(super) fn pause(&mut self, node: usize) {
        self.nodes[node].paused = true;
    }

    pub(super) fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
    }

    /// A guest that does not notice by its own clock that it was paused, and to which nothing is delivered meanwhile.
    pub(super) fn freeze(&mut self, node: usize, milliseconds: u64) {
        self.nodes[node].paused = true;
        self.run(milliseconds);
        self.nodes[node].inbox.clear();
        self.nodes[node].hidden += Duration::from_millis(milliseconds);
        self.nodes[node].paused = false;
    }

    pub(super) fn key_of(&self, node: usize) -> u8 {
        self.nodes[node].key
    }
}
