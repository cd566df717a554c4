//! The world around two nodes: edges, link, time, faults. What the application does is in [`application`], what must hold in
//! [`checks`].

mod application;
mod checks;
mod faults;
mod hardship;
mod link;
mod primary_edge;
mod secondary_edge;
mod shape;
mod stops;
mod verification;

use std::collections::{BTreeMap, VecDeque};

use replicator_core::action::{Action, Body, CloseReason, DataState, DurableScope, Phase, StateRecord};
use replicator_core::config::{ExtentLimits, Mode, PrimaryConfig, SecondaryConfig, VolumeRoot, WhenAlone};
use replicator_core::event::{
    AppliedOutcome, Event, ReadOutcome, ReceivedBody, Segment, SegmentContent, SyncScope,
};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, Generation, LocalSyncId, PersistId, ReadId, Sequence, SessionId, Term,
    Ticket, Time, VolumeId,
};
use replicator_core::node::Node;
use replicator_core::wire::header::{Header, Kind, VERSION, VERSION_MIN};
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};

use crate::files::{File, Files, PAGE, id, inode_of, root_of, volume_of};
use crate::replica::{Payload, Replica};
use replicator_core::verify::{Difference, Looked, VerifyPart, VerifyState};
use shape::Shape;
use verification::Verification;

const EIO: Errno = Errno(5);
const STEPS: u64 = 3000;
/// Bound on the time to heal after the last fault, in steps.
const STEPS_TO_HEAL: u64 = 200_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    None,
    LyingDisk,
    EarlyBarrierDone,
    LostWrites,
    EarlyRelease,
    /// What was received and not applied when a session ended is not applied after it.
    DropsWhatIsLeft,
    /// The secondary's machine crashes, and its daemon does not notice that.
    UnnoticedCrash,
    /// Namespace operations are lost while there is no session.
    LostNames,
    /// What was changed while the primary was stopped is not looked for.
    UnseenChanges,
}

/// splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len())])
    }
}

#[derive(Default, Debug)]
pub struct Stats {
    pub acknowledged_by_both: u64,
    pub acknowledged_alone: u64,
    pub refused: u64,
    pub mirrored: u64,
    pub sessions: u64,
    pub resumed: u64,
    pub crashes: u64,
    /// Orderly stops after which the next run went on.
    pub checkpoints: u64,
    /// Frames that could not be applied, though nothing was wrong with the disk.
    pub not_applicable: u64,
    /// Verifications that came to their end while everything went on, and parts that they passed over.
    pub verified: u64,
    pub unsettled: u64,
    /// What somebody else changed in the copy, all found and healed.
    pub corrupted: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.acknowledged_by_both += other.acknowledged_by_both;
        self.acknowledged_alone += other.acknowledged_alone;
        self.refused += other.refused;
        self.mirrored += other.mirrored;
        self.sessions += other.sessions;
        self.resumed += other.resumed;
        self.crashes += other.crashes;
        self.checkpoints += other.checkpoints;
        self.not_applicable += other.not_applicable;
        self.verified += other.verified;
        self.unsettled += other.unsettled;
        self.corrupted += other.corrupted;
    }
}

/// What the primary's edge is doing: ordered, then done at some moment, then told.
#[derive(Debug)]
enum Doing {
    Sync { sync: LocalSyncId, scope: SyncScope },
    Extent { read: ReadId, file: FileId, extent: Extent },
    Attributes { read: ReadId, file: FileId },
    Digests { read: ReadId, file: FileId, extent: Extent },
    Directory { read: ReadId, directory: FileId },
    Verify { read: ReadId, file: FileId, part: VerifyPart, fine: bool },
    AwaitCapture { read: ReadId },
    Persist { persist: PersistId, record: StateRecord },
    Done(Event),
}

#[derive(Debug)]
enum Serving {
    Apply { session: SessionId, sequence: Sequence },
    MakeDurable { session: SessionId, barrier: Sequence, scope: DurableScope },
    Persist { persist: PersistId, record: StateRecord },
    Done(Event),
}

#[derive(Debug)]
struct Link {
    primary: SessionId,
    secondary: SessionId,
    to_secondary: VecDeque<(Header, Payload)>,
    to_primary: VecDeque<(Header, Payload)>,
    primary_up: bool,
    secondary_up: bool,
    /// Broken: what each end has still to see.
    broken: bool,
}

/// A caller and what it was promised.
#[derive(Clone, Debug)]
struct Request {
    scope: SyncScope,
    version: u64,
    names: u64,
    path: Option<Vec<String>>,
    uids: Vec<(u64, u64)>,
    /// Of a directory: names, inodes, uids and versions of files in it that were synced before.
    children: Vec<(String, u64, u64, u64)>,
}

pub struct World {
    random: Random,
    sabotage: Sabotage,
    now: Time,
    mode: Mode,
    config: PrimaryConfig,
    files: Files,
    primary: Node,
    primary_disk: StateRecord,
    doing: Vec<Doing>,
    held_reads: BTreeMap<ReadId, Payload>,
    held_entries: BTreeMap<EntryId, Operation>,
    next_entry: u64,
    handles: BTreeMap<u64, u64>,
    traced: VecDeque<Event>,
    named: VecDeque<Event>,
    tickets: BTreeMap<Ticket, Request>,
    next_ticket: u64,
    /// Newest version of each file (by uid) that was acknowledged while not alone.
    acknowledged: BTreeMap<u64, u64>,
    /// Newest version of each file that was acknowledged at all.
    synced: BTreeMap<u64, u64>,
    secondary: Node,
    secondary_disk: StateRecord,
    replica: Replica,
    serving: Vec<Serving>,
    payloads: BTreeMap<(SessionId, Sequence), (Header, Payload)>,
    next_session: u64,
    link: Option<Link>,
    faults: bool,
    running: bool,
    /// In percent.
    business: usize,
    misfortune: usize,
    /// Names change behind the gate's back, too.
    bypassed: bool,
    shape: Shape,
    /// Steps that the wanderer has yet to take.
    wandering: usize,
    /// A file that has its number from another one, and how often it is yet to be stored to or synced.
    stored_again: Option<(u64, usize)>,
    tracing: bool,
    secondary_off: bool,
    /// In the present connection the secondary lost what it had received: it could not apply it (and recorded its copy as
    /// inconsistent), or its machine crashed.
    secondary_failed: bool,
    failure: Option<String>,
    stats: Stats,
    verification: Verification,
}

/// What tells one run of the primary's daemon from all others.
fn incarnation(seed: u64) -> [u8; 16] {
    u128::from(seed).to_le_bytes()
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> World {
        let mut random = Random(seed);
        let shape = Shape::draw(&mut random);
        let volumes = (0..shape.volumes).map(VolumeId);
        let roots = volumes.map(|volume| VolumeRoot { volume, root: id(root_of(volume)) }).collect();
        let mut config = PrimaryConfig::new(roots);
        config.mode = match random.below(8) {
            0 => Mode::SemiSync,
            1 => Mode::Async,
            _ => Mode::Sync,
        };
        config.when_alone = if random.chance(70) { WhenAlone::Release } else { WhenAlone::Hold };
        config.read_bytes_max = 6;
        config.digest_bytes_max = 12;
        config.verify_block_bytes = 2;
        config.window_bytes = if random.chance(50) { 300 } else { 16 << 20 };
        config.barriers_max = 1 + random.below(4);
        config.limits = ExtentLimits { per_file: 3 + random.below(6), total: 40 };
        config.listed_files_max = 1 + random.below(12);
        config.seed = seed;
        config.incarnation = Some(incarnation(seed));
        let alone = random.chance(60);
        let primary_disk =
            StateRecord { term: Term(1), generation: Generation(1), data: DataState::UpToDate, alone };
        let secondary_disk = StateRecord {
            term: Term(0),
            generation: Generation(0),
            data: DataState::Inconsistent,
            alone: false,
        };
        let business = [100, 40, 15][random.below(3)];
        let misfortune = [100, 20, 5][random.below(3)];
        let bypassed = random.chance(60);
        let now = Time(1_000_000_000);
        let mut world = World {
            mode: config.mode,
            files: Files::new(shape.volumes),
            primary: Node::primary(config.clone(), primary_disk, now),
            primary_disk,
            doing: Vec::new(),
            held_reads: BTreeMap::new(),
            held_entries: BTreeMap::new(),
            next_entry: 0,
            handles: BTreeMap::new(),
            traced: VecDeque::new(),
            named: VecDeque::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            acknowledged: BTreeMap::new(),
            synced: BTreeMap::new(),
            secondary: Node::secondary(SecondaryConfig::default(), secondary_disk, now),
            secondary_disk,
            replica: Replica::new(shape.volumes),
            serving: Vec::new(),
            payloads: BTreeMap::new(),
            next_session: 0,
            link: None,
            faults: true,
            running: false,
            business,
            misfortune,
            bypassed,
            shape,
            wandering: 0,
            stored_again: None,
            tracing: std::env::var_os("REPLICATOR_TRACE").is_some(),
            secondary_off: false,
            secondary_failed: false,
            failure: None,
            stats: Stats::default(),
            verification: Verification::draw(seed),
            random,
            sabotage,
            now,
            config,
        };
        // A tree that is there before anything runs; the copy has some of it, or something else under the same names.
        for _ in 0..world.random.below(world.shape.before) {
            world.application();
        }
        world.traced.clear();
        world.named.clear();
        world.held_entries.clear();
        world.running = true;
        world.replica.resemble(&world.files, &mut world.random);
        world
    }

    /// With `REPLICATOR_TRACE` set: everything that goes into the machines and comes out of them.
    fn trace(&self, node: &str, what: &dyn std::fmt::Debug) {
        if self.tracing {
            println!("{:>12} {node:>9} {what:?}", self.now.0);
        }
    }

    fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }

    pub fn run(mut self) -> Result<Stats, String> {
        for _ in 0..STEPS {
            self.step();
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
        }
        self.faults = false;
        self.secondary_off = false;
        for _ in 0..STEPS_TO_HEAL {
            self.step();
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
            if self.is_quiet() {
                // What was told last waits in the log for the next event.
                self.tell_primary(Event::Tick);
            }
            if self.is_quiet() {
                self.check_same_tree()?;
                self.verify_at_the_end()?;
                return Ok(self.stats);
            }
        }
        Err(format!(
            "it does not heal: {:?} {:?}\n{:?}\n{:?} {:?}\n{:?} {:?} {:?} {:?}\n{:?}",
            self.unquiet(),
            self.primary.snapshot(),
            self.secondary.snapshot(),
            self.doing,
            self.serving,
            self.tickets,
            self.traced,
            self.named,
            self.link,
            self.primary,
        ))
    }

    fn is_quiet(&self) -> bool {
        let snapshot = self.primary.snapshot();
        snapshot.phase == Phase::Mirrored
            && self.has_done_what_was_asked()
            && snapshot.resync.directories_left == 0
            // Of files without a name, too, and of those that are gone: nothing else would clear them.
            && snapshot.dirty_files == 0
            && self.tickets.is_empty()
            && self.traced.is_empty()
            && self.named.is_empty()
            && self.doing.is_empty()
            && self.serving.is_empty()
            && self
                .link
                .as_ref()
                .is_some_and(|link| link.to_secondary.is_empty() && link.to_primary.is_empty())
    }

    /// Files whose names never reach the quiet state, for the failure message.
    fn unquiet(&self) -> Vec<(u64, u32, Option<Vec<String>>)> {
        let marked = self.files.files.iter().filter(|(inode, _)| self.primary.is_marked(id(**inode)));
        marked.map(|(inode, file)| (*inode, file.links, self.files.path(*inode))).collect()
    }

    fn check_same_tree(&self) -> Result<(), String> {
        self.replica.same_tree(&self.files, false).map_err(|reason| format!("same-tree: {reason}"))?;
        self.replica.same_tree(&self.files, true).map_err(|reason| format!("same-tree, durable: {reason}"))
    }

    fn step(&mut self) {
        self.now.0 += self.random.below(2_000_000) as u64;
        if self.faults && self.wandering > 0 && self.random.chance(15) {
            self.wandering -= 1;
            self.wander();
        }
        if self.faults && self.stored_again.is_some() && self.random.chance(4) {
            self.store_again();
        }
        match self.random.below(100) {
            0..=13 if self.faults => {
                // A busy application keeps a resync from its end for long; a calm one shows what comes after.
                if self.random.chance(self.business) {
                    self.application();
                }
            }
            14..=23 => self.capture(),
            24..=43 => self.do_something(),
            44..=63 => self.serve_something(),
            64..=75 => self.deliver_to_secondary(),
            76..=85 => self.deliver_to_primary(),
            86..=90 => self.tick_primary(),
            91..=95 => self.tick_secondary(),
            96 if self.faults && self.random.chance(self.misfortune) => self.fault(),
            97 => self.now.0 += self.random.below(300_000_000) as u64,
            _ => self.frames_sent(),
        }
        self.check_always();
        self.verify_sometimes();
    }

    fn capture(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            let traced = self.random.chance(50);
            let queue = if traced { &mut self.traced } else { &mut self.named };
            if let Some(event) = queue.pop_front() {
                self.tell_primary(event);
            }
        }
        if self.random.chance(50) {
            self.tell_primary(Event::Tick);
        }
    }

    fn drain_capture(&mut self) {
        while !self.traced.is_empty() || !self.named.is_empty() {
            let traced = self.random.chance(50);
            let queue = if traced { &mut self.traced } else { &mut self.named };
            if let Some(event) = queue.pop_front() {
                self.tell_primary(event);
            }
        }
    }
}
