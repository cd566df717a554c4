//! The world around two nodes: edges, link, time, faults. What the application does is in [`application`], what must hold in
//! [`checks`].

mod application;
mod checks;

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
}
