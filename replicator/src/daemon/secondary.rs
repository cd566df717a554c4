//! The secondary's part of the data plane: applies frames, makes barriers durable.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replicator_core::action::{Action, Body, DurableScope};
use replicator_core::event::{AppliedOutcome, Event, ReceivedBody};
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId, Sequence, SessionId, VolumeId};
use replicator_core::lineage::GenerationId;
use replicator_core::succession::{CopyOf, decode_copies};
use replicator_core::verify::Verdict;
use replicator_core::wire::attributes::Attributes;
use replicator_core::wire::header::{FLAG_MORE, FLAG_SUCCEEDS, Header, Kind};
use replicator_core::wire::namespace::Operation;
use tracing::{debug, error, info, warn};

use super::engine::{Core, Role, role_token};
use super::message::Message;
use super::publish::Publisher;
use super::register::Registrar;
use super::writeback::Writeback;
use crate::idle::Waiting;
use crate::link::Payload;
use crate::storage::divergence::{self, Limit};
use crate::storage::replica::{Copies, Replica, ReplicaError, SyncTarget};
use crate::uring::{Completion, Full, Shared, Token};
use crate::volume::Volume;

/// A received frame that waits for its turn.
enum Frame {
    Data {
        header: Header,
        bytes: Shared,
    },
    Hole {
        header: Header,
    },
    Attributes {
        header: Header,
        attributes: Attributes,
    },
    Namespace(Operation),
    Digests {
        header: Header,
        digests: Shared,
    },
    Verify {
        header: Header,
        seen: Shared,
    },
    ResyncBegin,
    /// `true`: from a stream of this node's own.
    ResumeBegin(bool),
    Copies(Vec<CopyOf>, bool),
    ResyncEnd,
}

/// How a stream begins.
#[derive(Clone, Copy)]
enum Begin {
    /// The primary describes its whole tree.
    Anew,
    /// It goes on where an earlier stream ended.
    Resumed,
    /// It goes on where a stream of this node's own ended.
    Succeeded,
}

/// What a completion of the ring belongs to.
enum Pending {
    Write { session: SessionId, sequence: Sequence, bytes: Writing },
    Sync { session: SessionId, barrier: Sequence },
}

/// Bytes on their way into a file.
struct Writing {
    header: Header,
    descriptor: Arc<OwnedFd>,
    bytes: Shared,
}

/// A barrier whose files are being synced.
struct Durability {
    left: usize,
    result: Result<(), Errno>,
}

/// The secondary.
pub struct Secondary {
    volumes: Vec<Arc<Volume>>,
    replica: Arc<Replica>,
    /// A comparison of the trees is under way.
    resyncing: bool,
    /// When something was applied last.
    applied: Option<Instant>,
    /// When a directory was last listed again outside of one, if what lost its place then may still wait to be claimed.
    listed: Option<Instant>,
    /// A worker deletes what lists took away.
    tidying: bool,
    frames: HashMap<(SessionId, Sequence), Frame>,
    pending: HashMap<u64, Pending>,
    next_pending: u64,
    barriers: HashMap<(SessionId, Sequence), Durability>,
    /// The begin of a stream, held until the last operation of an earlier session has ended: a late write of that
    /// session must not land on what this one brings.
    held_begins: Vec<(SessionId, Sequence, Begin)>,
    /// Barriers of the session that have arrived and are not yet answered.
    unanswered: usize,
    waiting: Waiting,
    /// How much may be kept aside.
    limit: Limit,
    /// Why nothing can be kept aside, though it is to be: the stream that begins next is not applied.
    not_kept: Option<ReplicaError>,
    writeback: Writeback,
    register: Registrar,
}

impl Secondary {
    /// A secondary of these volumes. Counts barriers as calls that wait.
    pub fn new(volumes: Vec<Arc<Volume>>, waiting: Waiting, limit: Limit) -> Secondary {
        Secondary {
            replica: Arc::new(Replica::new(volumes.clone())),
            resyncing: false,
            applied: None,
            listed: None,
            tidying: false,
            volumes,
            frames: HashMap::new(),
            pending: HashMap::new(),
            next_pending: 1,
            barriers: HashMap::new(),
            held_begins: Vec::new(),
            unanswered: 0,
            waiting,
            limit,
            not_kept: None,
            writeback: Writeback::default(),
            register: Registrar::none(),
        }
    }

    /// Have on record which file is the copy of which.
    pub fn keep_register(&mut self, register: Registrar) {
        self.register = register;
    }

    /// The copy.
    pub fn replica(&self) -> Arc<Replica> {
        Arc::clone(&self.replica)
    }

    fn pend(&mut self, pending: Pending) -> Token {
        let number = self.next_pending;
        self.next_pending += 1;
        self.pending.insert(number, pending);
        role_token(number)
    }

    fn apply(&mut self, core: &mut Core, session: SessionId, sequence: Sequence) {
        let now = Instant::now();
        self.applied = Some(now);
        self.register.applies(now);
        let Some(frame) = self.frames.remove(&(session, sequence)) else {
            error!(%sequence, "a frame is to be applied twice");
            return core.tell(Event::Applied { session, sequence, outcome: Err(Errno(libc::EIO)) });
        };
        let outcome = match frame {
            Frame::Data { header, bytes } => match self.write(core, session, sequence, &header, bytes) {
                Some(outcome) => outcome,
                None => return,
            },
            Frame::Hole { header } => self
                .replica
                .apply_hole(header.file, Extent::at(header.offset, header.length))
                .map(|_| AppliedOutcome::Done),
            Frame::Attributes { header, attributes } => {
                self.replica.apply_attributes(header.file, &attributes).map(|_| AppliedOutcome::Done)
            }
            Frame::Namespace(operation) => {
                if !self.resyncing && matches!(operation, Operation::List { .. }) {
                    self.listed = Some(Instant::now());
                }
                self.replica.apply_namespace(&operation)
            }
            Frame::Digests { header, digests } => {
                return self.compare(core, session, sequence, header, digests);
            }
            Frame::Verify { header, seen } => return self.verify(core, session, sequence, header, seen),
            Frame::ResyncBegin => return self.hold_begin(core, session, sequence, Begin::Anew),
            Frame::ResumeBegin(false) => return self.hold_begin(core, session, sequence, Begin::Resumed),
            Frame::ResumeBegin(true) => return self.hold_begin(core, session, sequence, Begin::Succeeded),
            Frame::Copies(copies, last) => {
                self.replica.take_over(&copies, last).map(|()| AppliedOutcome::Done)
            }
            Frame::ResyncEnd => {
                self.resyncing = false;
                self.writeback.forget();
                self.replica.end_resync().map(|()| AppliedOutcome::Done)
            }
        };
        let outcome = outcome.map_err(|error| complain(core, &error));
        core.tell(Event::Applied { session, sequence, outcome });
    }

    /// A worker reads and digests, several files at once; the core starts nothing else about a file meanwhile, and no fence.
    fn compare(
        &mut self,
        core: &mut Core,
        session: SessionId,
        sequence: Sequence,
        header: Header,
        digests: Shared,
    ) {
        let (replica, mailbox) = (Arc::clone(&self.replica), Arc::clone(&core.mailbox));
        core.workers.run(move || {
            let extent = Extent::at(header.offset, header.length);
            // A file that is not here yet has nothing of what was digested.
            let outcome = replica
                .compare(header.file, extent, &digests)
                .map(|differing| AppliedOutcome::Differs(differing.unwrap_or_else(|| vec![extent])));
            mailbox.post_urgent(Message::Compared { session, sequence, outcome });
        });
    }

    /// Compare on a worker: this thread serves those who wait.
    fn verify(
        &mut self,
        core: &mut Core,
        session: SessionId,
        sequence: Sequence,
        header: Header,
        seen: Shared,
    ) {
        let (replica, mailbox) = (Arc::clone(&self.replica), Arc::clone(&core.mailbox));
        core.background.run(move || {
            let verdict = match header.flags {
                1 => replica.verify_state(header.file, &seen),
                2 => replica.verify_names(header.file, &seen),
                3 => replica.verify_contents(header.file, Extent::at(header.offset, header.length), &seen),
                _ => Verdict::Unreadable(Errno(libc::EBADMSG)),
            };
            let outcome = Ok(AppliedOutcome::Verified(verdict));
            mailbox.post_urgent(Message::Answer(Event::Applied { session, sequence, outcome }));
        });
    }

    fn hold_begin(&mut self, core: &mut Core, session: SessionId, sequence: Sequence, begin: Begin) {
        (self.resyncing, self.listed) = (true, None);
        self.held_begins.push((session, sequence, begin));
        self.begin_streams(core);
    }

    /// Begin the streams that are held, if nothing is under way.
    fn begin_streams(&mut self, core: &mut Core) {
        if !self.pending.is_empty() {
            return;
        }
        for (session, sequence, begin) in std::mem::take(&mut self.held_begins) {
            if let Some(error) = self.not_kept.take() {
                let outcome = Err(complain(core, &error));
                core.tell(Event::Applied { session, sequence, outcome });
                continue;
            }
            let outcome = match begin {
                Begin::Anew => self.register.make_void().and_then(|()| {
                    self.replica.begin_resync();
                    self.set_roots(core)
                }),
                Begin::Succeeded => self.register.make_void().and_then(|()| {
                    self.replica.begin_succession();
                    self.set_roots(core)
                }),
                Begin::Resumed => {
                    self.replica.resume();
                    Ok(AppliedOutcome::Done)
                }
            };
            core.tell(Event::Applied { session, sequence, outcome });
        }
    }

    fn set_roots(&mut self, core: &mut Core) -> Result<AppliedOutcome, Errno> {
        core.peer_roots()
            .iter()
            .try_for_each(|root| self.replica.set_root(*root))
            .map(|()| AppliedOutcome::Done)
            .map_err(|error| complain(core, &error))
    }

    /// Delete what lost its place by a list and was claimed by none that followed within [`UNCLAIMED_AFTER`].
    fn delete_orphans(&mut self, core: &mut Core) {
        if self.resyncing
            || self.tidying
            || self.listed.is_none_or(|listed| listed.elapsed() < UNCLAIMED_AFTER)
        {
            return;
        }
        (self.listed, self.tidying) = (None, true);
        // The root's times change with it, and those of files with other names.
        self.register.applies(Instant::now());
        let (replica, mailbox) = (Arc::clone(&self.replica), Arc::clone(&core.mailbox));
        core.workers.run(move || {
            let deleted = replica.delete_orphans();
            if let Err(error) = &deleted {
                warn!(%error, "what the primary removed is left in the orphanage");
            }
            mailbox.post(Message::OrphansDeleted { left: matches!(deleted, Ok(false)) });
        });
    }

    /// Start the write of a data frame; an outcome if it is already decided.
    fn write(
        &mut self,
        core: &mut Core,
        session: SessionId,
        sequence: Sequence,
        header: &Header,
        bytes: Shared,
    ) -> Option<Result<AppliedOutcome, ReplicaError>> {
        let descriptor = match self.replica.descriptor(header.file) {
            Ok(Some(descriptor)) => descriptor,
            // The file was removed by a later operation of the primary that is already applied; see storage::replica.
            Ok(None) => return Some(Ok(AppliedOutcome::Done)),
            Err(error) => return Some(Err(error)),
        };
        let range = Extent::at(header.offset, header.length);
        if let Err(error) = self.replica.keep_range(header.file, descriptor.as_fd(), range) {
            return Some(Err(error));
        }
        if bytes.len() <= INLINE_BYTES {
            let written = self.replica.write(header.file, &descriptor, header.offset, &bytes);
            return Some(written.map(|()| AppliedOutcome::Done));
        }
        let writing = Writing { header: *header, descriptor: Arc::clone(&descriptor), bytes: bytes.clone() };
        let token = self.pend(Pending::Write { session, sequence, bytes: writing });
        match core.ring.write(descriptor, header.offset, bytes, token) {
            Ok(()) => None,
            Err(Full) => {
                // The core orders far fewer at once than the ring takes.
                core.tell(Event::Applied { session, sequence, outcome: Err(Errno(libc::EAGAIN)) });
                None
            }
        }
    }

    /// From now on what is overwritten or removed is kept aside as that of this generation.
    pub fn keep_aside(&mut self, of: GenerationId) {
        let id = (!of.is_none()).then(|| of.to_string());
        self.not_kept = self.replica.keep_aside(id.as_deref(), self.limit).err();
    }

    /// Delete what was kept aside under that name.
    fn discard(&self, core: &mut Core, id: String) {
        let volumes = self.volumes.clone();
        core.workers.run(move || {
            for volume in volumes {
                // Not by the path, over which a read-only mount may lie.
                let root = PathBuf::from(format!("/proc/self/fd/{}", volume.root().as_raw_fd()));
                match divergence::discard(&root, &id) {
                    Ok(true) => info!(id, volume = %volume.path.display(), "what was kept aside is deleted"),
                    Ok(false) => {}
                    Err(error) => error!(id, %error, "cannot delete all that was kept aside"),
                }
            }
        });
    }

    fn make_durable(&mut self, core: &mut Core, session: SessionId, barrier: Sequence, scope: DurableScope) {
        // What is confirmed is on record.
        let recorded = self.register.record(core.node.holds(), session, barrier);
        let mut durability = Durability { left: usize::from(recorded), result: Ok(()) };
        let only = match scope {
            DurableScope::Files(files) => self.sync_files(core, session, barrier, files, &mut durability),
            DurableScope::Volume(volume) => Some(Some(volume)),
            DurableScope::Everything => Some(None),
        };
        if let Some(only) = only {
            durability.left += 1;
            self.sync_volumes(core, session, barrier, only);
        }
        if durability.left == 0 {
            core.tell(Event::MadeDurable { session, barrier, result: durability.result });
        } else {
            self.barriers.insert((session, barrier), durability);
        }
    }

    /// Begin the syncs of these files. `Some`: instead, or beside, volumes are to be synced.
    fn sync_files(
        &mut self,
        core: &mut Core,
        session: SessionId,
        barrier: Sequence,
        files: Vec<(FileId, bool)>,
        durability: &mut Durability,
    ) -> Option<Option<VolumeId>> {
        for (file, data_only) in files {
            match self.replica.sync_target(file) {
                Ok(SyncTarget::Nothing) => {}
                // Rare enough (a device, a socket) that all may be synced for it; syncs already begun do no harm.
                Ok(SyncTarget::Volume(_)) => return Some(None),
                Ok(SyncTarget::Descriptor(descriptor)) => {
                    let token = self.pend(Pending::Sync { session, barrier });
                    match core.ring.sync(descriptor, data_only, token) {
                        Ok(()) => durability.left += 1,
                        Err(Full) => return Some(None),
                    }
                }
                Err(error) => durability.result = Err(complain(core, &error)),
            }
        }
        None
    }

    fn sync_volumes(
        &mut self,
        core: &mut Core,
        session: SessionId,
        barrier: Sequence,
        only: Option<VolumeId>,
    ) {
        let volumes: Vec<_> =
            self.volumes.iter().filter(|volume| only.is_none_or(|id| id == volume.id)).cloned().collect();
        let mailbox = Arc::clone(&core.mailbox);
        core.workers.run(move || {
            let result = volumes.iter().try_for_each(|volume| volume.sync()).map_err(|error| {
                error!(%error, "cannot make the copy durable");
                Errno(error.raw_os_error().unwrap_or(libc::EIO))
            });
            mailbox.post_urgent(Message::Synced { session, barrier, result });
        });
    }

    fn on_synced(
        &mut self,
        core: &mut Core,
        session: SessionId,
        barrier: Sequence,
        result: Result<(), Errno>,
    ) {
        let Some(durability) = self.barriers.get_mut(&(session, barrier)) else { return };
        durability.left -= 1;
        if result.is_err() {
            // A failed sync is final: the kernel may report success the next time although the data is lost.
            durability.result = result;
        }
        if durability.left == 0 {
            let result = durability.result;
            self.barriers.remove(&(session, barrier));
            core.tell(Event::MadeDurable { session, barrier, result });
        }
    }
}

/// Something was applied a moment ago, and more may be.
const APPLIES: Duration = Duration::from_secs(1);

/// What a list took away waits so long for another list that has it: lists that belong together come one after the other.
const UNCLAIMED_AFTER: Duration = Duration::from_secs(1);

/// A frame of at most so many bytes is written at once: a buffered write on the ring goes through a kernel worker, which takes
/// half as long again (docs/measurements/link.md) and matters where somebody waits for few bytes.
const INLINE_BYTES: usize = 16 << 10;

/// Log where the error is consumed, and give the core its number.
fn complain(core: &mut Core, error: &ReplicaError) -> Errno {
    error!(%error, "the copy cannot be kept up to date");
    core.publisher().on_error();
    error.errno()
}

impl Role for Secondary {
    fn poll(&mut self, core: &mut Core, _: bool) -> bool {
        self.delete_orphans(core);
        if !self.pending.is_empty() || self.tidying {
            self.register.applies(Instant::now());
        }
        let applies = self.applied.is_some_and(|applied| applied.elapsed() < APPLIES);
        self.register.follow(core.node.holds(), !self.resyncing, applies, &core.workers);
        false
    }

    fn on_message(&mut self, core: &mut Core, message: Message) {
        match message {
            Message::Discard { id } => self.discard(core, id),
            Message::Compared { session, sequence, outcome } => {
                let outcome = outcome.map_err(|error| complain(core, &error));
                core.tell(Event::Applied { session, sequence, outcome });
            }
            Message::Synced { session, barrier, result } => self.on_synced(core, session, barrier, result),
            Message::Recorded { told, result } => {
                self.register.on_recorded();
                if let Some((session, barrier)) = told {
                    self.on_synced(core, session, barrier, result);
                }
            }
            Message::Register(told) => self.register.on_told(&told),
            Message::OrphansDeleted { left } => {
                self.tidying = false;
                self.listed = self.listed.or_else(|| left.then(Instant::now));
            }
            _ => debug!("a message for another role"),
        }
    }

    fn on_completion(&mut self, core: &mut Core, number: u64, completion: Completion) {
        let errno = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(libc::EIO));
        match self.pending.remove(&number) {
            Some(Pending::Write { session, sequence, bytes }) => {
                let outcome = match completion.result {
                    Ok(_) => {
                        if self.resyncing {
                            let extent = Extent::at(bytes.header.offset, bytes.header.length);
                            let file = bytes.header.file;
                            self.writeback.note(&core.workers, file, &bytes.descriptor, extent);
                        }
                        Ok(AppliedOutcome::Done)
                    }
                    // The flags of the copy may forbid it, which the replica gets around.
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => self
                        .replica
                        .write(bytes.header.file, &bytes.descriptor, bytes.header.offset, &bytes.bytes)
                        .map(|()| AppliedOutcome::Done)
                        .map_err(|error| complain(core, &error)),
                    Err(error) => {
                        error!(%error, %sequence, "cannot write to the copy");
                        core.publisher().on_error();
                        Err(errno(error))
                    }
                };
                core.tell(Event::Applied { session, sequence, outcome });
            }
            Some(Pending::Sync { session, barrier }) => {
                let result = completion.result.map(|_| ()).map_err(|error| {
                    error!(%error, %barrier, "cannot make the copy durable");
                    core.publisher().on_error();
                    errno(error)
                });
                self.on_synced(core, session, barrier, result);
            }
            None => error!("a completion nobody waits for"),
        }
        if !self.held_begins.is_empty() {
            self.begin_streams(core);
        }
    }

    fn on_frame(
        &mut self,
        session: SessionId,
        version: u16,
        header: &Header,
        payload: Shared,
    ) -> Result<ReceivedBody, &'static str> {
        let (frame, body) = match header.kind {
            Kind::Data if payload.len() as u64 != header.length => {
                return Err("a data frame of another length");
            }
            Kind::Data => (Frame::Data { header: *header, bytes: payload }, ReceivedBody::Opaque),
            Kind::Hole => (Frame::Hole { header: *header }, ReceivedBody::Opaque),
            Kind::Attributes => {
                let attributes =
                    Attributes::decode(&payload, version).map_err(|_| "attributes that make no sense")?;
                (Frame::Attributes { header: *header, attributes }, ReceivedBody::Opaque)
            }
            Kind::Namespace => {
                let operation =
                    Operation::decode(&payload).map_err(|_| "a namespace operation that makes no sense")?;
                let change = operation.change();
                (Frame::Namespace(operation), ReceivedBody::Namespace(change))
            }
            Kind::Digests => (Frame::Digests { header: *header, digests: payload }, ReceivedBody::Opaque),
            Kind::Verify => (Frame::Verify { header: *header, seen: payload }, ReceivedBody::Opaque),
            Kind::ResyncBegin => (Frame::ResyncBegin, ReceivedBody::Structured(payload.to_vec())),
            Kind::ResumeBegin => {
                let succeeds = header.flags & FLAG_SUCCEEDS != 0;
                (Frame::ResumeBegin(succeeds), ReceivedBody::Structured(payload.to_vec()))
            }
            Kind::Copies => {
                let copies = decode_copies(&payload).map_err(|_| "copies that make no sense")?;
                (Frame::Copies(copies, header.flags & FLAG_MORE == 0), ReceivedBody::Opaque)
            }
            Kind::ResyncEnd => (Frame::ResyncEnd, ReceivedBody::Opaque),
            Kind::Barrier => {
                self.unanswered += 1;
                self.waiting.begins();
                return Ok(ReceivedBody::Structured(payload.to_vec()));
            }
            Kind::Account => return Ok(ReceivedBody::Structured(payload.to_vec())),
            _ => return Ok(ReceivedBody::Opaque),
        };
        self.frames.insert((session, header.sequence), frame);
        Ok(body)
    }

    fn perform(&mut self, core: &mut Core, action: Action) {
        match action {
            Action::Apply { session, sequence } => self.apply(core, session, sequence),
            Action::MakeDurable { session, barrier, scope } => {
                self.make_durable(core, session, barrier, scope)
            }
            Action::KeepAside { of } => self.keep_aside(of),
            other => error!(?other, "an order for another role"),
        }
    }

    fn payload(&mut self, kind: Kind, body: Body) -> Option<Payload> {
        if kind == Kind::BarrierDone {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        match body {
            Body::Empty => Some(Payload::Empty),
            Body::Structured(bytes) => Some(Payload::Bytes(bytes)),
            _ => None,
        }
    }

    fn on_session_end(&mut self, session: SessionId, applies: bool) {
        self.unanswered = 0;
        // The next session claims what it can, and ends with an empty orphanage.
        self.listed = None;
        self.writeback.forget();
        if !applies {
            self.frames.retain(|(of, _), _| *of != session);
        }
    }

    fn publish(&mut self, publisher: &mut Publisher) {
        publisher.on_register(self.register.is_on());
    }

    fn is_awaited(&self) -> bool {
        self.unanswered > 0
    }

    fn stop(&mut self, _: &mut Core) {}

    fn may_stop(&self) -> bool {
        true
    }

    fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    fn tidy(&self) -> Box<dyn FnOnce() -> bool + Send> {
        let replica = Arc::clone(&self.replica);
        Box::new(move || replica.delete_orphans().unwrap_or(false))
    }

    fn copies(&self) -> Option<Vec<Copies>> {
        self.replica.copies(&self.volumes)
    }

    fn last_applied(&self) -> Option<Instant> {
        self.applied
    }

    fn inheritance(&self) -> Option<Vec<CopyOf>> {
        self.replica.inheritance()
    }

    fn end(&mut self, rests: bool) {
        self.register.end(rests);
    }
}
