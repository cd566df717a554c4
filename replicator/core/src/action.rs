//! Orders to the edges: everything [`crate::node::Node`] ever asks for.

use alloc::vec::Vec;

use crate::event::SyncScope;
use crate::extent::Extent;
use crate::ids::{
    EntryId, Errno, FileId, LocalSyncId, PersistId, ReadId, Sequence, SessionId, Term, Ticket, VolumeId,
};
use crate::lineage::{GenerationId, Lineage};
use crate::resume::{Beginning, Held};
use crate::reunion::Reunion;
use crate::verify::{Difference, VerifyPart};
use crate::wire::header::Header;
use crate::wire::hello::Role;

/// One order. Orders are carried out in the order given; those with an answer name the event that answers.
#[derive(Clone, PartialEq, Eq, Debug)]
// The state record is by far the largest; it is ordered rarely, and moved as a whole.
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Action {
    // ---- primary -----------------------------------------------------------------------------------
    /// fdatasync (`data_only`) or fsync the scope on this node. Answer: `LocalSynced`.
    SyncLocal { sync: LocalSyncId, scope: SyncScope },
    /// Read the current state of an extent. Answer: `ExtentRead`. `extent.end` may be `Extent::END`-clipped by the
    /// core to its read size; the edge stops at the end of the file. A file that is not a regular one has no bytes: the answer
    /// is `Read` of nothing, as also for `ReadDigests`.
    ReadExtent { read: ReadId, file: FileId, extent: Extent },
    /// Read the current attributes. Answer: `AttributesRead`.
    ReadAttributes { read: ReadId, file: FileId },
    /// Digest the current content of an extent, block by block. Answer: `DigestsRead`.
    ReadDigests { read: ReadId, file: FileId, extent: Extent },
    /// List a directory under the namespace lock. Answer: `NamespaceLogged` (`Listed`), then `DirectoryRead`.
    ReadDirectory { read: ReadId, directory: FileId },
    /// Read what is to be verified: encoded as the digest of it, or, `fine`, so that the answer can tell details (of contents:
    /// which of their smallest blocks differ). Names are read under the namespace lock, and answered in the order of the log. Answer:
    /// `VerifyRead`.
    ReadVerify { read: ReadId, file: FileId, part: VerifyPart, fine: bool },
    /// Wait for those who are changing the file now, then tell all that was captured. Answer: `CaptureAwaited`.
    AwaitCapture { read: ReadId, file: FileId },
    /// Both copies of the file differ: for the operator's report.
    ReportDifference { file: FileId, difference: Difference },
    /// The bytes held under this read are not needed any more (all of its frames were ordered before, or none will be).
    DropRead { read: ReadId },
    /// The operation held under this entry will not be sent.
    DropEntry { entry: EntryId },
    /// Let the caller go with this result.
    ReleaseBarrier { ticket: Ticket, result: Result<(), Errno> },

    // ---- both --------------------------------------------------------------------------------------
    /// Make the record durable (aside, sync, rename, sync of the directory). Answer: `StatePersisted`.
    PersistState { persist: PersistId, record: StateRecord },
    /// Connect to the peer. Answer: `SessionOpened` or `SessionLost` with the same session number.
    Dial { session: SessionId },
    /// Put a frame into the stream. The edge fills in payload length and both checksums.
    SendFrame { session: SessionId, header: Header, body: Body },
    /// Close the connection; what is queued is worth nothing. No `SessionLost` follows.
    CloseSession { session: SessionId, reason: CloseReason },
    /// Tell the operator (log, status). Nothing depends on it.
    Report(Notice),

    // ---- secondary ---------------------------------------------------------------------------------
    /// Apply the received frame with this sequence, whose payload the edge holds. Answer: `Applied`.
    ///
    /// Those `in_order` are applied one after the other, and answered, in the order of their orders. Of the others several may run at
    /// once, and beside these: but none begins before all that are in order and were ordered before it have ended. What conflicts and
    /// is not kept apart by that is not ordered before the other has been answered. After one in order that failed nothing of its session is begun any
    /// more; what was ordered after it is answered after it, and it does not matter how.
    Apply { session: SessionId, sequence: Sequence, in_order: bool },
    /// From the next `Apply` on, keep aside what is overwritten or removed, as that of this generation; none: no more.
    KeepAside { of: GenerationId },
    /// Make this durable. Answer: `MadeDurable`.
    MakeDurable { session: SessionId, barrier: Sequence, scope: DurableScope },
}

/// Where a frame's payload comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Body {
    /// No payload.
    Empty,
    /// These bytes of the file, held under `read`.
    ReadData { read: ReadId, extent: Extent },
    /// All that is held under `read` (attributes, digests).
    Read { read: ReadId },
    /// The namespace operation held under `entry`, which is given up with it.
    Entry { entry: EntryId },
    /// A small body encoded by the core.
    Structured(Vec<u8>),
}

/// What a barrier asks the secondary to make durable. Directories touched by namespace operations are already in
/// the lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DurableScope {
    /// These files and directories; `true` = data and size suffice (fdatasync).
    Files(Vec<(FileId, bool)>),
    /// All of a volume (syncfs).
    Volume(VolumeId),
    /// All volumes.
    Everything,
}

/// Why a session was closed by this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// Nothing was heard for the dead time.
    PeerSilent,
    /// A barrier was not answered within the limit.
    BarrierLate,
    /// The peer sent something that makes no sense here.
    Protocol(&'static str),
    /// The peer reported that it could not apply or make durable.
    PeerFailed(Errno),
    /// This node could not apply or make durable.
    LocalFailure(Errno),
    /// The peer's term is higher: this node's primacy is over.
    StaleTerm,
    /// This primary was told to go on alone, under another term: a stream has one.
    GoingAlone,
    /// This secondary was told that the primary may go on without it.
    Outdated,
    /// Orderly end.
    Stopping,
    /// By what both nodes say of their data, the primary's must not overwrite this node's.
    NotTheSource,
}

/// A term beyond [`crate::ids::COUNTED_MAX`].
pub(crate) const IMPOSSIBLE_TERM: &str = "an impossible term";

/// What must survive a crash of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateRecord {
    /// Number of this primacy.
    pub term: Term,
    /// Where its data comes from; a new generation is begun before this node goes on alone.
    pub lineage: Lineage,
    /// Whether this node's copy can be relied on.
    pub data: DataState,
    /// Whether this node runs alone: fsyncs are answered without the peer.
    pub alone: bool,
    /// In which role the node ran, or runs, that wrote this.
    pub role: Option<Role>,
    /// It runs as the primary; after a start that finds this, it has crashed.
    pub running: bool,
    /// An earlier run as the primary did not end in order, and both nodes have not held the same since.
    pub crashed: bool,
    /// An earlier state of this node could not be used, and its data was not compared since.
    pub lost: bool,
    /// Data of this generation is being replaced by the peer's, and what only this node had is kept aside; none: nothing is.
    pub keeping: GenerationId,
    /// The position that was durable on both nodes when the last session ended. Tells people; nothing relies on it.
    pub synced: Option<Held>,
}

impl StateRecord {
    /// That of a node that has never run: its copy is not to be relied on.
    #[must_use]
    pub fn unknown() -> StateRecord {
        StateRecord {
            term: Term(0),
            lineage: Lineage::default(),
            data: DataState::Inconsistent,
            alone: false,
            role: None,
            running: false,
            crashed: false,
            lost: false,
            keeping: GenerationId::NONE,
            synced: None,
        }
    }
}

/// State of a node's copy.
///
/// ```text
/// Inconsistent --resync done--> UpToDate --peer may go on alone--> Outdated --resync begins--> Inconsistent
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum DataState {
    /// A resync onto this copy was begun and not finished, or nothing is known about it.
    Inconsistent = 0,
    /// Whole, but the peer may have gone on without it.
    Outdated = 1,
    /// Whole, and nobody is known to have anything newer.
    Consistent = 2,
    /// Holds everything that was acknowledged.
    UpToDate = 3,
}

impl DataState {
    /// The state with that number on the wire and on disk.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<DataState> {
        Some(match value {
            0 => DataState::Inconsistent,
            1 => DataState::Outdated,
            2 => DataState::Consistent,
            3 => DataState::UpToDate,
            _ => return None,
        })
    }
}

/// State changes an operator wants to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Notice {
    /// Replication phase changed.
    Phase { from: Phase, to: Phase },
    /// A session begins in this way.
    Begun { beginning: Beginning },
    /// No session begins: an operator has to say whose data both nodes shall have. Reported once for each such finding.
    Refused { reunion: Reunion },
    /// An operator said that this primary's data is to replace the peer's, and it does.
    Overruled { reunion: Reunion },
    /// A peer with a higher term was heard: this node's primacy is over, and it lets nobody go.
    Deposed { term: Term },
    /// A file's marks were widened because events were lost or there were too many extents.
    Widened { file: FileId },
    /// Held fsyncs were released with an error because no decision came in time.
    HoldExpired { tickets: u32 },
    /// A file's state could not be read; its marks stay and it is tried again later.
    ReadFailed { file: FileId, errno: Errno },
    /// The state record could not be made durable; it is tried again, and what depends on it waits.
    PersistFailed { errno: Errno },
}

/// Where the mirror stands, seen from this node.
///
/// ```text
///  primary:   Alone --session--> Resyncing --all compared, barrier answered, recorded--> Mirrored
///               ^                    |                                                      |
///               +----- recorded -----+------------------ session lost ----------------------+
///                                    (policy "hold": Holding until a session or the limit)
///  secondary: Waiting --session--> Receiving --resync done, recorded--> Following --session lost--> Waiting
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Phase {
    /// Primary: runs alone, durably recorded; fsyncs are answered locally.
    Alone,
    /// Primary: no peer and not alone: fsyncs are held.
    Holding,
    /// Primary: the peer is connected and being brought up to date; fsyncs are answered locally if alone was recorded.
    Resyncing,
    /// Primary: both nodes hold everything; fsyncs wait for the peer.
    Mirrored,
    /// Secondary: no primary connected.
    Waiting,
    /// Secondary: being brought up to date.
    Receiving,
    /// Secondary: up to date.
    Following,
}
