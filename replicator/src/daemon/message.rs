//! What other threads tell the data-plane thread.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use replicator_core::event::{Event, ReadOutcome, SyncScope};
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId, ReadId, Sequence, SessionId, Term};
use replicator_core::recovery::Recovered;
use replicator_core::succession::Legacy;
use replicator_core::verify::{Looked, VerifyRequest};
use replicator_core::wire::namespace::Operation;

use super::register;
use super::safe_set::Idle;
use super::secondary;
use super::settling::Look;
use super::told::Answer;
use crate::control::ResyncScope;
use crate::gate::sink::SyncReply;
use crate::gate::{Counters, GateReport};
use crate::link::handshake::Established;
use crate::notify::Change;
use crate::notify::local_changes::Found;
use crate::storage::survey::Fingerprints;

/// One message to a data-plane thread.
pub enum Message {
    /// A namespace operation was done, or a part of a directory's list was taken; posted under the namespace lock.
    Namespace(Operation),
    /// The gate changed these bytes itself.
    Written {
        /// The file.
        file: FileId,
        /// The bytes.
        extent: Extent,
    },
    /// The gate changed attributes itself.
    Attributes(FileId),
    /// Last name and last open are gone.
    Forgotten(FileId),
    /// A caller waits.
    Sync {
        /// For what.
        scope: SyncScope,
        /// The file on the covered file system.
        backing: Arc<OwnedFd>,
        /// How it is let go.
        reply: SyncReply,
    },
    /// Others than this process changed files, posted under the namespace lock.
    Behind {
        /// What was changed.
        changes: Vec<Change>,
        /// Where the last one was, from the volume's root on, if that is known.
        last: Option<String>,
    },
    /// A caller waits for a file that is left out of the tree: for this node's sync alone.
    SyncHere {
        /// The file on the covered file system.
        backing: Arc<OwnedFd>,
        /// fdatasync.
        data_only: bool,
        /// How it is let go.
        reply: SyncReply,
    },
    /// What came into the tree, or left it, could not be told: both trees are to be compared.
    Untold,
    /// A worker's digests.
    Digests {
        /// Which read.
        read: ReadId,
        /// The range that was digested.
        outcome: ReadOutcome<Extent>,
        /// The encoded digests.
        payload: Vec<u8>,
    },
    /// A worker's reading for a verification; that of names is posted under the namespace lock.
    VerifyRead {
        /// Which read.
        read: ReadId,
        /// What was read.
        outcome: ReadOutcome<Looked>,
        /// The encoded payload.
        payload: Vec<u8>,
    },
    /// All that was captured before this was posted is to be told first.
    CaptureAwaited(ReadId),
    /// Compare both copies.
    Verify(VerifyRequest),
    /// End that.
    StopVerify,
    /// Bring the peer up to date.
    Resync {
        /// Tells it from others.
        number: u64,
        /// In which respect.
        what: ResyncScope,
    },
    /// That could not be begun.
    ResyncFailed {
        /// Which.
        number: u64,
        /// Why not.
        why: String,
    },
    /// What became of frames that were to be applied to the copy.
    Copy(secondary::Told),
    /// A worker made volumes durable for a barrier.
    Synced {
        /// Whose barrier it was.
        session: SessionId,
        /// Which one.
        barrier: Sequence,
        /// Whether it could.
        result: Result<(), Errno>,
    },
    /// What had changed in the register is on record, or nothing of it is gone on from.
    Recorded {
        /// The barrier that waits for it.
        told: Option<(SessionId, Sequence)>,
        /// Whether either is so.
        result: Result<(), Errno>,
    },
    /// How the register stands.
    Register(register::Told),
    /// What a worker or the gate has to say that is an event as it stands.
    Answer(Event),
    /// What lists took away was deleted.
    OrphansDeleted {
        /// Not now.
        left: bool,
    },
    /// A dialled connection is ready.
    Connected {
        /// The session it was dialled for.
        session: SessionId,
        /// The connection.
        established: Box<Established>,
    },
    /// A peer connected to us and proved membership.
    Accepted {
        /// The connection.
        established: Box<Established>,
    },
    /// A connection could not be made.
    DialFailed {
        /// The session it was dialled for.
        session: SessionId,
    },
    /// Somebody who could not prove membership was turned away.
    Stranger,
    /// What the gates look like: once they are mounted, and when their strict files have changed; with their running counts.
    Gates(Vec<(GateReport, Arc<Counters>)>),
    /// What is mounted inside each volume has changed.
    NestedMounts(Vec<Vec<PathBuf>>),
    /// Others changed the copy.
    LocalChanges(Found),
    /// An operator says that this primary's data is to replace the peer's.
    Overrule {
        /// Why.
        reason: String,
    },
    /// This primary may go on alone.
    GoAlone {
        /// As the primary of this term.
        term: Term,
        /// In this absence of its peer; none: whichever it is.
        absence: Option<u64>,
        /// Told when it is on record.
        answer: Answer,
    },
    /// The primary may go on without this secondary.
    Outdate {
        /// In this term.
        term: Term,
        /// Told when it is on record.
        answer: Answer,
    },
    /// Delete what was kept aside under that name.
    Discard {
        /// The name.
        id: String,
    },
    /// What was kept by an earlier run was looked at, and what was changed since is told. `None`: it does not hold, everything is to be compared.
    Prepared(Option<Known>),
    /// The safe set records from now on, or does not.
    SafeSetBegun(io::Result<u64>),
    /// The safe set is at work, or is not.
    SafeSetEstablished(io::Result<()>),
    /// Members of the safe set that were synced, with what they look like.
    Looked(Vec<(Idle, Look)>),
    /// What all files look like, for the next run.
    Surveyed(io::Result<Vec<Fingerprints>>),
    /// End in order.
    Stop {
        /// What tells of changes that others make. When it is dropped, it has told all it saw.
        watch: Box<dyn Send>,
        /// Whether that may go on from what this one knows.
        next: Next,
    },
}

/// What follows from what was kept, for the core.
pub enum Known {
    /// Nothing more.
    All,
    /// Of a secondary that was the primary: what may differ.
    Legacy(Box<Legacy>),
    /// Of a secondary that crashed: what is not as it was on record.
    Recovered(Recovered),
}

/// What is known of the next run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Something has failed: it goes on from nothing.
    Anew,
    /// It has the same role.
    Same,
    /// It has the other role, and the application waits for it.
    Other,
}

impl Message {
    /// Whether everything that happened before it was posted is to be known when it is handled.
    pub fn is_exact(&self) -> bool {
        matches!(
            self,
            Message::Sync { .. }
                | Message::Stop { .. }
                | Message::CaptureAwaited(_)
                | Message::SafeSetBegun(_)
                | Message::Looked(_)
        )
    }
}
