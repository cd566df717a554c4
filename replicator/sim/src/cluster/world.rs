//! The world: its clock, what is to come, and what happens then.

use std::collections::BTreeMap;

use replicator_core::cluster::Verdict;
use replicator_core::ids::Term;
use replicator_core::lineage::Tag;

use super::arbiter::Register;
use super::checks::Checks;
use super::heartbeat::Packet;
use super::node::Node;
use super::saboteur::Sabotage;
use super::session::{Message, Session};
use super::shape::Shape;
use crate::random::Random;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;
/// After the faults the cluster has so long to come to rest.
const CALM: u64 = 150 * SECOND;

/// Something that is to come.
#[derive(Clone, Debug)]
pub enum Happening {
    Beat { node: usize, epoch: u64 },
    Packet { to: usize, packet: Box<Packet> },
    Timer { node: usize, epoch: u64, at: u64 },
    StepEnd { node: usize, epoch: u64, id: u64 },
    Outdated { node: usize, epoch: u64, term: Term, well: bool, written: bool },
    Ask { from: usize, epoch: u64, id: u64, term: Term },
    Answer { to: usize, epoch: u64, id: u64, term: Term, verdict: Verdict },
    View { node: usize, epoch: u64, told: Box<Told> },
    MirrorEnded { node: usize, epoch: u64, run: u64 },
    Persisted { node: usize, run: u64, well: bool, written: bool },
    Dial { node: usize, run: u64 },
    GoAlone { node: usize, run: u64, term: Term },
    Message { to: usize, session: u64, message: Message },
    Resynced { node: usize, session: u64 },
    Gone { node: usize, session: u64 },
    Boot { node: usize },
    StartDaemon { node: usize },
    Resume { node: usize },
    LinkUp { cut: u64 },
    PathUp { from: usize, path: usize },
    ArbiterUp { node: usize },
    Write,
    Fault,
    Operator,
    Look,
}

/// What the mirror says, and which run of it.
pub type Told = (u64, replicator_core::cluster::MirrorView, replicator_core::cluster::CopyState);

/// What came of a world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// How many.
    pub worlds: u64,
    /// Events that controllers took in.
    pub handled: u64,
    /// Things that broke.
    pub faults: u64,
    /// Writes that clients were told to be done.
    pub acknowledged: u64,
    /// Those of a node alone.
    pub acknowledged_alone: u64,
    /// The application moved.
    pub failovers: u64,
    /// Sessions of the mirror.
    pub sessions: u64,
    /// Terms that the arbiter gave.
    pub granted: u64,
    /// Copies that were outdated.
    pub yields: u64,
    /// Operators' commands.
    pub commands: u64,
    /// Those by force.
    pub forced: u64,
    /// Copies that were kept aside where histories parted.
    pub kept_aside: u64,
    /// Where an operator had to say something at the end.
    pub helped: u64,
    /// Where he had to force somebody, because no copy was whole any more.
    pub forced_at_last: u64,
    /// Time of all worlds, seconds.
    pub seconds: u64,
}

impl Stats {
    /// Those of one more world.
    pub fn add(&mut self, other: &Stats) {
        self.worlds += other.worlds;
        self.handled += other.handled;
        self.faults += other.faults;
        self.acknowledged += other.acknowledged;
        self.acknowledged_alone += other.acknowledged_alone;
        self.failovers += other.failovers;
        self.sessions += other.sessions;
        self.granted += other.granted;
        self.yields += other.yields;
        self.commands += other.commands;
        self.forced += other.forced;
        self.kept_aside += other.kept_aside;
        self.helped += other.helped;
        self.forced_at_last += other.forced_at_last;
        self.seconds += other.seconds;
    }
}

/// Two nodes, an arbiter, the networks between them, clients and operators.
pub struct World {
    pub(super) shape: Shape,
    pub(super) sabotage: Sabotage,
    pub(super) random: Random,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    next: u64,
    numbers: u64,
    pub(super) nodes: [Node; 2],
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) register: Option<Register>,
    /// Whether each node reaches the arbiter.
    pub(super) arbiter_up: [bool; 2],
    /// The mirror's link works; numbers its cuts.
    pub(super) link: bool,
    pub(super) cuts: u64,
    /// Which heartbeat paths work, by sender.
    pub(super) paths: [Vec<bool>; 2],
    pub(super) calm: bool,
    pub(super) calm_since: u64,
    pub(super) settled_since: Option<u64>,
    pub(super) writes: u64,
    pub(super) checks: Checks,
    pub(super) stats: Stats,
    pub(super) trace: bool,
    pub(super) failed: Option<String>,
}

impl World {
    /// The world of a seed.
    #[must_use]
    pub fn new(seed: u64, sabotage: Sabotage, trace: bool) -> World {
        let mut random = Random::new(seed ^ 0xC1_05_7E_12);
        let shape = Shape::draw(&mut random);
        let paths = vec![true; shape.paths];
        let mut world = World {
            checks: Checks::new(&shape),
            shape,
            sabotage,
            random,
            now: SECOND,
            queue: BTreeMap::new(),
            next: 0,
            numbers: 0,
            nodes: [Node::default(), Node::default()],
            sessions: BTreeMap::new(),
            register: None,
            arbiter_up: [true; 2],
            link: true,
            cuts: 0,
            paths: [paths.clone(), paths],
            calm: false,
            calm_since: 0,
            settled_since: None,
            writes: 0,
            stats: Stats { worlds: 1, ..Stats::default() },
            trace,
            failed: None,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.say(|world| format!("{:?}", world.shape));
        self.equip();
        for node in 0..2 {
            let at = self.below(3000 * MS);
            self.nodes[node].able = true;
            self.after(at, Happening::Boot { node });
        }
        self.after(SECOND, Happening::Write);
        self.after(5 * SECOND, Happening::Fault);
        self.after(3 * SECOND, Happening::Operator);
        self.after(SECOND, Happening::Look);
    }

    /// Run it to its end.
    ///
    /// # Errors
    /// The promise that does not hold, and why.
    pub fn run(mut self) -> Result<Stats, String> {
        let trouble = self.now + self.shape.trouble;
        loop {
            let Some(((at, _), happening)) = self.queue.pop_first() else {
                return Err("liveness: nothing is to come".into());
            };
            self.now = at;
            if !self.calm && self.now >= trouble {
                self.end_trouble();
            }
            self.happen(happening);
            if let Some(reason) = self.failed.take() {
                return Err(reason);
            }
            if self.calm && self.settled_since.is_some_and(|since| self.now - since > 12 * SECOND) {
                break;
            }
            if self.calm && self.now - self.calm_since > CALM {
                return Err(format!("liveness: {}", self.standing()));
            }
        }
        self.check_end();
        self.stats.seconds = self.now / SECOND;
        self.failed.take().map_or(Ok(self.stats), Err)
    }

    fn happen(&mut self, happening: Happening) {
        if let Happening::Message { session, .. } = happening
            && self.sessions.get(&session).is_none_or(|open| open.cut.is_some_and(|cut| cut < self.now))
        {
            return;
        }
        if let Some(node) = happening.node()
            && self.nodes[node].paused.is_some()
            && !matches!(happening, Happening::Resume { .. })
        {
            self.nodes[node].inbox.push_back(happening);
            return;
        }
        match happening {
            Happening::Beat { node, epoch } => self.beat(node, epoch),
            Happening::Packet { to, packet } => self.packet(to, &packet),
            Happening::Timer { node, epoch, at } => self.timer(node, epoch, at),
            Happening::StepEnd { node, epoch, id } => self.step_end(node, epoch, id),
            Happening::Outdated { node, epoch, term, well, written } => {
                self.outdated(node, epoch, term, well, written);
            }
            Happening::Ask { from, epoch, id, term } => self.asked(from, epoch, id, term),
            Happening::Answer { to, epoch, id, term, verdict } => self.answered(to, epoch, id, term, verdict),
            Happening::View { node, epoch, told } => self.view(node, epoch, *told),
            Happening::MirrorEnded { node, epoch, run } => self.mirror_ended(node, epoch, run),
            Happening::Persisted { node, run, well, written } => self.persisted(node, run, well, written),
            Happening::Dial { node, run } => self.dial(node, run),
            Happening::GoAlone { node, run, term } => self.go_alone(node, run, term),
            Happening::Message { to, session, message } => self.message(to, session, message),
            Happening::Resynced { node, session } => self.resynced(node, session),
            Happening::Gone { node, session } => self.session_gone(node, session),
            Happening::Boot { node } => self.boot(node),
            Happening::StartDaemon { node } => self.start_daemon(node),
            Happening::Resume { node } => self.resume(node),
            Happening::LinkUp { cut } => self.link_up(cut),
            Happening::PathUp { from, path } => self.paths[from][path] = true,
            Happening::ArbiterUp { node } => self.arbiter_up[node] = true,
            Happening::Write => self.write(),
            Happening::Fault => self.fault(),
            Happening::Operator => self.operator(),
            Happening::Look => self.look(),
        }
    }

    /// A number that is higher than all before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// So much later.
    pub(super) fn after(&mut self, span: u64, happening: Happening) {
        self.at(self.now + span, happening);
    }

    pub(super) fn at(&mut self, time: u64, happening: Happening) {
        self.next += 1;
        self.queue.insert((time.max(self.now), self.next), happening);
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound as usize) as u64
    }

    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least)
    }

    pub(super) fn tag(&mut self) -> Tag {
        Tag(self.random.next() | 1)
    }

    pub(super) fn say(&self, what: impl Fn(&World) -> String) {
        if self.trace {
            println!("{:>11.6} {}", self.now as f64 / SECOND as f64, what(self));
        }
    }

    /// A promise does not hold.
    pub(super) fn fail(&mut self, promise: &str, why: &str) {
        self.say(|_| format!("FAILED {promise}: {why}"));
        self.failed.get_or_insert_with(|| format!("{promise}: at {} ms: {why}", self.now / MS));
    }

    pub(super) fn check(&mut self, result: Result<(), (&'static str, String)>) {
        if let Err((promise, why)) = result {
            self.fail(promise, &why);
        }
    }
}

impl Happening {
    /// The node that does not see it while it is paused.
    fn node(&self) -> Option<usize> {
        Some(match self {
            Happening::Beat { node, .. }
            | Happening::Timer { node, .. }
            | Happening::StepEnd { node, .. }
            | Happening::Outdated { node, .. }
            | Happening::View { node, .. }
            | Happening::MirrorEnded { node, .. }
            | Happening::Persisted { node, .. }
            | Happening::Dial { node, .. }
            | Happening::GoAlone { node, .. }
            | Happening::Resynced { node, .. }
            | Happening::Gone { node, .. }
            | Happening::StartDaemon { node }
            | Happening::Resume { node } => *node,
            Happening::Packet { to, .. } | Happening::Answer { to, .. } | Happening::Message { to, .. } => {
                *to
            }
            _ => return None,
        })
    }
}
