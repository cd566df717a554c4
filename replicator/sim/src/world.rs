//! The world around two nodes: edges, link, time, faults. What the application does is in [`application`], what must hold in
//! [`checks`].

mod application;
mod checks;
mod churn;
mod faults;
mod hardship;
mod link;
mod own_files;
mod patience;
mod primary_edge;
mod register;
mod roles;
mod safe_set;
mod secondary_edge;
mod shape;
mod stops;
mod succession;
mod verification;

use std::collections::{BTreeMap, VecDeque};

use replicator_core::action::{
    Action, Body, CloseReason, DataState, DurableScope, Notice, Phase, StateRecord,
};
use replicator_core::begin::Start;
use replicator_core::config::{ExtentLimits, Mode, PrimaryConfig, SecondaryConfig, VolumeRoot, WhenAlone};
use replicator_core::event::{
    AppliedOutcome, Event, ReadOutcome, ReceivedBody, Segment, SegmentContent, SyncScope,
};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, LocalSyncId, PersistId, ReadId, Sequence, SessionId, Term, Ticket,
    Time, VolumeId,
};
use replicator_core::lineage::{GenerationId, Match, Tag};
use replicator_core::node::Node;
use replicator_core::verify::{Difference, Looked, VerifyPart, VerifyState};
use replicator_core::wire::header::{FLAG_SUCCEEDS, Header, Kind, VERSION, VERSION_MIN};
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};

use crate::disk::{PowerCut, Reached};
use crate::files::{File, Files, PAGE, id, inode_of, root_of, volume_of};
use crate::random::Random;
use crate::replica::{Payload, Replica};
use crate::saboteur::Sabotage;
use own_files::OwnFiles;
use patience::Patience;
use roles::Controller;
use safe_set::SafeSet;
use shape::Shape;
use verification::Verification;

const EIO: Errno = Errno(5);
const STEPS: u64 = 3000;
/// Bound on the time to heal after the last fault, in steps.
const STEPS_TO_HEAL: u64 = 200_000;

/// Who decides which node is the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// Each node keeps its role, and decides by itself.
    Fixed,
    /// A controller has them take turns.
    Roles,
}

/// What happened in a world: a run in which nothing of some kind happened shows nothing about it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Callers let go with the copy looked at.
    pub acknowledged_by_both: u64,
    /// Callers let go while the primary had recorded that it is alone.
    pub acknowledged_alone: u64,
    /// Callers let go with an error.
    pub refused: u64,
    /// Looks at a mirror for forgotten changes.
    pub mirrored: u64,
    /// Connections made.
    pub sessions: u64,
    /// Sessions that went on where one had ended.
    pub resumed: u64,
    /// Daemons killed and machines that lost their power.
    pub crashes: u64,
    /// Power cuts of the primary's machine.
    pub power_cuts: u64,
    /// Orderly stops after which the next run went on.
    pub checkpoints: u64,
    /// Safe sets that were begun.
    pub safe_sets: u64,
    /// Files that left one.
    pub settled: u64,
    /// Starts that went on from one after a crash.
    pub recovered: u64,
    /// Sessions that the primary refused to begin.
    pub refusals: u64,
    /// Those that an operator ordered all the same.
    pub overruled: u64,
    /// Frames that could not be applied, though nothing was wrong with the disk.
    pub not_applicable: u64,
    /// Verifications that came to their end while everything went on.
    pub verified: u64,
    /// Parts that they passed over.
    pub unsettled: u64,
    /// What somebody else changed in the copy, all found and healed.
    pub corrupted: u64,
    /// Comparisons of everything that came to their end while names changed all the time.
    pub churned: u64,
    /// Secondaries that became the primary: because the primary was gone, in order, and against what their record said.
    pub failovers: u64,
    /// The last of these.
    pub forced: u64,
    /// Those that were kept from it.
    pub unpromoted: u64,
    /// Primaries that were told that they may go on alone, and did.
    pub permitted: u64,
    /// Those to which it was told in vain: the peer was back, or had been.
    pub late_permissions: u64,
    /// Secondaries that were told that the primary may go on without them.
    pub outdated: u64,
    /// Primaries that found that there is a later one.
    pub deposed: u64,
    /// Sessions that went on from one in which the secondary was the primary.
    pub succeeded: u64,
    /// Those in which the secondary vouched for what the primary did not know.
    pub disowned: u64,
    /// Secondaries that went on from what was on record when they crashed.
    pub registers: u64,
    /// Sessions that went on from that.
    pub durable_resumed: u64,
}

impl Stats {
    /// Together with another world's.
    pub fn add(&mut self, other: &Stats) {
        self.acknowledged_by_both += other.acknowledged_by_both;
        self.acknowledged_alone += other.acknowledged_alone;
        self.refused += other.refused;
        self.mirrored += other.mirrored;
        self.churned += other.churned;
        self.sessions += other.sessions;
        self.resumed += other.resumed;
        self.crashes += other.crashes;
        self.power_cuts += other.power_cuts;
        self.checkpoints += other.checkpoints;
        self.safe_sets += other.safe_sets;
        self.settled += other.settled;
        self.recovered += other.recovered;
        self.refusals += other.refusals;
        self.overruled += other.overruled;
        self.not_applicable += other.not_applicable;
        self.verified += other.verified;
        self.unsettled += other.unsettled;
        self.corrupted += other.corrupted;
        self.failovers += other.failovers;
        self.forced += other.forced;
        self.unpromoted += other.unpromoted;
        self.permitted += other.permitted;
        self.late_permissions += other.late_permissions;
        self.outdated += other.outdated;
        self.deposed += other.deposed;
        self.succeeded += other.succeeded;
        self.disowned += other.disowned;
        self.registers += other.registers;
        self.durable_resumed += other.durable_resumed;
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
    Apply {
        session: SessionId,
        sequence: Sequence,
        in_order: bool,
        order: u64,
    },
    MakeDurable {
        session: SessionId,
        barrier: Sequence,
        scope: DurableScope,
    },
    Persist {
        persist: PersistId,
        record: StateRecord,
    },
    /// Of what was to be done in order, its place.
    Done(Event, Option<u64>),
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

/// Two nodes and all that surrounds them.
pub struct World {
    random: Random,
    sabotage: Sabotage,
    now: Time,
    mode: Mode,
    config: PrimaryConfig,
    files: Files,
    primary: Node,
    primary_disk: OwnFiles,
    /// States that the primary's disk had.
    older: Vec<StateRecord>,
    /// The primary goes on from an older copy of its state, and does not know what the secondary has.
    stale: bool,
    /// It goes on from an older copy, and has begun no session since.
    restored: bool,
    runs: u64,
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
    /// Newest version of each file that anybody was told is durable, by both or by the primary alone.
    told: BTreeMap<u64, u64>,
    /// Newest version of each file that was acknowledged at all.
    synced: BTreeMap<u64, u64>,
    secondary: Node,
    secondary_disk: OwnFiles,
    replica: Replica,
    secondary_config: SecondaryConfig,
    serving: Vec<Serving>,
    /// How many frames were ordered to be applied.
    orders: u64,
    /// The session and place of the last one that was to be applied in order and was not: nothing of it that was ordered after is.
    failed: Option<(SessionId, u64)>,
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
    safe_set: SafeSet,
    /// In this session a directory is read again after both mirrored: operations in it wait for the list.
    listed_again: bool,
    /// The primary's machine loses its power in so many steps.
    cut_in: Option<usize>,
    /// The primary's daemon is killed in so many steps.
    killed_in: Option<usize>,
    primary_patience: Patience,
    secondary_patience: Patience,
    /// The connection before the present one: what was on its way in it arrives late.
    former_link: Option<Link>,
    /// What the secondary keeps aside is of this generation.
    keeping: GenerationId,
    /// In the present connection the secondary lost what it had received: it could not apply it (and recorded its copy as
    /// inconsistent), or its machine crashed.
    secondary_failed: bool,
    failure: Option<String>,
    stats: Stats,
    verification: Verification,
    /// Who decides which node is the primary; none: both keep their roles.
    controller: Option<Controller>,
    /// After all faults everything is compared while names change.
    churns: bool,
    /// The secondary keeps a register; draws of its own.
    register: Option<Random>,
}

/// What tells one run of the primary's daemon from all others.
fn incarnation(seed: u64) -> [u8; 16] {
    u128::from(seed).to_le_bytes()
}

/// In some worlds all bytes are written in order with the rest, in some all beside it.
fn secondary_config(seed: u64) -> SecondaryConfig {
    let in_order_bytes = [0, 2, u64::MAX][Random::new(seed ^ 0x0de7).below(3)];
    SecondaryConfig { in_order_bytes, ..SecondaryConfig::default() }
}

/// Random bits of one run of the primary's daemon.
fn tags(seed: u64, run: u64) -> u64 {
    Random::new(seed ^ run << 40).next()
}

impl World {
    /// The world of that seed. `tracing`: everything that goes into the machines and comes out of them is printed.
    #[must_use]
    pub fn new(seed: u64, setting: Setting, sabotage: Sabotage, tracing: bool) -> World {
        let mut controller = (setting == Setting::Roles).then(|| Controller::draw(seed));
        let mut random = Random::new(seed);
        let shape = Shape::draw(&mut random).for_saboteur(sabotage);
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
        config.pace.cap = if random.chance(30) { Some((64 << 10) << random.below(6)) } else { None };
        config.limits = ExtentLimits { per_file: 3 + random.below(6), total: 40 };
        config.listed_files_max = 1 + random.below(12);
        config.seed = seed;
        config.incarnation = Some(incarnation(seed));
        let alone = random.chance(60);
        config.tags = tags(seed, 0);
        let mut start = Start::by_itself(Tag(seed + 1));
        if let Some(controller) = &mut controller {
            controller.configure(&mut config, &mut start, sabotage);
        }
        let mut primary_record =
            StateRecord::begin_primary(None, start).expect("the first start of a primary");
        primary_record.alone = alone;
        let secondary_record = StateRecord::begin_secondary(None);
        // Nodes that take turns have to come to rest in between.
        let business = if setting == Setting::Roles { [60, 25, 8] } else { [100, 40, 15] };
        let business = business[random.below(3)];
        // A safe set needs some peace before there is anything to be lost.
        let misfortune = if shape.safe_set { [20, 5, 3] } else { [100, 20, 5] };
        let misfortune = misfortune[random.below(3)];
        let bypassed = random.chance(60) || sabotage == Sabotage::EarlyAnswer;
        let now = Time(1_000_000_000);
        let mut world = World {
            mode: config.mode,
            files: Files::new(shape.volumes),
            primary: Node::primary(config.clone(), primary_record, now),
            primary_disk: OwnFiles::new(primary_record),
            older: Vec::new(),
            stale: false,
            restored: false,
            runs: 0,
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
            told: BTreeMap::new(),
            synced: BTreeMap::new(),
            secondary: Node::secondary(secondary_config(seed), secondary_record, now),
            secondary_disk: OwnFiles::new(secondary_record),
            replica: Replica::new(shape.volumes),
            secondary_config: secondary_config(seed),
            serving: Vec::new(),
            orders: 0,
            failed: None,
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
            tracing,
            secondary_off: false,
            safe_set: SafeSet::default(),
            listed_again: false,
            cut_in: None,
            killed_in: None,
            primary_patience: Patience::default(),
            secondary_patience: Patience::default(),
            former_link: None,
            keeping: GenerationId::NONE,
            secondary_failed: false,
            failure: None,
            stats: Stats::default(),
            verification: Verification::draw(seed),
            register: World::draw_register(seed),
            churns: controller.is_none() && sabotage == Sabotage::None && World::draw_churn(seed),
            controller,
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
        world.files.settle();
        world.running = true;
        world.replica.resemble(&world.files, &mut world.random);
        world
    }

    /// Everything that goes into the machines and comes out of them.
    fn trace(&self, node: &str, what: &dyn std::fmt::Debug) {
        if self.tracing {
            println!("{:>12} {node:>9} {what:?}", self.now.0);
        }
    }

    fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }

    /// Run it to its end.
    ///
    /// # Errors
    /// A promise does not hold: its name and what was found.
    pub fn run(mut self) -> Result<Stats, String> {
        // A change of roles takes a while, and most is to be seen some time after it.
        let steps = if self.controller.is_some() { 2 * STEPS } else { STEPS };
        for _ in 0..steps {
            self.step();
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
        }
        self.faults = false;
        self.secondary_off = false;
        (self.cut_in, self.killed_in) = (None, None);
        (self.primary_patience, self.secondary_patience) = Default::default();
        if self.churns {
            self.compare_while_names_change()?;
        }
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

    fn step(&mut self) {
        self.now.0 += self.random.below(2_000_000) as u64;
        if self.faults && self.wandering > 0 && self.random.chance(15) {
            self.wandering -= 1;
            self.wander();
        }
        if self.faults && self.stored_again.is_some() && self.random.chance(4) {
            self.store_again();
        }
        if self.shape.safe_set && !self.primary_patience.is_paused() {
            if self.random.chance(10) {
                self.settle_members();
            }
            if self.random.chance(10) {
                self.commit_some();
            }
        }
        match self.cut_in {
            Some(0) => self.cut_primary(),
            Some(steps) => self.cut_in = Some(steps - 1),
            None => {}
        }
        match self.killed_in {
            Some(0) => self.kill_primary(),
            Some(steps) => self.killed_in = Some(steps - 1),
            None => {}
        }
        match self.random.below(100) {
            0..=13 if self.faults => {
                // A busy application keeps a resync from its end for long; a calm one shows what comes after.
                if !self.primary_patience.is_paused() && self.random.chance(self.business) {
                    self.application();
                }
            }
            14..=43 | 76..=90 if self.primary_patience.pauses() => {}
            44..=75 | 91..=95 if self.secondary_patience.pauses() => {}
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
        if self.shape.power_cuts {
            self.files.note_names();
        }
        self.control();
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
