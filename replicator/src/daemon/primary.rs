//! The primary's part of the data plane: reads what is marked, holds who waits.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use replicator_core::action::{Action, Body};
use replicator_core::event::{Event, ReadOutcome, ReceivedBody, SyncScope};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, LocalSyncId, ReadId, SessionId, Ticket, VolumeId,
};
use replicator_core::wire::header::{Header, Kind};
use replicator_core::wire::namespace::Operation;
use tracing::{debug, error, warn};

use super::engine::{Core, Role, role_token};
use super::message::Message;
use super::publish::Publisher;
use crate::gate::sink::SyncReply;
use crate::gate::strict::{Duty, StrictFiles};
use crate::link::Payload;
use crate::notify::Change;
use crate::storage::descriptors::{Access, Descriptors};
use crate::storage::{digest, reader};
use crate::tracer::{TraceEvent, Tracer};
use crate::uring::{Completion, Full, Shared, Token};
use crate::volume::Volume;

/// Kernel events taken at once.
const DRAIN_LIMIT: usize = 65_536;

/// Without a sync, the tracer is asked so often for everything it may have lost.
const EXACT_EVERY: Duration = Duration::from_millis(20);

/// After a comparison of everything was asked for, the next is not asked for before this has passed.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// So often in a row; by then the ring was emptied many times over and something is wrong with it.
const DRAIN_ROUNDS: usize = 256;

/// A read under way or kept until its frames were queued.
enum Held {
    /// Bytes of a file from `start` on.
    Bytes { start: u64, bytes: Shared },
    /// An encoded payload (attributes, digests).
    Payload(Vec<u8>),
}

/// What a completion of the ring belongs to.
enum Pending {
    /// Of an extent's begin; `length` bytes of memory are used for it.
    Read {
        read: ReadId,
        file: Arc<OwnedFd>,
        start: u64,
        length: usize,
    },
    Sync(LocalSyncId),
}

/// Syncs that passed the gate.
#[derive(Default)]
struct Unguarded {
    count: u64,
    /// Whose they were, the last one at the end.
    files: Vec<FileId>,
}

impl Unguarded {
    fn add(&mut self, file: FileId) {
        self.count += 1;
        if self.files.last() != Some(&file) {
            self.files.retain(|known| *known != file);
            self.files.push(file);
        }
    }
}

/// A held caller.
struct Waiting {
    reply: SyncReply,
    scope: SyncScope,
    since: Instant,
}

/// The primary.
pub struct Primary {
    volumes: Vec<Arc<Volume>>,
    /// The strict files of each volume.
    strict: Vec<Arc<StrictFiles>>,
    tracer: Option<Tracer>,
    /// When the tracer was last asked for everything it may have lost.
    exact_at: Instant,
    /// Names are captured by the kernel programs too (nothing is mounted).
    trace_only: bool,
    descriptors: Descriptors,
    reads: HashMap<ReadId, Held>,
    entries: HashMap<EntryId, Vec<u8>>,
    next_entry: EntryId,
    waiting: HashMap<Ticket, Waiting>,
    next_ticket: Ticket,
    /// Descriptors of held callers by file, and how many hold each.
    backings: HashMap<FileId, (Arc<OwnedFd>, usize)>,
    pending: HashMap<u64, Pending>,
    next_pending: u64,
    /// Reads that wait for room in the ring or for the connection to take what is queued.
    backlog: VecDeque<(ReadId, FileId, Extent)>,
    /// Bytes of reads under way.
    reading: u64,
    /// The file whose writers were waited for last, unless events have come in since.
    settled: Option<FileId>,
    /// Barriers over everything that an orderly stop waits for.
    stopping: HashSet<Ticket>,
    /// When everything was last asked to be compared.
    compared_at: Option<Instant>,
    /// It is to be asked again.
    compare_due: bool,
}

impl Primary {
    /// A primary of these volumes, with the strict files of each.
    pub fn new(
        volumes: Vec<Arc<Volume>>,
        strict: Vec<Arc<StrictFiles>>,
        tracer: Option<Tracer>,
        trace_only: bool,
    ) -> Primary {
        if tracer.is_some() {
            volumes.iter().for_each(|volume| volume.collect_learnt());
        }
        Primary {
            volumes,
            strict,
            tracer,
            exact_at: Instant::now(),
            trace_only,
            descriptors: Descriptors::new(512),
            reads: HashMap::new(),
            entries: HashMap::new(),
            next_entry: EntryId(1),
            waiting: HashMap::new(),
            next_ticket: Ticket(1),
            backings: HashMap::new(),
            pending: HashMap::new(),
            next_pending: 1,
            backlog: VecDeque::new(),
            reading: 0,
            settled: None,
            stopping: HashSet::new(),
            compared_at: None,
            compare_due: false,
        }
    }

    fn volume(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.volumes.get(usize::from(id.0))
    }

    fn pend(&mut self, pending: Pending) -> Token {
        let number = self.next_pending;
        self.next_pending += 1;
        self.pending.insert(number, pending);
        role_token(number)
    }

    fn on_namespace(&mut self, core: &mut Core, operation: &Operation) {
        if let Operation::Rename { file, other: Some(other), exchange: true, .. } = operation {
            // XFS gives exchanged directories a new modification time.
            core.mark(Event::AttributesChanged { file: *file });
            core.mark(Event::AttributesChanged { file: *other });
        }
        self.forget_descriptors(operation);
        let entry = self.next_entry;
        self.next_entry = entry.next();
        let change = operation.change();
        self.entries.insert(entry, operation.encode());
        core.tell(Event::NamespaceLogged { entry, change });
    }

    /// A cached descriptor would keep a removed file's blocks allocated.
    fn forget_descriptors(&mut self, operation: &Operation) {
        match operation {
            Operation::Unlink { file, last: true, .. } => self.descriptors.invalidate(*file),
            Operation::Rename { other: Some(other), other_last: true, .. } => {
                self.descriptors.invalidate(*other);
            }
            _ => {}
        }
    }

    fn on_sync(&mut self, core: &mut Core, scope: SyncScope, backing: Arc<OwnedFd>, reply: SyncReply) {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.next();
        if let SyncScope::File { file, .. } = scope {
            self.backings.entry(file).and_modify(|held| held.1 += 1).or_insert((backing, 1));
        }
        self.waiting.insert(ticket, Waiting { reply, scope, since: Instant::now() });
        core.tell(Event::SyncRequested { ticket, scope });
    }

    fn release(&mut self, core: &mut Core, ticket: Ticket, result: Result<(), Errno>) {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            error!(%ticket, "a caller was released twice");
            return;
        };
        if let SyncScope::File { file, .. } = waiting.scope
            && let Some(held) = self.backings.get_mut(&file)
        {
            held.1 -= 1;
            if held.1 == 0 {
                self.backings.remove(&file);
            }
        }
        core.publisher().on_released(waiting.since.elapsed(), result);
        self.stopping.remove(&ticket);
        waiting.reply.answer(result);
    }

    /// Start as many of the ordered reads as memory allows, in order: the core bounds what it sends in the background, but a
    /// barrier's file may have any amount of dirty bytes.
    fn start_reads(&mut self, core: &mut Core) {
        while !self.backlog.is_empty()
            && core.ring.room() > 0
            && self.reading + core.queued_bytes() < READ_AHEAD
            && let Some((read, file, extent)) = self.backlog.pop_front()
        {
            self.start_read(core, read, file, extent);
        }
    }

    fn start_read(&mut self, core: &mut Core, read: ReadId, file: FileId, extent: Extent) {
        let outcome = match self.open(file, Vec::new()) {
            Ok(descriptor) => {
                self.wait_for_writers(file, &descriptor, extent.start);
                // Not before the writers were waited for: the size is then that of what the mark stands for.
                let length = reader::bytes_to_read(descriptor.as_fd(), extent, READ_MAX);
                let buffer = core.pool.take(length);
                let pending =
                    Pending::Read { read, file: Arc::clone(&descriptor), start: extent.start, length };
                let token = self.pend(pending);
                match core.ring.read(descriptor, extent.start, buffer, token) {
                    Ok(()) => self.reading += length as u64,
                    Err(Full) => {
                        self.pending.remove(&token.0);
                        self.backlog.push_front((read, file, extent));
                    }
                }
                return;
            }
            Err(outcome) => outcome,
        };
        core.tell(Event::ExtentRead { read, outcome });
    }

    /// Kernel programs may tell of a change before it is complete, with the inode locked: new bytes, but the old size. A read
    /// that began in between would miss what the mark stood for. SEEK_DATA takes the lock (see `tracer`), so afterwards the
    /// change is complete; where it leads to does not matter. Once is enough for all reads that the events taken so far give
    /// cause to, and it matters: a writer that meets the lock taken goes to sleep.
    fn wait_for_writers(&mut self, file: FileId, descriptor: &OwnedFd, offset: u64) {
        if self.settled.replace(file) != Some(file) {
            let offset = i64::try_from(offset).unwrap_or(i64::MAX);
            let _ = nix::unistd::lseek(descriptor, offset, nix::unistd::Whence::SeekData);
        }
    }

    /// A file's descriptor for reading, or how the read ends without one: `nothing` is what a file without bytes holds.
    fn open<T>(&mut self, file: FileId, nothing: T) -> Result<Arc<OwnedFd>, ReadOutcome<T>> {
        let Some(volume) = self.volumes.get(usize::from(file.volume.0)) else {
            return Err(ReadOutcome::Gone);
        };
        self.descriptors
            .get_or_open(file, Access::Read, || reader::open_for_read(volume, file.inode))
            .map_err(|error| {
                if reader::has_no_bytes(&error) { ReadOutcome::Read(nothing) } else { outcome_of(&error) }
            })
    }

    fn on_read(&mut self, core: &mut Core, read: ReadId, file: &OwnedFd, start: u64, completion: Completion) {
        let outcome = match completion.result {
            Err(error) => outcome_of(&error),
            Ok(length) => {
                let bytes = completion.buffer.map_or_else(Shared::default, Shared::from);
                debug_assert_eq!(bytes.len(), length);
                match reader::segments(file.as_fd(), start, &bytes) {
                    Ok(segments) => {
                        self.reads.insert(read, Held::Bytes { start, bytes });
                        ReadOutcome::Read(segments)
                    }
                    Err(error) => outcome_of(&error),
                }
            }
        };
        core.tell(Event::ExtentRead { read, outcome });
    }

    fn read_attributes(&mut self, core: &mut Core, read: ReadId, file: FileId) {
        let attributes = match (self.open(file, ()), self.volume(file.volume)) {
            (Ok(descriptor), _) => {
                // Only a regular file has a size that a writer may be about to change.
                self.wait_for_writers(file, &descriptor, 0);
                reader::attributes_of(descriptor.as_fd())
            }
            (Err(_), Some(volume)) => reader::attributes(volume, file.inode),
            (Err(_), None) => return core.tell(Event::AttributesRead { read, outcome: ReadOutcome::Gone }),
        };
        let outcome = match attributes {
            Ok(attributes) => {
                self.reads.insert(read, Held::Payload(attributes.encode()));
                let regular = FileKind::from_mode(attributes.mode) == Some(FileKind::Regular);
                ReadOutcome::Read(if regular { attributes.size } else { 0 })
            }
            Err(error) => outcome_of(&error),
        };
        core.tell(Event::AttributesRead { read, outcome });
    }

    fn read_digests(&mut self, core: &mut Core, read: ReadId, file: FileId, extent: Extent) {
        let descriptor = match self.open(file, Extent { end: extent.start, ..extent }) {
            Ok(descriptor) => descriptor,
            Err(outcome) => return core.tell(Event::DigestsRead { read, outcome }),
        };
        let mailbox = Arc::clone(&core.mailbox);
        core.workers.run(move || {
            let (outcome, payload) = match digest::digests(descriptor.as_fd(), extent) {
                Ok((payload, digested)) => (ReadOutcome::Read(digested), payload),
                Err(error) => (outcome_of(&error), Vec::new()),
            };
            mailbox.post_urgent(Message::Digests { read, outcome, payload });
        });
    }

    fn read_directory(&mut self, core: &mut Core, read: ReadId, directory: FileId) {
        let Some(volume) = self.volume(directory.volume).cloned() else {
            return core.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Gone });
        };
        let mailbox = Arc::clone(&core.mailbox);
        core.workers.run(move || {
            let outcome = {
                let _order = volume.lock_namespace();
                let mut emit = |operation| mailbox.post(Message::Namespace(operation));
                match reader::list_directory(&volume, directory.inode, &mut emit) {
                    Ok(doubtful) => {
                        for file in doubtful {
                            mailbox.post(Message::Answer(Event::CaptureLost { file }));
                        }
                        ReadOutcome::Read(())
                    }
                    Err(error) => outcome_of(&error),
                }
            };
            mailbox.post_urgent(Message::Answer(Event::DirectoryRead { read, outcome }));
        });
    }

    fn sync_local(&mut self, core: &mut Core, sync: LocalSyncId, scope: SyncScope) {
        match scope {
            SyncScope::File { file, data_only } => {
                let held = self.backings.get(&file).map(|(backing, _)| Arc::clone(backing));
                match held.map_or_else(|| self.open(file, ()), Ok) {
                    Ok(descriptor) => self.sync_file(core, sync, descriptor, data_only),
                    // A file that is gone has nothing left to make durable.
                    Err(ReadOutcome::Gone | ReadOutcome::Read(())) => {
                        core.tell(Event::LocalSynced { sync, result: Ok(()) });
                    }
                    Err(ReadOutcome::Failed(errno)) => {
                        core.tell(Event::LocalSynced { sync, result: Err(errno) });
                    }
                }
            }
            SyncScope::Volume(id) => {
                let Some(volume) = self.volume(id).cloned() else {
                    return core.tell(Event::LocalSynced { sync, result: Err(Errno(libc::ENOENT)) });
                };
                sync_on_worker(core, sync, move || volume.sync());
            }
        }
    }

    fn sync_file(&mut self, core: &mut Core, sync: LocalSyncId, file: Arc<OwnedFd>, data_only: bool) {
        let token = self.pend(Pending::Sync(sync));
        if let Err(Full) = core.ring.sync(Arc::clone(&file), data_only, token) {
            sync_on_worker(core, sync, move || Ok(sync_descriptor(&file, data_only)?));
        }
    }

    /// A sync of this file was not held: the next shall be. What waits for the disk is done by a worker.
    fn on_unguarded(&mut self, core: &mut Core, file: FileId) {
        let number = usize::from(file.volume.0);
        let (Some(strict), Some(volume)) = (self.strict.get(number), self.volumes.get(number)) else {
            return;
        };
        if strict.seen(file.inode) == Duty::None {
            return;
        }
        let (strict, volume) = (Arc::clone(strict), Arc::clone(volume));
        let mailbox = Arc::clone(&core.mailbox);
        core.workers.run(move || {
            if strict.attend(&volume, file.inode) {
                // The mark is an attribute of the file, and so mirrored. Not after the file was reported as forgotten, which is done under
                // the lock: nothing would clear what is marked then.
                let _namespace = volume.lock_namespace();
                if volume.handle(file.inode).is_some() {
                    mailbox.post(Message::Attributes(file));
                }
            }
        });
    }

    /// Events were lost: files that were opened for writing are compared first, because somebody may wait for them; then everything,
    /// because what was lost may be about a file that nobody opened through the gate.
    fn on_lost(&mut self, core: &mut Core, lost: u64) {
        warn!(
            lost,
            "kernel events were lost: everything is compared, files that were opened for writing first"
        );
        core.publisher().on_lost(lost);
        if self.trace_only {
            // Names may have been lost with them; only a session that lists them all sets that right.
            compare_anew(core, "kernel events were lost");
            return;
        }
        for volume in &self.volumes {
            for inode in volume.writers().into_iter().filter(|inode| !volume.is_outside(*inode)) {
                core.mark(Event::CaptureLost { file: volume.file(inode) });
            }
        }
        self.compare_everything(core);
    }

    /// Have all trees listed and compared, without ending the session. What is lost in quick succession is followed by one
    /// comparison that begins after the last of it.
    fn compare_everything(&mut self, core: &mut Core) {
        if self.compared_at.is_some_and(|at| at.elapsed() < COMPARE_EVERY) {
            self.compare_due = true;
            return;
        }
        self.compared_at = Some(Instant::now());
        self.compare_due = false;
        for volume in &self.volumes {
            // In the order of events. Without a session it is remembered for the next, if that does not compare all anyway.
            core.tell(Event::CaptureLost { file: volume.root_file() });
        }
    }

    /// Others than this process made changes, of which no operation tells.
    fn on_behind(&mut self, core: &mut Core, changes: &[Change], last: Option<String>) {
        core.publisher().on_behind(changes, last);
        for change in changes {
            match *change {
                Change::Names { directory, .. } => core.mark(Event::DirectoryChanged { directory }),
                // After the lists of the directories it left and came to were asked for.
                Change::Moved { file } => core.tell(Event::CaptureLost { file }),
                Change::Attributes { file } | Change::Closed { file } | Change::Content { file }
                    if is_outside_now(&self.volumes, file) => {}
                Change::Attributes { file } | Change::Closed { file } => {
                    core.mark(Event::AttributesChanged { file });
                }
                Change::Content { file } => core.mark(Event::CaptureLost { file }),
                Change::Lost | Change::Ended => {
                    warn!("changes behind the gate were lost: everything is compared");
                    if matches!(change, Change::Ended) {
                        // Nobody tells of any more.
                        core.tell(Event::Untold { lasting: true });
                    }
                    self.compare_everything(core);
                }
            }
        }
    }

    /// Files that became known are told of from now on, though they were found outside before; what they hold is not known.
    fn admit_learnt(&mut self, core: &mut Core) {
        let Some(tracer) = &mut self.tracer else { return };
        for volume in &self.volumes {
            for inode in volume.take_learnt() {
                if tracer.found_inside(volume.id, inode) {
                    core.mark(Event::CaptureLost { file: volume.file(inode) });
                }
            }
        }
    }

    /// One barrier over each volume: what is dirty reaches the peer before the session ends.
    fn stop(&mut self, core: &mut Core) {
        for volume in &self.volumes {
            let ticket = self.next_ticket;
            self.next_ticket = ticket.next();
            let scope = SyncScope::Volume(volume.id);
            let reply = SyncReply::new(|_| {});
            self.waiting.insert(ticket, Waiting { reply, scope, since: Instant::now() });
            self.stopping.insert(ticket);
            core.tell(Event::SyncRequested { ticket, scope });
        }
    }
}

/// Begin a session that compares everything.
fn compare_anew(core: &mut Core, why: &str) {
    core.tell(Event::Untold { lasting: false });
    core.break_session(why);
}

/// Whether all names of a file are left out of the tree, so that its changes concern nobody.
fn is_outside(volumes: &[Arc<Volume>], file: FileId) -> bool {
    volumes.get(usize::from(file.volume.0)).is_some_and(|volume| volume.is_outside(file.inode))
}

/// The same of a file, or a directory, that nobody opened for writing.
fn is_outside_now(volumes: &[Arc<Volume>], file: FileId) -> bool {
    volumes.get(usize::from(file.volume.0)).is_some_and(|volume| volume.is_outside_now(file.inode))
}

/// Sync a file that is left out of the tree, and let the caller go.
fn sync_here(core: &mut Core, file: Arc<OwnedFd>, data_only: bool, reply: SyncReply) {
    core.workers.run(move || {
        reply.answer(sync_descriptor(&file, data_only).map_err(|errno| Errno(errno as i32)));
    });
}

fn sync_descriptor(file: &OwnedFd, data_only: bool) -> nix::Result<()> {
    if data_only { nix::unistd::fdatasync(file) } else { nix::unistd::fsync(file) }
}

fn sync_on_worker(
    core: &mut Core,
    sync: LocalSyncId,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) {
    let mailbox = Arc::clone(&core.mailbox);
    core.workers.run(move || {
        let result = work().map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)));
        mailbox.post_urgent(Message::Answer(Event::LocalSynced { sync, result }));
    });
}

/// Bytes of file content on their way to the peer (being read or queued) beyond which no further read begins.
const READ_AHEAD: u64 = 32 << 20;

/// Largest single read in bytes; the core asks for no more.
const READ_MAX: usize = 1 << 20;

fn outcome_of<T>(error: &std::io::Error) -> ReadOutcome<T> {
    match error.raw_os_error() {
        _ if reader::is_gone(error) => ReadOutcome::Gone,
        errno => ReadOutcome::Failed(Errno(errno.unwrap_or(libc::EIO))),
    }
}

impl Role for Primary {
    fn poll(&mut self, core: &mut Core, exact: bool) -> bool {
        self.start_reads(core);
        self.settled = None;
        if self.compare_due {
            self.compare_everything(core);
        }
        let exact = exact || self.exact_at.elapsed() > EXACT_EVERY;
        let Some(tracer) = &mut self.tracer else { return false };
        let (mut unguarded, mut captured) = (Unguarded::default(), 0);
        let volumes = &self.volumes;
        let (mut taken, mut lost, mut rounds) = (0, 0, 0);
        loop {
            let mut emit = |event| match event {
                TraceEvent::Write { file, .. }
                | TraceEvent::Store { file, .. }
                | TraceEvent::UnguardedSync { file }
                    if is_outside(volumes, file) => {}
                // Rare enough that the file itself may be asked.
                TraceEvent::Attributes { file } if is_outside_now(volumes, file) => {}
                TraceEvent::Write { file, extent } => {
                    if extent.end != Extent::END {
                        captured += extent.length();
                    }
                    core.mark(Event::WriteTraced { file, extent });
                }
                TraceEvent::Store { file, extent } => core.mark(Event::StoreMapped { file, extent }),
                TraceEvent::Attributes { file } => core.mark(Event::AttributesChanged { file }),
                TraceEvent::Directory { directory } => core.mark(Event::DirectoryChanged { directory }),
                TraceEvent::UnguardedSync { file } => unguarded.add(file),
            };
            let drained = if exact {
                self.exact_at = Instant::now();
                tracer.drain(DRAIN_LIMIT, &mut emit)
            } else {
                tracer.drain_ring(DRAIN_LIMIT, &mut emit)
            };
            taken += drained.taken;
            lost += drained.lost;
            rounds += 1;
            // Not before everything told so far is marked may a message be handled that came after it.
            if drained.reached_end {
                break;
            }
            if rounds == DRAIN_ROUNDS {
                lost += 1;
                break;
            }
        }
        core.publisher().on_traced(taken as u64, unguarded.count);
        unguarded.files.into_iter().for_each(|file| self.on_unguarded(core, file));
        core.publisher().on_captured(captured);
        if lost > 0 {
            self.on_lost(core, lost);
        }
        // Messages that wait to be handled tell of files that are in here.
        self.admit_learnt(core);
        taken > 0
    }

    fn on_message(&mut self, core: &mut Core, message: Message) {
        match message {
            Message::Namespace(operation) => self.on_namespace(core, &operation),
            Message::Written { file, .. } if is_outside(&self.volumes, file) => {}
            Message::Written { file, extent } => core.mark(Event::WriteTraced { file, extent }),
            Message::Attributes(file) => core.mark(Event::AttributesChanged { file }),
            Message::Forgotten(file) => {
                // Posted under the namespace lock, before the number can be given to a new file.
                self.descriptors.invalidate(file);
                core.tell(Event::FileForgotten { file });
            }
            Message::Sync { scope, backing, reply } => self.on_sync(core, scope, backing, reply),
            Message::Behind { changes, last } => self.on_behind(core, &changes, last),
            Message::Digests { read, outcome, payload } => {
                self.reads.insert(read, Held::Payload(payload));
                core.tell(Event::DigestsRead { read, outcome });
            }
            Message::SyncHere { backing, data_only, reply } => sync_here(core, backing, data_only, reply),
            Message::Untold => compare_anew(core, "a change of the tree could not be told"),
            Message::Stop => self.stop(core),
            _ => debug!("a message for another role"),
        }
    }

    fn on_completion(&mut self, core: &mut Core, number: u64, completion: Completion) {
        match self.pending.remove(&number) {
            Some(Pending::Read { read, file, start, length }) => {
                self.reading = self.reading.saturating_sub(length as u64);
                self.on_read(core, read, &file, start, completion);
            }
            Some(Pending::Sync(sync)) => {
                let result = completion
                    .result
                    .map(|_| ())
                    .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)));
                core.tell(Event::LocalSynced { sync, result });
            }
            None => error!("a completion nobody waits for"),
        }
        self.start_reads(core);
    }

    fn on_frame(
        &mut self,
        _: SessionId,
        header: &Header,
        payload: Shared,
    ) -> Result<ReceivedBody, &'static str> {
        match header.kind {
            Kind::Ack | Kind::DigestReply | Kind::CreatedReply | Kind::Holding => {
                Ok(ReceivedBody::Structured(payload.to_vec()))
            }
            _ => Ok(ReceivedBody::Opaque),
        }
    }

    fn perform(&mut self, core: &mut Core, action: Action) {
        match action {
            Action::SyncLocal { sync, scope } => self.sync_local(core, sync, scope),
            Action::ReadExtent { read, file, extent } => {
                self.backlog.push_back((read, file, extent));
                self.start_reads(core);
            }
            Action::ReadAttributes { read, file } => self.read_attributes(core, read, file),
            Action::ReadDigests { read, file, extent } => self.read_digests(core, read, file, extent),
            Action::ReadDirectory { read, directory } => self.read_directory(core, read, directory),
            Action::DropRead { read } => {
                self.reads.remove(&read);
            }
            Action::DropEntry { entry } => {
                self.entries.remove(&entry);
            }
            Action::ReleaseBarrier { ticket, result } => self.release(core, ticket, result),
            other => error!(?other, "an order for another role"),
        }
    }

    fn payload(&mut self, _: Kind, body: Body) -> Option<Payload> {
        Some(match body {
            Body::Empty => Payload::Empty,
            Body::Structured(bytes) => Payload::Bytes(bytes),
            Body::Entry { entry } => Payload::Bytes(self.entries.remove(&entry)?),
            Body::Read { read } => match self.reads.remove(&read)? {
                Held::Payload(bytes) => Payload::Bytes(bytes),
                Held::Bytes { bytes, .. } => Payload::Shared(bytes),
            },
            Body::ReadData { read, extent } => match self.reads.get(&read)? {
                Held::Bytes { start, bytes } => {
                    let from = usize::try_from(extent.start.checked_sub(*start)?).ok()?;
                    let to = usize::try_from(extent.end.checked_sub(*start)?).ok()?;
                    Payload::Shared(bytes.get(from..to)?)
                }
                Held::Payload(_) => return None,
            },
        })
    }

    fn on_session_end(&mut self, _: SessionId, _: bool) {}

    fn publish(&mut self, publisher: &mut Publisher) {
        publisher.on_waiting(self.waiting.len());
    }

    fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn may_stop(&self) -> bool {
        self.stopping.is_empty()
    }
}
