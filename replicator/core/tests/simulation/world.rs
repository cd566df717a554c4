//! The world around two nodes: application, edges, link, time, faults, checkers.

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
use replicator_core::wire::header::{Header, Kind};
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};

use crate::files::{File, Files, PAGE};
use crate::replica::{Payload, Replica, root_id};

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

    fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
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
    pub crashes: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.acknowledged_by_both += other.acknowledged_by_both;
        self.acknowledged_alone += other.acknowledged_alone;
        self.refused += other.refused;
        self.mirrored += other.mirrored;
        self.sessions += other.sessions;
        self.crashes += other.crashes;
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
    tracing: bool,
    secondary_off: bool,
    secondary_failed: bool,
    failure: Option<String>,
    stats: Stats,
}

fn id(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> World {
        let mut random = Random(seed);
        let mut config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root: root_id() }]);
        config.mode = match random.below(8) {
            0 => Mode::SemiSync,
            1 => Mode::Async,
            _ => Mode::Sync,
        };
        config.when_alone = if random.chance(70) { WhenAlone::Release } else { WhenAlone::Hold };
        config.read_bytes_max = 6;
        config.digest_bytes_max = 12;
        config.window_bytes = if random.chance(50) { 300 } else { 16 << 20 };
        config.barriers_max = 1 + random.below(4);
        config.limits = ExtentLimits { per_file: 3 + random.below(6), total: 40 };
        config.seed = seed;
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
        let now = Time(1_000_000_000);
        let mut world = World {
            mode: config.mode,
            files: Files::new(),
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
            replica: Replica::new(),
            serving: Vec::new(),
            payloads: BTreeMap::new(),
            next_session: 0,
            link: None,
            faults: true,
            running: false,
            business,
            misfortune,
            tracing: std::env::var_os("REPLICATOR_TRACE").is_some(),
            secondary_off: false,
            secondary_failed: false,
            failure: None,
            stats: Stats::default(),
            random,
            sabotage,
            now,
            config,
        };
        // A tree that is there before anything runs; the copy has some of it, or something else under the same names.
        for _ in 0..world.random.below(12) {
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
                self.check_same_tree()?;
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
            && snapshot.resync.directories_left == 0
            && self
                .files
                .files
                .iter()
                .all(|(inode, file)| file.links == 0 || !self.primary.is_marked(id(*inode)))
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
    }

    // ---- application -------------------------------------------------------------------------------------

    fn application(&mut self) {
        let regular = self.files.of_kind(FileKind::Regular);
        match self.random.below(20) {
            0..=4 => self.write_something(&regular),
            5 => self.store_something(&regular),
            6 => self.truncate_something(&regular),
            7 => {
                if let Some(inode) = self.random.one(&self.files.files.keys().copied().collect::<Vec<_>>()) {
                    self.files.chmod(inode);
                    self.traced.push_back(Event::AttributesChanged { file: id(inode) });
                }
            }
            8..=10 => self.create_something(),
            11 => self.link_something(&regular),
            12 => self.unlink_something(),
            13 => self.rename_something(),
            14 => self.change_behind_the_gate(),
            15 => {
                let open: Vec<u64> =
                    self.files.files.iter().filter(|(_, file)| file.open).map(|(inode, _)| *inode).collect();
                if let Some(inode) = self.random.one(&open) {
                    self.files.files.get_mut(&inode).unwrap().open = false;
                    self.reap(inode);
                }
            }
            16 if self.random.chance(20) => {
                if let Some(inode) = self.random.one(&regular) {
                    self.traced.push_back(Event::CaptureLost { file: id(inode) });
                }
            }
            _ if self.running => self.request_sync(),
            _ => {}
        }
    }

    fn write_something(&mut self, regular: &[u64]) {
        let Some(inode) = self.random.one(regular) else { return };
        let (at, length) = (self.random.below(24), 1 + self.random.below(6));
        self.files.write(inode, at, length);
        let extent = Extent::at(at as u64, length as u64);
        if self.sabotage == Sabotage::LostWrites && self.random.chance(20) {
            return;
        }
        self.traced.push_back(Event::WriteTraced { file: id(inode), extent });
    }

    fn store_something(&mut self, regular: &[u64]) {
        let Some(inode) = self.random.one(regular) else { return };
        let length = self.files.files[&inode].cells.len();
        if length == 0 {
            return;
        }
        let at = self.random.below(length);
        self.files.write(inode, at, 1);
        let page = at / PAGE;
        if self.files.files.get_mut(&inode).unwrap().stored_pages.insert(page) {
            let extent = Extent::at((page * PAGE) as u64, PAGE as u64);
            self.traced.push_back(Event::StoreMapped { file: id(inode), extent });
        }
    }

    fn truncate_something(&mut self, regular: &[u64]) {
        let Some(inode) = self.random.one(regular) else { return };
        if self.random.chance(30) {
            let (at, length) = (self.random.below(20), 1 + self.random.below(8));
            self.files.zero(inode, at, length);
            let extent = Extent::at(at as u64, length as u64);
            self.traced.push_back(Event::WriteTraced { file: id(inode), extent });
            return;
        }
        let length = self.random.below(28);
        let from = self.files.resize(inode, length);
        let extent = Extent { start: from as u64, end: Extent::END };
        self.traced.push_back(Event::WriteTraced { file: id(inode), extent });
    }

    fn new_node(&self, inode: u64) -> NewNode {
        let file = &self.files.files[&inode];
        NewNode { file: id(inode), kind: file.kind, mode: 0o600, uid: 0, gid: 0, rdev: 0, target: Vec::new() }
    }

    /// What the edge knows of a file's handle.
    fn learn(&mut self, inode: u64) -> Option<u64> {
        self.handles.insert(inode, self.files.files[&inode].uid)
    }

    fn log(&mut self, operation: Operation) {
        if let Operation::Create { node, .. } | Operation::Link { node, .. } = &operation {
            self.learn(node.file.inode);
        }
        let entry = EntryId(self.next_entry);
        self.next_entry += 1;
        self.trace("gate", &operation);
        self.named.push_back(Event::NamespaceLogged { entry, change: operation.change() });
        self.held_entries.insert(entry, operation);
    }

    fn free_name(&mut self, parent: u64) -> Option<String> {
        let name = format!("n{}", self.random.below(6));
        (!self.files.files[&parent].entries.contains_key(&name)).then_some(name)
    }

    fn some_directory(&mut self) -> u64 {
        let directories = self.files.directories();
        self.random.one(&directories).unwrap()
    }

    fn add_name(&mut self, parent: u64, name: &str, inode: u64) {
        self.files.files.get_mut(&parent).unwrap().entries.insert(name.to_owned(), inode);
        let file = self.files.files.get_mut(&inode).unwrap();
        file.links += 1;
        file.named = true;
        self.files.touch_names(parent);
    }

    fn create_something(&mut self) {
        let parent = self.some_directory();
        let Some(name) = self.free_name(parent) else { return };
        let kind = if self.random.chance(30) { FileKind::Directory } else { FileKind::Regular };
        let inode = self.files.create(kind);
        if kind == FileKind::Regular && self.random.chance(15) {
            // O_TMPFILE.
            self.files.files.get_mut(&inode).unwrap().open = true;
            return;
        }
        self.add_name(parent, &name, inode);
        let node = self.new_node(inode);
        self.log(Operation::Create { parent: id(parent), name: name.into_bytes(), node });
    }

    fn link_something(&mut self, regular: &[u64]) {
        let parent = self.some_directory();
        let (Some(name), Some(inode)) = (self.free_name(parent), self.random.one(regular)) else { return };
        if self.files.files[&inode].links == 0 {
            if self.files.files[&inode].named {
                return;
            }
            // Until the next barrier the copy may have the name with only a part of what was synced before.
            self.acknowledged.remove(&self.files.files[&inode].uid);
        }
        self.add_name(parent, &name, inode);
        let node = self.new_node(inode);
        self.log(Operation::Link { parent: id(parent), name: name.into_bytes(), node });
    }

    fn some_entry(&mut self, parent: u64) -> Option<(String, u64)> {
        let entries: Vec<(String, u64)> =
            self.files.files[&parent].entries.iter().map(|(name, inode)| (name.clone(), *inode)).collect();
        (!entries.is_empty()).then(|| entries[self.random.below(entries.len())].clone())
    }

    /// Take a name away; `true`: it was the last one.
    fn take_name(&mut self, parent: u64, name: &str) -> (u64, bool) {
        let inode = self.files.files.get_mut(&parent).unwrap().entries.remove(name).unwrap();
        self.files.touch_names(parent);
        let hold = self.random.chance(30);
        let file = self.files.files.get_mut(&inode).unwrap();
        file.links -= 1;
        let last = file.links == 0;
        file.open |= last && hold && file.kind == FileKind::Regular;
        (inode, last)
    }

    fn reap(&mut self, inode: u64) {
        if self.files.reap(inode) {
            self.named.push_back(Event::FileForgotten { file: id(inode) });
        }
    }

    fn unlink_something(&mut self) {
        let parent = self.some_directory();
        let Some((name, inode)) = self.some_entry(parent) else { return };
        let directory = self.files.files[&inode].kind == FileKind::Directory;
        if directory && !self.files.files[&inode].entries.is_empty() {
            return;
        }
        let (inode, last) = self.take_name(parent, &name);
        self.log(Operation::Unlink {
            parent: id(parent),
            name: name.into_bytes(),
            file: id(inode),
            directory,
            last,
        });
        self.reap(inode);
    }

    fn rename_something(&mut self) {
        let (old_parent, new_parent) = (self.some_directory(), self.some_directory());
        let Some((old_name, inode)) = self.some_entry(old_parent) else { return };
        let new_name = format!("n{}", self.random.below(6));
        let other = self.files.files[&new_parent].entries.get(&new_name).copied();
        if other == Some(inode) || self.files.lies_in(new_parent, inode) {
            return;
        }
        let exchange = other.is_some() && self.random.chance(40);
        let mut other_last = false;
        if let Some(other) = other {
            let kind = |inode: u64| self.files.files[&inode].kind;
            if exchange {
                if self.files.lies_in(old_parent, other) {
                    return;
                }
            } else if kind(other) != kind(inode) || !self.files.files[&other].entries.is_empty() {
                return;
            }
        }
        if exchange {
            let other = other.unwrap();
            self.files.files.get_mut(&old_parent).unwrap().entries.insert(old_name.clone(), other);
            self.files.files.get_mut(&new_parent).unwrap().entries.insert(new_name.clone(), inode);
            self.files.touch_names(old_parent);
            self.files.touch_names(new_parent);
        } else {
            if other.is_some() {
                other_last = self.take_name(new_parent, &new_name).1;
            }
            self.files.files.get_mut(&old_parent).unwrap().entries.remove(&old_name);
            self.files.touch_names(old_parent);
            self.files.files.get_mut(&inode).unwrap().links -= 1;
            self.add_name(new_parent, &new_name, inode);
        }
        self.log(Operation::Rename {
            old_parent: id(old_parent),
            old_name: old_name.into_bytes(),
            new_parent: id(new_parent),
            new_name: new_name.into_bytes(),
            file: id(inode),
            other: other.map(id),
            other_last,
            exchange,
        });
        if let Some(other) = other {
            self.reap(other);
        }
    }

    fn change_behind_the_gate(&mut self) {
        let (parent, other) = (self.some_directory(), self.some_directory());
        match self.random.below(3) {
            0 => {
                let Some(name) = self.free_name(parent) else { return };
                let kind = if self.random.chance(40) { FileKind::Directory } else { FileKind::Regular };
                let inode = self.files.create(kind);
                self.trace("behind", &("create", parent, &name, inode, kind));
                self.add_name(parent, &name, inode);
            }
            1 => {
                let Some((name, inode)) = self.some_entry(parent) else { return };
                if !self.files.files[&inode].entries.is_empty() {
                    return;
                }
                let (inode, _) = self.take_name(parent, &name);
                self.trace("behind", &("unlink", parent, &name, inode));
                self.reap(inode);
            }
            _ => {
                let (Some((name, inode)), Some(new_name)) = (self.some_entry(parent), self.free_name(other))
                else {
                    return;
                };
                if self.files.lies_in(other, inode) {
                    return;
                }
                self.trace("behind", &("rename", parent, &name, other, &new_name, inode));
                self.files.files.get_mut(&parent).unwrap().entries.remove(&name);
                self.files.files.get_mut(&inode).unwrap().links -= 1;
                self.files.touch_names(parent);
                self.add_name(other, &new_name, inode);
                self.traced.push_back(Event::DirectoryChanged { directory: id(other) });
            }
        }
        self.traced.push_back(Event::DirectoryChanged { directory: id(parent) });
        self.traced.push_back(Event::AttributesChanged { file: id(parent) });
        self.traced.push_back(Event::AttributesChanged { file: id(other) });
    }

    fn request_sync(&mut self) {
        let all: Vec<u64> = self.files.files.keys().copied().collect();
        let scope = if self.random.chance(10) {
            SyncScope::Volume(VolumeId(0))
        } else {
            let Some(inode) = self.random.one(&all) else { return };
            SyncScope::File { file: id(inode), data_only: self.random.chance(50) }
        };
        let (path, uids) = match scope {
            SyncScope::File { file, .. } => {
                (self.files.path(file.inode), vec![(file.inode, self.files.files[&file.inode].uid)])
            }
            SyncScope::Volume(_) => {
                (None, self.files.files.iter().map(|(inode, file)| (*inode, file.uid)).collect())
            }
        };
        let children = match scope {
            SyncScope::File { file, .. } => self.synced_children(file.inode),
            SyncScope::Volume(_) => Vec::new(),
        };
        self.drain_capture();
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let (version, names) = (self.files.version, self.files.names);
        self.tickets.insert(ticket, Request { scope, version, names, path, uids, children });
        if self.sabotage == Sabotage::EarlyRelease && self.primary.snapshot().phase == Phase::Mirrored {
            return self.released(ticket, Ok(()));
        }
        self.tell_primary(Event::SyncRequested { ticket, scope });
    }

    fn synced_children(&self, directory: u64) -> Vec<(String, u64, u64, u64)> {
        let entries = self.files.files[&directory].entries.iter();
        let synced = entries.filter_map(|(name, inode)| {
            let uid = self.files.files.get(inode)?.uid;
            Some((name.clone(), *inode, uid, *self.synced.get(&uid)?))
        });
        synced.collect()
    }

    // ---- capture -----------------------------------------------------------------------------------------

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

    // ---- the primary's edge ------------------------------------------------------------------------------

    fn tell_primary(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.trace("primary", &event);
        self.primary.handle(self.now, event, &mut actions);
        actions.iter().for_each(|action| self.trace("primary", action));
        for action in actions {
            self.order_primary(action);
        }
    }

    fn order_primary(&mut self, action: Action) {
        match action {
            Action::SyncLocal { sync, scope } => self.doing.push(Doing::Sync { sync, scope }),
            Action::ReadExtent { read, file, extent } => {
                assert!(!extent.is_empty() && extent.length() <= 6);
                self.doing.push(Doing::Extent { read, file, extent });
            }
            Action::ReadAttributes { read, file } => self.doing.push(Doing::Attributes { read, file }),
            Action::ReadDigests { read, file, extent } => {
                assert!(!extent.is_empty() && extent.length() <= 12);
                self.doing.push(Doing::Digests { read, file, extent });
            }
            Action::ReadDirectory { read, directory } => {
                self.doing.push(Doing::Directory { read, directory })
            }
            Action::DropRead { read } => {
                self.held_reads.remove(&read);
            }
            Action::DropEntry { entry } => {
                self.held_entries.remove(&entry);
            }
            Action::ReleaseBarrier { ticket, result } => self.released(ticket, result),
            Action::PersistState { persist, record } => self.doing.push(Doing::Persist { persist, record }),
            Action::Dial { session } => self.dial(session),
            Action::SendFrame { session, header, body } => self.send_to_secondary(session, header, body),
            Action::CloseSession { session, reason } => {
                if self.sabotage == Sabotage::None
                    && matches!(reason, CloseReason::Protocol(_) | CloseReason::StaleTerm)
                {
                    self.fail(format!("the primary closes: {reason:?}"));
                }
                if let Some(link) = self.link.as_mut().filter(|link| link.primary == session) {
                    link.primary_up = false;
                    link.broken = true;
                }
            }
            Action::Report(_) => {}
            Action::Apply { .. } | Action::MakeDurable { .. } => {
                self.fail(format!("a primary ordered {action:?}"));
            }
        }
    }

    fn send_to_secondary(&mut self, session: SessionId, header: Header, body: Body) {
        let payload = match body {
            Body::Empty => Payload::None,
            Body::ReadData { read, extent } => match self.held_reads.get(&read) {
                Some(Payload::Cells(cells)) => {
                    // What is held begins where the read began: kept beside the cells.
                    let from = (extent.start - cells[0]) as usize + 1;
                    Payload::Cells(cells[from..from + extent.length() as usize].to_vec())
                }
                other => return self.fail(format!("data of {read:?}, held {other:?}")),
            },
            Body::Read { read } => match self.held_reads.get(&read) {
                Some(payload) => payload.clone(),
                None => return self.fail(format!("{read:?} is not held")),
            },
            Body::Entry { entry } => match self.held_entries.remove(&entry) {
                Some(operation) => Payload::Names(operation),
                None => return self.fail(format!("{entry:?} is not held")),
            },
            Body::Structured(body) => Payload::Structured(body),
        };
        let early = self.sabotage == Sabotage::EarlyBarrierDone && header.kind == Kind::Barrier;
        if let Some(link) = self.link.as_mut().filter(|link| link.primary == session && !link.broken) {
            link.to_secondary.push_back((header, payload));
            if early {
                let mut done = Header::new(Kind::BarrierDone, header.term);
                done.offset = header.sequence.0;
                link.to_primary.push_back((done, Payload::None));
            }
        }
    }

    fn do_something(&mut self) {
        if self.doing.is_empty() {
            return;
        }
        let at = self.random.below(self.doing.len());
        let doing = self.doing.swap_remove(at);
        let done = match doing {
            Doing::Done(event) => {
                if matches!(event, Event::DirectoryRead { .. }) {
                    // The list was logged before it is answered.
                    while let Some(named) = self.named.pop_front() {
                        self.tell_primary(named);
                    }
                }
                self.tell_primary(event);
                return;
            }
            Doing::Sync { sync, scope } => {
                let result = self.sync_local(scope);
                Event::LocalSynced { sync, result }
            }
            Doing::Extent { read, file, extent } => {
                Event::ExtentRead { read, outcome: self.read_extent(read, file, extent) }
            }
            Doing::Attributes { read, file } => {
                let outcome = match self.files.files.get(&file.inode) {
                    None => ReadOutcome::Gone,
                    Some(_) if self.faults && self.random.chance(2) => ReadOutcome::Failed(EIO),
                    Some(found) => {
                        let size = found.cells.len() as u64;
                        self.held_reads.insert(read, Payload::Attributes(found.attributes, size));
                        ReadOutcome::Read(size)
                    }
                };
                Event::AttributesRead { read, outcome }
            }
            Doing::Digests { read, file, extent } => {
                let outcome = match self.files.files.get(&file.inode) {
                    None => ReadOutcome::Gone,
                    Some(_) if self.faults && self.random.chance(2) => ReadOutcome::Failed(EIO),
                    Some(found) => {
                        let end = extent.end.min(found.cells.len() as u64).max(extent.start);
                        let cells = found.cells.get(extent.start as usize..end as usize).unwrap_or_default();
                        self.held_reads.insert(read, Payload::Digests(cells.to_vec()));
                        ReadOutcome::Read(Extent { start: extent.start, end })
                    }
                };
                Event::DigestsRead { read, outcome }
            }
            Doing::Directory { read, directory } => {
                Event::DirectoryRead { read, outcome: self.read_directory(directory) }
            }
            Doing::Persist { persist, record } => {
                let fails = self.faults && self.random.chance(10);
                if !fails || self.random.chance(50) {
                    self.primary_disk = record;
                }
                Event::StatePersisted { persist, result: if fails { Err(EIO) } else { Ok(()) } }
            }
        };
        self.doing.push(Doing::Done(done));
    }

    fn sync_local(&mut self, scope: SyncScope) -> Result<(), Errno> {
        // A failed sync leaves the pages writable, or not.
        let fails = self.faults && self.random.chance(2);
        if !fails {
            for (inode, file) in &mut self.files.files {
                if matches!(scope, SyncScope::Volume(_))
                    || matches!(scope, SyncScope::File { file, .. } if file.inode == *inode)
                {
                    file.stored_pages.clear();
                }
            }
        }
        if fails { Err(EIO) } else { Ok(()) }
    }

    fn read_extent(&mut self, read: ReadId, file: FileId, extent: Extent) -> ReadOutcome<Vec<Segment>> {
        let Some(found) = self.files.files.get(&file.inode) else { return ReadOutcome::Gone };
        if self.faults && self.random.chance(2) {
            return ReadOutcome::Failed(EIO);
        }
        let end = extent.end.min(found.cells.len() as u64);
        let mut held = vec![extent.start];
        let mut segments: Vec<Segment> = Vec::new();
        for at in extent.start..end {
            let cell = found.cells[at as usize];
            held.push(cell);
            let content = if cell == 0 { SegmentContent::Hole } else { SegmentContent::Data };
            match segments.last_mut() {
                Some(last) if last.content == content => last.extent.end = at + 1,
                _ => segments.push(Segment { extent: Extent::at(at, 1), content }),
            }
        }
        self.held_reads.insert(read, Payload::Cells(held));
        ReadOutcome::Read(segments)
    }

    fn read_directory(&mut self, directory: FileId) -> ReadOutcome<()> {
        let Some(found) = self.files.files.get(&directory.inode) else { return ReadOutcome::Gone };
        if found.kind != FileKind::Directory || found.links == 0 {
            return ReadOutcome::Gone;
        }
        if self.faults && self.random.chance(3) {
            return ReadOutcome::Failed(EIO);
        }
        let entries = found.entries.clone();
        for inode in entries.values() {
            // A number that belongs to another file than before, though no operation of the gate said so.
            if let Some(before) = self.learn(*inode)
                && before != self.files.files[inode].uid
            {
                self.traced.push_back(Event::CaptureLost { file: id(*inode) });
            }
        }
        let mut entries: Vec<ListedEntry> = entries
            .iter()
            .map(|(name, inode)| ListedEntry { name: name.clone().into_bytes(), node: self.new_node(*inode) })
            .collect();
        let mut first = true;
        loop {
            let count = (1 + self.random.below(3)).min(entries.len());
            let part: Vec<ListedEntry> = entries.drain(..count).collect();
            let last = entries.is_empty();
            self.log(Operation::List { directory, first, last, entries: part });
            first = false;
            if last {
                return ReadOutcome::Read(());
            }
        }
    }

    fn tick_primary(&mut self) {
        self.tell_primary(Event::Tick);
    }

    fn frames_sent(&mut self) {
        if let Some(session) = self.link.as_ref().filter(|link| link.primary_up).map(|link| link.primary) {
            let upto = self.primary.snapshot().positions.queued;
            self.tell_primary(Event::FramesSent { session, upto });
        }
    }

    // ---- link --------------------------------------------------------------------------------------------

    fn dial(&mut self, session: SessionId) {
        if self.secondary_off || (self.faults && self.random.chance(30)) {
            self.doing.push(Doing::Done(Event::SessionLost { session }));
            return;
        }
        self.next_session += 1;
        let secondary = SessionId(self.next_session);
        self.link = Some(Link {
            primary: session,
            secondary,
            to_secondary: VecDeque::new(),
            to_primary: VecDeque::new(),
            primary_up: true,
            secondary_up: true,
            broken: false,
        });
        self.stats.sessions += 1;
        self.secondary_failed = false;
        self.tell_secondary(Event::SessionOpened { session: secondary, version: 1 });
        self.tell_primary(Event::SessionOpened { session, version: 1 });
    }

    fn break_link(&mut self) {
        if let Some(link) = &mut self.link {
            link.broken = true;
            let keep = self.random.below(link.to_secondary.len() + 1);
            link.to_secondary.truncate(keep);
            let keep = self.random.below(link.to_primary.len() + 1);
            link.to_primary.truncate(keep);
        }
    }

    fn body_of(header: &Header, payload: &Payload) -> ReceivedBody {
        match payload {
            Payload::Names(operation) if header.kind == Kind::Namespace => {
                ReceivedBody::Namespace(operation.change())
            }
            Payload::Structured(body) => ReceivedBody::Structured(body.clone()),
            _ => ReceivedBody::Opaque,
        }
    }

    fn deliver_to_secondary(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            let Some(link) = self.link.as_mut().filter(|link| link.secondary_up) else { return };
            let session = link.secondary;
            if let Some((header, payload)) = link.to_secondary.pop_front() {
                let body = Self::body_of(&header, &payload);
                if header.sequence.0 > 0 {
                    self.payloads.insert((session, header.sequence), (header, payload));
                }
                self.tell_secondary(Event::FrameReceived { session, header, body });
            } else if link.broken {
                link.secondary_up = false;
                self.tell_secondary(Event::SessionLost { session });
            }
        }
    }

    fn deliver_to_primary(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            let Some(link) = self.link.as_mut().filter(|link| link.primary_up) else { return };
            let session = link.primary;
            if let Some((header, payload)) = link.to_primary.pop_front() {
                let body = Self::body_of(&header, &payload);
                self.tell_primary(Event::FrameReceived { session, header, body });
            } else if link.broken {
                link.primary_up = false;
                self.tell_primary(Event::SessionLost { session });
            }
        }
    }

    // ---- the secondary's edge ----------------------------------------------------------------------------

    fn tell_secondary(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.trace("secondary", &event);
        self.secondary.handle(self.now, event, &mut actions);
        actions.iter().for_each(|action| self.trace("secondary", action));
        for action in actions {
            self.order_secondary(action);
        }
    }

    fn order_secondary(&mut self, action: Action) {
        match action {
            Action::Apply { session, sequence } => self.serving.push(Serving::Apply { session, sequence }),
            Action::MakeDurable { session, barrier, scope } => {
                self.serving.push(Serving::MakeDurable { session, barrier, scope });
            }
            Action::PersistState { persist, record } => {
                self.serving.push(Serving::Persist { persist, record })
            }
            Action::SendFrame { session, header, body } => {
                let payload = match body {
                    Body::Structured(body) => Payload::Structured(body),
                    _ => Payload::None,
                };
                let early = self.sabotage == Sabotage::EarlyBarrierDone && header.kind == Kind::BarrierDone;
                let done = early && self.replica.known.len() < usize::MAX;
                if let Some(link) =
                    self.link.as_mut().filter(|link| link.secondary == session && !link.broken)
                {
                    // Forged answers came before; only that of ResyncEnd is the secondary's own.
                    let known = self.payloads.get(&(session, Sequence(header.offset)));
                    let is_barrier = known.is_some_and(|(about, _)| about.kind == Kind::Barrier);
                    if !(done && is_barrier) {
                        link.to_primary.push_back((header, payload));
                    }
                }
            }
            Action::CloseSession { session, reason } => {
                let superseded =
                    matches!(reason, CloseReason::Protocol("the primary opened another session"));
                if matches!(reason, CloseReason::Protocol(_)) && !superseded {
                    self.fail(format!("the secondary closes: {reason:?}"));
                }
                if matches!(reason, CloseReason::LocalFailure(_) | CloseReason::StaleTerm) {
                    self.secondary_failed = true;
                    // Nothing more of it is applied but what runs.
                    let runs = |sequence| {
                        let apply = |serving: &Serving| matches!(serving, Serving::Apply { session: of, sequence: at } if (*of, *at) == (session, sequence));
                        self.serving.iter().any(apply)
                    };
                    self.payloads.retain(|(of, sequence), _| *of != session || runs(*sequence));
                }
                if let Some(link) = self.link.as_mut().filter(|link| link.secondary == session) {
                    link.secondary_up = false;
                    link.broken = true;
                }
            }
            Action::Report(_) => {}
            action => self.fail(format!("a secondary ordered {action:?}")),
        }
    }

    fn serve_something(&mut self) {
        if self.serving.is_empty() {
            return;
        }
        let at = self.random.below(self.serving.len());
        let serving = self.serving.swap_remove(at);
        let done = match serving {
            Serving::Done(event) => {
                self.tell_secondary(event);
                return;
            }
            Serving::Apply { session, sequence } => {
                let Some((header, payload)) = self.payloads.remove(&(session, sequence)) else {
                    return self.fail(format!("no payload of {session:?} {sequence}"));
                };
                let mut outcome: Result<AppliedOutcome, Errno> = self.replica.apply(&header, &payload);
                if self.faults && self.random.chance(1) && self.random.chance(20) {
                    outcome = Err(EIO);
                }
                Event::Applied { session, sequence, outcome }
            }
            Serving::MakeDurable { session, barrier, scope } => {
                if let DurableScope::Files(files) = &scope {
                    assert!(files.len() <= 64);
                }
                if self.sabotage != Sabotage::LyingDisk {
                    self.replica.make_durable(&scope);
                }
                let fails = self.faults && self.random.chance(1) && self.random.chance(30);
                Event::MadeDurable { session, barrier, result: if fails { Err(EIO) } else { Ok(()) } }
            }
            Serving::Persist { persist, record } => {
                let fails = self.faults && self.random.chance(3);
                if !fails || self.random.chance(50) {
                    self.secondary_disk = record;
                    if record.data == DataState::UpToDate {
                        self.check_up_to_date();
                    }
                }
                Event::StatePersisted { persist, result: if fails { Err(EIO) } else { Ok(()) } }
            }
        };
        self.serving.push(Serving::Done(done));
    }

    fn tick_secondary(&mut self) {
        self.tell_secondary(Event::Tick);
    }

    // ---- faults ------------------------------------------------------------------------------------------

    fn fault(&mut self) {
        match self.random.below(24) {
            0..=3 => self.break_link(),
            4 => self.crash_secondary(),
            5 => self.restart_primary(),
            6 => self.secondary_off = !self.secondary_off && self.random.chance(50),
            7 => self.now.0 += 4_000_000_000,
            8 => self.secondary_off = false,
            _ => {}
        }
    }

    fn crash_secondary(&mut self) {
        self.stats.crashes += 1;
        self.break_link();
        if let Some(link) = &mut self.link {
            link.to_secondary.clear();
            link.secondary_up = false;
        }
        self.replica.crash(&mut self.random);
        self.serving.clear();
        self.payloads.clear();
        self.check_after_crash();
        self.secondary = Node::secondary(SecondaryConfig::default(), self.secondary_disk, self.now);
    }

    /// The daemon is killed: files stay, callers and marks are gone.
    fn restart_primary(&mut self) {
        self.stats.crashes += 1;
        self.break_link();
        if let Some(link) = &mut self.link {
            link.primary_up = false;
        }
        self.doing.clear();
        self.held_reads.clear();
        self.held_entries.clear();
        self.traced.clear();
        self.named.clear();
        self.tickets.clear();
        self.config.seed += 1;
        self.primary = Node::primary(self.config.clone(), self.primary_disk, self.now);
    }

    // ---- checkers ----------------------------------------------------------------------------------------

    /// positions ordered; nothing-forgotten.
    fn check_always(&mut self) {
        let snapshot = self.primary.snapshot();
        let p = snapshot.positions;
        if !(p.queued >= p.sent && p.sent >= p.received && p.received >= p.applied && p.applied >= p.synced) {
            self.fail(format!("positions: {p:?}"));
        }
        if self.random.chance(10)
            && snapshot.phase == Phase::Mirrored
            && self.traced.is_empty()
            && self.named.is_empty()
        {
            self.stats.mirrored += 1;
            self.check_nothing_forgotten();
        }
    }

    /// Where the durable copy differs, there is a mark. Only files are looked at whose names the copy knows, and which are the
    /// ones the edge knows by their numbers: others are found by the listing of a marked directory.
    fn check_nothing_forgotten(&mut self) {
        let link = self.link.as_ref();
        if link.is_none_or(|link| link.broken || !link.to_secondary.is_empty() || !link.to_primary.is_empty())
            || !self.serving.is_empty()
        {
            return;
        }
        for (inode, file) in &self.files.files {
            let Some(node) =
                self.replica.known.get(&id(*inode)).and_then(|node| self.replica.nodes.get(node))
            else {
                continue;
            };
            if file.kind == FileKind::Regular
                && file.links > 0
                && self.handles.get(inode) == Some(&file.uid)
                && file.cells != node.durable_cells
                && !self.primary.is_marked(id(*inode))
                && !self.is_silent(file)
            {
                let reason = format!(
                    "nothing-forgotten: inode {inode} has no mark; primary {:?}, durable {:?}",
                    file.cells, node.durable_cells
                );
                return self.fail(reason);
            }
        }
    }

    /// Stores through a mapping to a page that was told before are not told again.
    fn is_silent(&self, file: &File) -> bool {
        !file.stored_pages.is_empty()
    }

    fn released(&mut self, ticket: Ticket, result: Result<(), Errno>) {
        let Some(request) = self.tickets.remove(&ticket) else {
            return self.fail(format!("{ticket:?} was answered twice"));
        };
        if result.is_err() {
            self.stats.refused += 1;
            return;
        }
        for (inode, uid) in &request.uids {
            let file = self.files.files.get(inode).filter(|file| file.uid == *uid);
            if file.is_some_and(|file| file.kind == FileKind::Regular) {
                self.synced.insert(*uid, request.version);
            }
        }
        if self.primary_disk.alone {
            self.stats.acknowledged_alone += 1;
            return;
        }
        let replica = match self.mode {
            Mode::Sync => self.replica.clone(),
            // It failed to apply what it had received: its copy is recorded as inconsistent.
            Mode::SemiSync if self.secondary_failed => return,
            Mode::SemiSync => self.replica_as_received(),
            Mode::Async => return,
        };
        self.stats.acknowledged_by_both += 1;
        let checked = self.check_acknowledged(&request, &replica);
        if let Err(reason) = checked.and_then(|()| self.check_children(&request, &replica)) {
            self.fail(format!("acknowledged-is-durable: {ticket:?} {request:?}: {reason}"));
        }
        for (inode, uid) in &request.uids {
            // In semi-sync mode a crash of both nodes loses what was received only.
            if self.mode == Mode::Sync
                && self.files.files.get(inode).is_some_and(|file| file.uid == *uid && file.links > 0)
            {
                self.acknowledged.insert(*uid, request.version);
            }
        }
    }

    /// The copy as it will be when all that was received is applied.
    fn replica_as_received(&self) -> Replica {
        let mut replica = self.replica.clone();
        for (header, payload) in self.payloads.values().filter(|(header, _)| header.kind != Kind::Barrier) {
            let _ = replica.apply(header, payload);
        }
        replica.make_durable(&DurableScope::Everything);
        replica
    }

    fn check_acknowledged(&self, request: &Request, replica: &Replica) -> Result<(), String> {
        for (inode, uid) in &request.uids {
            let Some(file) = self.files.files.get(inode).filter(|file| file.uid == *uid) else { continue };
            let mode_matters = !matches!(request.scope, SyncScope::File { data_only: true, .. });
            if file.links == 0 || file.kind != FileKind::Regular || self.files.names != request.names {
                // It was renamed or removed meanwhile: where the durable copy has it is not for certain.
                continue;
            }
            let path = match &request.path {
                Some(path) => path.clone(),
                None => self.files.path(*inode).unwrap_or_default(),
            };
            let node = replica.durable_at(&path).ok_or_else(|| format!("{path:?} is not there"))?;
            let node = &replica.nodes[&node];
            file.is_as_new(request.version, &node.durable_cells)
                .map_err(|reason| format!("{path:?}: {reason}"))?;
            if mode_matters && !file.has_mode_since(request.version, node.durable_mode) {
                return Err(format!("{path:?}: mode {}, now {:?}", node.durable_mode, file.attributes));
            }
        }
        Ok(())
    }

    /// A directory was synced: files in it that were synced before are under their names with their content.
    fn check_children(&self, request: &Request, replica: &Replica) -> Result<(), String> {
        let Some(path) = request.path.as_ref().filter(|_| self.files.names == request.names) else {
            return Ok(());
        };
        for (name, inode, uid, version) in &request.children {
            let Some(file) = self.files.files.get(inode).filter(|file| file.uid == *uid) else { continue };
            let mut path = path.clone();
            path.push(name.clone());
            let node = replica.durable_at(&path).ok_or_else(|| format!("{path:?} is not there"))?;
            file.is_as_new(*version, &replica.nodes[&node].durable_cells)
                .map_err(|reason| format!("{path:?}: {reason}"))?;
        }
        Ok(())
    }

    /// All that was acknowledged by both is in the copy, which takes itself for whole.
    fn check_copy(&self, what: &str) -> Result<(), String> {
        for (inode, file) in &self.files.files {
            let Some(version) = self.acknowledged.get(&file.uid) else { continue };
            let Some(path) = self.files.path(*inode) else { continue };
            if file.kind != FileKind::Regular {
                continue;
            }
            // Names may have changed since; only what is found under its present name is looked at.
            let Some(node) = self.replica.durable_at(&path) else { continue };
            let node = &self.replica.nodes[&node];
            if self
                .replica
                .known
                .get(&id(*inode))
                .is_some_and(|known| self.replica.nodes.get(known).is_some_and(|n| std::ptr::eq(n, node)))
            {
                file.is_as_new(*version, &node.durable_cells)
                    .map_err(|reason| format!("{what}: {path:?}: {reason}"))?;
            }
        }
        Ok(())
    }

    fn check_up_to_date(&mut self) {
        if let Err(reason) = self.check_copy("up to date") {
            self.fail(reason);
        }
    }

    fn check_after_crash(&mut self) {
        if self.secondary_disk.data != DataState::Inconsistent
            && let Err(reason) = self.check_copy("after a crash")
        {
            self.fail(reason);
        }
    }
}
