//! The thread that changes the copy, one frame after the other.
//!
//! The data-plane thread serves the link, so it makes no call that the disk of the copy can hold up: a secondary whose disk takes its time is slow
//! (`barrier-limit`), and not silent, which would end the session. What takes long is only prepared here: it is begun by the data-plane thread, and runs
//! beside what follows.
//!
//! ```text
//!  data plane --Job--> applier --Told::Applied--------------------------> data plane --> core
//!                          `-----Told::Prepared--> data plane --> ring, workers --------^
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use replicator_core::event::AppliedOutcome;
use replicator_core::extent::Extent;
use replicator_core::ids::{FileId, Sequence, SessionId};
use replicator_core::wire::header::Header;
use replicator_core::wire::namespace::Operation;

use super::frame::{Begin, Frame};
use crate::daemon::mailbox::Mailbox;
use crate::daemon::message::Message;
use crate::daemon::register::{MOMENT_LEFT, Vouched};
use crate::daemon::scheduling::Priority;
use crate::storage::divergence::Limit;
use crate::storage::replica::{Replica, ReplicaError, SyncTarget};
use crate::uring::Shared;

/// The data-plane thread is woken after so many answers at the latest, if it sleeps.
const ANSWERS: usize = 16;

/// What is to be done, in this order.
pub(super) enum Job {
    /// Apply a frame; or prepare it, if it is not to be applied in order.
    Apply { session: SessionId, sequence: Sequence, frame: Frame, in_order: bool },
    /// Write what the ring could not.
    Write { session: SessionId, sequence: Sequence, writing: Writing },
    /// From now on keep what is overwritten or removed aside under that name; none: no more.
    KeepAside(Option<String>),
    /// Open files that are to be synced for a barrier.
    Open { session: SessionId, barrier: Sequence, files: Vec<(FileId, bool)> },
    /// Something is under way that changes files: see [`Applier::set`].
    Vouch,
}

/// What the applier tells.
pub enum Told {
    /// A frame was applied.
    Applied {
        session: SessionId,
        sequence: Sequence,
        outcome: Result<AppliedOutcome, ReplicaError>,
        what: What,
    },
    /// A frame is to be begun that is applied beside others.
    Prepared { session: SessionId, sequence: Sequence, beside: Beside },
    /// What is to be synced for a barrier.
    Opened { session: SessionId, barrier: Sequence, targets: Vec<Target> },
}

/// A file that is to be synced; `true`: its data suffices.
pub type Target = (Result<SyncTarget, ReplicaError>, bool);

/// What of an applied frame the data plane has to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A directory was listed.
    List,
    /// The end of a resync.
    End,
    /// Anything else.
    Other,
}

/// A frame that is applied beside others.
pub enum Beside {
    /// On the ring.
    Write(Writing),
    /// By a worker.
    Compare { header: Header, digests: Shared },
    /// By a worker that nobody waits for.
    Verify { header: Header, seen: Shared },
}

/// Bytes on their way into a file.
pub struct Writing {
    pub header: Header,
    pub descriptor: Arc<OwnedFd>,
    pub bytes: Shared,
}

/// The thread's handle.
pub(super) struct Applier {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    /// Files may be changed by others than the thread.
    changes: AtomicBool,
    /// Somebody waits.
    awaited: AtomicBool,
}

impl Applier {
    /// Start the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        replica: Arc<Replica>,
        mailbox: Arc<Mailbox<Message>>,
        vouched: Arc<Vouched>,
        limit: Limit,
    ) -> io::Result<Applier> {
        let (jobs, receiver) = mpsc::channel();
        let shared = Arc::new(Flags::default());
        let mut work = Work {
            replica,
            mailbox,
            vouched,
            limit,
            shared: Arc::clone(&shared),
            priority: Priority::default(),
            not_kept: None,
            failed: None,
            unheard: 0,
        };
        let thread = thread::Builder::new().name("applier".to_owned()).spawn(move || work.run(&receiver))?;
        Ok(Applier { jobs: Some(jobs), thread: Some(thread), shared })
    }

    /// Have something done after all that was ordered before.
    pub fn order(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after `jobs` is gone, so the receiver is there.
            let _ = jobs.send(job);
        }
    }

    /// Whether the ring or workers change files of the copy now, and whether somebody waits.
    pub fn set(&self, changes: bool, awaited: bool) {
        self.shared.awaited.store(awaited, Ordering::Relaxed);
        if changes && !self.shared.changes.swap(true, Ordering::Relaxed) {
            self.order(Job::Vouch);
        } else if !changes {
            self.shared.changes.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Work {
    replica: Arc<Replica>,
    mailbox: Arc<Mailbox<Message>>,
    vouched: Arc<Vouched>,
    /// How much may be kept aside.
    limit: Limit,
    shared: Arc<Flags>,
    priority: Priority,
    /// Why nothing can be kept aside, though it is to be: the stream that begins next is not applied.
    not_kept: Option<ReplicaError>,
    /// The session of which something could not be applied: nothing more of it is.
    failed: Option<SessionId>,
    /// Answers since the data-plane thread was woken.
    unheard: usize,
}

impl Work {
    fn run(&mut self, jobs: &Receiver<Job>) {
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => Ok(job),
                None if self.shared.changes.load(Ordering::Relaxed) => jobs.recv_timeout(MOMENT_LEFT),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            self.priority.set(self.shared.awaited.load(Ordering::Relaxed));
            self.vouched.applies(Instant::now());
            let answer = match job {
                Ok(job) => self.perform(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            next = jobs.try_recv().ok();
            if let Some(answer) = answer {
                self.mailbox.post(Message::Copy(answer));
                self.unheard += 1;
            }
            if self.unheard > 0 && (next.is_none() || self.unheard >= ANSWERS) {
                self.unheard = 0;
                self.mailbox.wake();
            }
        }
    }

    fn perform(&mut self, job: Job) -> Option<Told> {
        let (session, sequence, what, outcome) = match job {
            Job::Vouch => return None,
            Job::KeepAside(id) => {
                self.not_kept = self.replica.keep_aside(id.as_deref(), self.limit).err();
                return None;
            }
            Job::Open { session, barrier, files } => {
                let target = |(file, data_only)| (self.replica.sync_target(file), data_only);
                let targets = files.into_iter().map(target).collect();
                return Some(Told::Opened { session, barrier, targets });
            }
            // The core was told of the failure before it is of this, and waits for no more than that it is over.
            Job::Apply { session, sequence, .. } | Job::Write { session, sequence, .. }
                if self.failed == Some(session) =>
            {
                (session, sequence, What::Other, Ok(AppliedOutcome::Done))
            }
            Job::Apply { session, sequence, frame, in_order } => {
                let what = match &frame {
                    Frame::Namespace(Operation::List { .. }) => What::List,
                    Frame::ResyncEnd => What::End,
                    _ => What::Other,
                };
                match self.apply(frame, in_order) {
                    Ok(Done::Prepared(beside)) => return Some(Told::Prepared { session, sequence, beside }),
                    Ok(Done::Applied(outcome)) => (session, sequence, what, Ok(outcome)),
                    Err(error) => (session, sequence, what, Err(error)),
                }
            }
            Job::Write { session, sequence, writing: Writing { header, descriptor, bytes } } => {
                let written = self.replica.write(header.file, &descriptor, header.offset, &bytes);
                (session, sequence, What::Other, written.map(|()| AppliedOutcome::Done))
            }
        };
        if outcome.is_err() {
            self.failed = Some(session);
        }
        Some(Told::Applied { session, sequence, outcome, what })
    }

    fn apply(&mut self, frame: Frame, in_order: bool) -> Result<Done, ReplicaError> {
        let outcome = match frame {
            Frame::Data { header, bytes } => return self.write(header, bytes, in_order),
            Frame::Digests { header, digests } => {
                return Ok(Done::Prepared(Beside::Compare { header, digests }));
            }
            Frame::Verify { header, seen } => return Ok(Done::Prepared(Beside::Verify { header, seen })),
            Frame::Hole { header } => self
                .replica
                .apply_hole(header.file, Extent::at(header.offset, header.length))
                .map(|_| AppliedOutcome::Done),
            Frame::Attributes { header, attributes } => {
                self.replica.apply_attributes(header.file, &attributes).map(|_| AppliedOutcome::Done)
            }
            Frame::Namespace(operation) => self.replica.apply_namespace(&operation),
            Frame::Copies(copies, last) => {
                self.replica.take_over(&copies, last).map(|()| AppliedOutcome::Done)
            }
            Frame::ResyncEnd => self.replica.end_resync().map(|()| AppliedOutcome::Done),
            Frame::Begin(begin, roots) => self.begin(begin, &roots).map(|()| AppliedOutcome::Done),
        };
        outcome.map(Done::Applied)
    }

    fn write(&self, header: Header, bytes: Shared, in_order: bool) -> Result<Done, ReplicaError> {
        let Some(descriptor) = self.replica.descriptor(header.file)? else {
            // The file was removed by a later operation of the primary that is already applied; see storage::replica.
            return Ok(Done::Applied(AppliedOutcome::Done));
        };
        let range = Extent::at(header.offset, header.length);
        self.replica.keep_range(header.file, descriptor.as_fd(), range)?;
        if !in_order {
            return Ok(Done::Prepared(Beside::Write(Writing { header, descriptor, bytes })));
        }
        self.replica.write(header.file, &descriptor, header.offset, &bytes)?;
        Ok(Done::Applied(AppliedOutcome::Done))
    }

    fn begin(&mut self, begin: Begin, roots: &[FileId]) -> Result<(), ReplicaError> {
        if let Some(error) = self.not_kept.take() {
            return Err(error);
        }
        match begin {
            Begin::Resumed => {
                self.replica.resume();
                return Ok(());
            }
            Begin::Anew => self.replica.begin_resync(),
            Begin::Succeeded => self.replica.begin_succession(),
        }
        roots.iter().try_for_each(|root| self.replica.set_root(*root))
    }
}

/// What became of a frame.
enum Done {
    Applied(AppliedOutcome),
    Prepared(Beside),
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use replicator_core::ids::{FileKind, VolumeId};
    use replicator_core::wire::namespace::NewNode;

    use super::*;
    use crate::uring::Ring;
    use crate::volume::Volume;

    const FIRST: SessionId = SessionId(1);
    const SECOND: SessionId = SessionId(2);

    fn file(inode: u64) -> FileId {
        FileId { volume: VolumeId(0), inode }
    }

    fn make(session: SessionId, sequence: u64, parent: u64, name: &str) -> Job {
        let node = NewNode {
            file: file(100 + sequence),
            kind: FileKind::Regular,
            mode: 0o600,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
        };
        let operation = Operation::Create { parent: file(parent), name: name.as_bytes().to_vec(), node };
        let frame = Frame::Namespace(operation);
        Job::Apply { session, sequence: Sequence(sequence), frame, in_order: true }
    }

    /// What becomes of these jobs, in a directory whose root is the primary's file 1.
    fn outcomes(place: &Path, jobs: impl IntoIterator<Item = Job>) -> Vec<(SessionId, Sequence, bool)> {
        let volume = Arc::new(Volume::open(VolumeId(0), place).unwrap());
        let ring = Ring::new(8).unwrap();
        let mailbox = Arc::new(Mailbox::new(ring.waker()));
        let replica = Arc::new(Replica::new(vec![volume]));
        let limit = Limit { bytes: 0, drops: false };
        let applier = Applier::start(replica, Arc::clone(&mailbox), Arc::default(), limit).unwrap();
        let frame = Frame::Begin(Begin::Anew, vec![file(1)]);
        applier.order(Job::Apply { session: FIRST, sequence: Sequence(1), frame, in_order: true });
        jobs.into_iter().for_each(|job| applier.order(job));
        // Ends when all is done.
        drop(applier);
        let mut told = Vec::new();
        mailbox.take(&mut told);
        let outcome = |message| match message {
            Message::Copy(Told::Applied { session, sequence, outcome, .. }) => {
                (session, sequence, outcome.is_ok())
            }
            _ => panic!("only frames that are applied in order were ordered"),
        };
        told.into_iter().map(outcome).collect()
    }

    #[test]
    fn nothing_of_a_session_is_applied_after_what_failed_and_all_is_answered_in_order() {
        if !nix::unistd::geteuid().is_root() {
            return println!("not run: needs root (file handles)");
        }
        let place = tempfile::tempdir().unwrap();
        let found = outcomes(
            place.path(),
            [
                make(FIRST, 2, 1, "before"),
                make(FIRST, 3, 77, "in a directory that nobody knows"),
                make(FIRST, 4, 1, "after"),
                make(SECOND, 1, 1, "of the next session"),
            ],
        );
        let expected =
            [(FIRST, 1, true), (FIRST, 2, true), (FIRST, 3, false), (FIRST, 4, true), (SECOND, 1, true)];
        assert_eq!(found, expected.map(|(session, sequence, done)| (session, Sequence(sequence), done)));
        assert!(place.path().join("before").exists());
        assert!(!place.path().join("after").exists(), "applied to a copy that misses what was before");
        assert!(place.path().join("of the next session").exists());
    }
}
