//! The secondary's part of the data plane: applies frames, makes barriers durable.

mod applier;
mod durability;
mod frame;

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replicator_core::action::{Action, Body};
use replicator_core::event::{AppliedOutcome, Event, ReceivedBody};
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, Sequence, SessionId};
use replicator_core::lineage::GenerationId;
use replicator_core::succession::CopyOf;
use replicator_core::verify::Verdict;
use replicator_core::wire::header::{Header, Kind};
use tracing::{debug, error, info, warn};

pub use self::applier::Told;
use self::applier::{Applier, Beside, Job, What, Writing};
use self::durability::Durability;
use self::frame::{Begin, Frame};
use super::engine::{Core, Role, role_token};
use super::mailbox::Mailbox;
use super::message::Message;
use super::publish::Publisher;
use super::register::Registrar;
use super::workers::Workers;
use super::writeback::Writeback;
use crate::idle::Waiting;
use crate::link::Payload;
use crate::storage::divergence::{self, Limit};
use crate::storage::replica::{Copies, Replica, ReplicaError};
use crate::uring::{Completion, Full, Shared, Token};
use crate::volume::Volume;

/// What a completion of the ring belongs to.
enum Pending {
    Write { session: SessionId, sequence: Sequence, writing: Writing },
    Sync { session: SessionId, barrier: Sequence },
}

/// The secondary.
pub struct Secondary {
    volumes: Vec<Arc<Volume>>,
    replica: Arc<Replica>,
    applier: Applier,
    /// A comparison of the trees is under way.
    resyncing: bool,
    /// When something was ordered to be applied, or was applied, last.
    applied: Option<Instant>,
    /// Frames that were ordered to be applied and have not been.
    ordered: usize,
    /// When a directory was last listed again outside of a resync, if what lost its place then may still wait to be claimed.
    listed: Option<Instant>,
    /// A worker deletes what lists took away.
    tidying: bool,
    frames: HashMap<(SessionId, Sequence), Frame>,
    pending: HashMap<u64, Pending>,
    next_pending: u64,
    barriers: HashMap<(SessionId, Sequence), Durability>,
    /// Barriers of the session that have arrived and are not yet answered.
    unanswered: usize,
    waiting: Waiting,
    writeback: Writeback,
    register: Registrar,
}

impl Secondary {
    /// A secondary of these volumes, whose copy this is. Counts barriers as calls that wait. It keeps no more than `limit` aside, and has on record by `register`
    /// which file is the copy of which.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        volumes: Vec<Arc<Volume>>,
        replica: Arc<Replica>,
        register: Registrar,
        waiting: Waiting,
        limit: Limit,
        mailbox: Arc<Mailbox<Message>>,
    ) -> std::io::Result<Secondary> {
        let applier = Applier::start(Arc::clone(&replica), mailbox, register.vouched(), limit)?;
        Ok(Secondary {
            volumes,
            replica,
            applier,
            resyncing: false,
            applied: None,
            ordered: 0,
            listed: None,
            tidying: false,
            frames: HashMap::new(),
            pending: HashMap::new(),
            next_pending: 1,
            barriers: HashMap::new(),
            unanswered: 0,
            waiting,
            writeback: Writeback::default(),
            register,
        })
    }

    /// Begin an operation of the ring, whose completion is about this.
    fn pend(&mut self, pending: Pending, begin: impl FnOnce(Token) -> Result<(), Full>) -> Result<(), Full> {
        let number = self.next_pending;
        self.next_pending += 1;
        begin(role_token(number))?;
        self.pending.insert(number, pending);
        Ok(())
    }

    fn apply(&mut self, core: &mut Core, session: SessionId, sequence: Sequence, in_order: bool) {
        self.applied = Some(Instant::now());
        self.ordered += 1;
        let Some(mut frame) = self.frames.remove(&(session, sequence)) else {
            error!(%sequence, "a frame is to be applied twice");
            return self.ended(core, session, sequence, Err(Errno(libc::EIO)));
        };
        if let Frame::Begin(begin, roots) = &mut frame {
            (self.resyncing, self.listed) = (true, None);
            *roots = core.peer_roots();
            if *begin != Begin::Resumed
                && let Err(errno) = self.register.make_void()
            {
                return self.ended(core, session, sequence, Err(errno));
            }
        }
        self.applier.order(Job::Apply { session, sequence, frame, in_order });
    }

    /// A frame was applied.
    fn ended(
        &mut self,
        core: &mut Core,
        session: SessionId,
        sequence: Sequence,
        outcome: Result<AppliedOutcome, Errno>,
    ) {
        self.ordered -= 1;
        self.applied = Some(Instant::now());
        core.tell(Event::Applied { session, sequence, outcome });
    }

    fn on_told(&mut self, core: &mut Core, told: Told) {
        match told {
            Told::Applied { session, sequence, outcome, what } => {
                match what {
                    What::List if !self.resyncing => self.listed = Some(Instant::now()),
                    What::End => {
                        self.resyncing = false;
                        self.writeback.forget();
                    }
                    What::List | What::Other => {}
                }
                let outcome = outcome.map_err(|error| complain(core, &error));
                self.ended(core, session, sequence, outcome);
            }
            Told::Prepared { session, sequence, beside } => match beside {
                Beside::Write(writing) => self.write(core, session, sequence, writing),
                // Several files at once; the core starts nothing else about a file meanwhile, and no fence.
                Beside::Compare { header, digests } => {
                    self.hand_over(&core.workers, core, (session, sequence), move |replica| {
                        let extent = Extent::at(header.offset, header.length);
                        // A file that is not here yet has nothing of what was digested.
                        let differing = replica.compare(header.file, extent, &digests)?;
                        Ok(AppliedOutcome::Differs(differing.unwrap_or_else(|| vec![extent])))
                    });
                }
                // Nobody waits for it.
                Beside::Verify { header, seen } => {
                    self.hand_over(&core.background, core, (session, sequence), move |replica| {
                        Ok(AppliedOutcome::Verified(verdict(replica, &header, &seen)))
                    });
                }
            },
            Told::Opened { session, barrier, targets } => {
                self.sync_targets(core, session, barrier, targets);
                self.on_synced(core, session, barrier, Ok(()));
            }
        }
    }

    /// Have a worker apply a frame, and tell.
    fn hand_over(
        &self,
        workers: &Workers,
        core: &Core,
        (session, sequence): (SessionId, Sequence),
        work: impl FnOnce(&Replica) -> Result<AppliedOutcome, ReplicaError> + Send + 'static,
    ) {
        let (replica, mailbox) = (Arc::clone(&self.replica), Arc::clone(&core.mailbox));
        workers.run(move || {
            let (outcome, what) = (work(&replica), What::Other);
            mailbox.post_urgent(Message::Copy(Told::Applied { session, sequence, outcome, what }));
        });
    }

    fn write(&mut self, core: &mut Core, session: SessionId, sequence: Sequence, writing: Writing) {
        let (descriptor, bytes) = (Arc::clone(&writing.descriptor), writing.bytes.clone());
        let offset = writing.header.offset;
        let begun = self.pend(Pending::Write { session, sequence, writing }, |token| {
            core.ring.write(descriptor, offset, bytes, token)
        });
        if let Err(Full) = begun {
            // The core orders far fewer at once than the ring takes.
            self.ended(core, session, sequence, Err(Errno(libc::EAGAIN)));
        }
    }

    fn on_written(
        &mut self,
        core: &mut Core,
        (session, sequence): (SessionId, Sequence),
        writing: Writing,
        result: std::io::Result<()>,
    ) {
        let outcome = match result {
            Ok(()) => {
                if self.resyncing {
                    let extent = Extent::at(writing.header.offset, writing.header.length);
                    self.writeback.note(&core.workers, writing.header.file, &writing.descriptor, extent);
                }
                Ok(AppliedOutcome::Done)
            }
            // The flags of the copy may forbid it, which the replica gets around.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return self.applier.order(Job::Write { session, sequence, writing });
            }
            Err(error) => {
                error!(%error, %sequence, "cannot write to the copy");
                core.publisher().on_error();
                Err(errno_of(&error))
            }
        };
        self.ended(core, session, sequence, outcome);
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
        self.applier.set(true, self.unanswered > 0);
        let (replica, mailbox) = (Arc::clone(&self.replica), Arc::clone(&core.mailbox));
        core.workers.run(move || {
            let deleted = replica.delete_orphans();
            if let Err(error) = &deleted {
                warn!(%error, "what the primary removed is left in the orphanage");
            }
            mailbox.post(Message::OrphansDeleted { left: matches!(deleted, Ok(false)) });
        });
    }

    /// From now on what is overwritten or removed is kept aside as that of this generation.
    pub fn keep_aside(&self, of: GenerationId) {
        let id = (!of.is_none()).then(|| of.to_string());
        self.applier.order(Job::KeepAside(id));
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
}

/// Something was applied a moment ago, and more may be.
const APPLIES: Duration = Duration::from_secs(1);

/// What a list took away waits so long for another list that has it: lists that belong together come one after the other.
const UNCLAIMED_AFTER: Duration = Duration::from_secs(1);

/// Log where the error is consumed, and give the core its number.
fn complain(core: &mut Core, error: &ReplicaError) -> Errno {
    error!(%error, "the copy cannot be kept up to date");
    core.publisher().on_error();
    error.errno()
}

/// What a verification finds of the part that a frame is about.
fn verdict(replica: &Replica, header: &Header, seen: &[u8]) -> Verdict {
    match header.flags {
        1 => replica.verify_state(header.file, seen),
        2 => replica.verify_names(header.file, seen),
        3 => replica.verify_contents(header.file, Extent::at(header.offset, header.length), seen),
        _ => Verdict::Unreadable(Errno(libc::EBADMSG)),
    }
}

/// The number of an error of the system.
fn errno_of(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Role for Secondary {
    fn poll(&mut self, core: &mut Core, _: bool) -> bool {
        self.delete_orphans(core);
        self.applier.set(!self.pending.is_empty() || self.tidying, self.unanswered > 0);
        let applies = self.ordered > 0 || self.applied.is_some_and(|applied| applied.elapsed() < APPLIES);
        self.register.follow(core.node.holds(), !self.resyncing, applies, &core.workers);
        false
    }

    fn on_message(&mut self, core: &mut Core, message: Message) {
        match message {
            Message::Discard { id } => self.discard(core, id),
            Message::Copy(told) => self.on_told(core, told),
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
        let result = completion.result.map(drop);
        match self.pending.remove(&number) {
            Some(Pending::Write { session, sequence, writing }) => {
                self.on_written(core, (session, sequence), writing, result);
            }
            Some(Pending::Sync { session, barrier }) => {
                let result = result.map_err(|error| {
                    error!(%error, %barrier, "cannot make the copy durable");
                    core.publisher().on_error();
                    errno_of(&error)
                });
                self.on_synced(core, session, barrier, result);
            }
            None => error!("a completion nobody waits for"),
        }
    }

    fn on_frame(
        &mut self,
        session: SessionId,
        version: u16,
        header: &Header,
        payload: Shared,
    ) -> Result<ReceivedBody, &'static str> {
        let (frame, body) = Frame::decode(version, header, payload)?;
        if let Some(frame) = frame {
            self.frames.insert((session, header.sequence), frame);
        } else if header.kind == Kind::Barrier {
            self.unanswered += 1;
            self.waiting.begins();
        }
        Ok(body)
    }

    fn perform(&mut self, core: &mut Core, action: Action) {
        match action {
            Action::Apply { session, sequence, in_order } => self.apply(core, session, sequence, in_order),
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
