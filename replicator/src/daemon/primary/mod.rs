//! The primary's part of the data plane: reads what is marked, holds who waits.

mod losses;
mod reads;
mod syncs;
mod verify;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replicator_core::action::{Action, Body};
use replicator_core::event::{Event, ReceivedBody};
use replicator_core::extent::Extent;
use replicator_core::ids::{EntryId, Errno, FileId, LocalSyncId, ReadId, SessionId, Ticket, VolumeId};
use replicator_core::succession::CopyOf;
use replicator_core::wire::header::{Header, Kind};
use replicator_core::wire::namespace::Operation;
use tracing::{debug, error};

use super::engine::{Core, Role, role_token};
use super::message::Message;
use super::publish::Publisher;
use super::report::Reports;
use crate::gate::strict::StrictFiles;
use crate::link::Payload;
use crate::storage::descriptors::Descriptors;
use crate::storage::replica::Copies;
use crate::tracer::{TraceEvent, Tracer};
use crate::uring::{Completion, Shared, Token};
use crate::volume::Volume;
use losses::{compare_anew, is_outside, is_outside_now};
use reads::Held;
use syncs::{Waiting, sync_here};

/// Kernel events taken at once.
const DRAIN_LIMIT: usize = 65_536;

/// Without a sync, the tracer is asked so often for everything it may have lost.
const EXACT_EVERY: Duration = Duration::from_millis(20);

/// So often in a row; by then the ring was emptied many times over and something is wrong with it.
const DRAIN_ROUNDS: usize = 256;

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
    /// What verifications find.
    reports: Option<Arc<Reports>>,
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
            reports: None,
        }
    }

    /// Have what verifications find collected there.
    pub fn report_to(&mut self, reports: Arc<Reports>) {
        self.reports = Some(reports);
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
            Message::VerifyRead { read, outcome, payload } => {
                self.reads.insert(read, Held::Payload(payload));
                core.tell(Event::VerifyRead { read, outcome });
            }
            Message::CaptureAwaited(read) => core.tell(Event::CaptureAwaited { read }),
            Message::Verify(request) => core.tell(Event::VerifyRequested(request)),
            Message::StopVerify => core.tell(Event::VerifyStopped),
            Message::Resync { number, what } => self.on_resync(core, number, what),
            Message::ResyncFailed { number, why } => core.publisher().on_resync_failed(number, why),
            Message::SyncHere { backing, data_only, reply } => sync_here(core, backing, data_only, reply),
            Message::Untold => compare_anew(core, "a change of the tree could not be told"),
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
        _: u16,
        header: &Header,
        payload: Shared,
    ) -> Result<ReceivedBody, &'static str> {
        match header.kind {
            Kind::Ack
            | Kind::DigestReply
            | Kind::CreatedReply
            | Kind::Holding
            | Kind::Legacy
            | Kind::Recovered
            | Kind::VerifyReply
            | Kind::Account => Ok(ReceivedBody::Structured(payload.to_vec())),
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
            Action::ReadVerify { read, file, part, fine } => self.read_verify(core, read, file, part, fine),
            Action::AwaitCapture { read, file } => self.await_capture(core, read, file),
            Action::ReportDifference { file, difference } => self.report_difference(core, file, difference),
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

    fn stop(&mut self, core: &mut Core) {
        self.sync_everything(core);
    }

    fn may_stop(&self) -> bool {
        self.stopping.is_empty()
    }

    fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    fn tidy(&self) -> Box<dyn FnOnce() -> bool + Send> {
        Box::new(|| true)
    }

    fn copies(&self) -> Option<Vec<Copies>> {
        Some(vec![Copies::default(); self.volumes.len()])
    }

    fn last_applied(&self) -> Option<Instant> {
        None
    }

    fn inheritance(&self) -> Option<Vec<CopyOf>> {
        None
    }

    fn end(&mut self, _: bool) {}
}
