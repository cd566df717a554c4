//! Things that happened: everything [`crate::node::Node`] is ever told.

use alloc::vec::Vec;

use crate::extent::Extent;
use crate::ids::{
    EntryId, Errno, FileId, FileKind, LocalSyncId, PersistId, ReadId, Sequence, SessionId, Term, Ticket,
    VolumeId,
};
use crate::verify::{Looked, Verdict, VerifyRequest};
use crate::wire::header::Header;

/// One thing that happened. The first group only marks; every other event also runs the scheduler.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Event {
    // ---- capture (primary) -------------------------------------------------------------------------
    /// These bytes may have changed through a path whose completion is visible (write, truncate, punch, ...).
    /// The file's attributes (size, times) are marked with it.
    WriteTraced { file: FileId, extent: Extent },
    /// A page of a shared mapping became dirty. Later stores to it are silent until a local sync
    /// write-protects it again: it must be read after a local sync that began after this event.
    StoreMapped { file: FileId, extent: Extent },
    /// Mode, owner, size, times or extended attributes may have changed.
    AttributesChanged { file: FileId },
    /// Events about this file may have been lost, or its number was found to belong to another file than before: all of it
    /// is to be compared (of a directory, all below it).
    CaptureLost { file: FileId },
    /// The edge holds one more encoded namespace operation under `entry`. Arrives in the order in which
    /// the operations happened (the edge takes both under one lock).
    NamespaceLogged { entry: EntryId, change: NamespaceChange },
    /// The directory's list of names changed in a way no operation describes: read it again.
    DirectoryChanged { directory: FileId },
    /// Last name and last open are gone: its marks are worth nothing any more.
    FileForgotten { file: FileId },
    /// Something changed in the tree, or may have, that no other event tells of: the next session compares everything. It does not
    /// end the present one. `lasting`: more may follow, so that each session does.
    Untold { lasting: bool },

    // ---- operator (primary) ------------------------------------------------------------------------
    /// What the peer had when the nodes met last is to be replaced by this node's data, though it was found that this must not be. Means
    /// nothing where that was not found.
    Overrule,

    // ---- whoever decides which node is the primary ---------------------------------------------------
    /// To a primary with [`crate::config::WhenAlone::Ask`]: it may go on alone, as the primary of this term, until both nodes hold the same. Passed
    /// over with a lower term than its own, while both nodes hold the same or are about to, and if `absence` is not the number of the present
    /// absence of the peer ([`crate::snapshot::Snapshot::asks`]; none: whichever it is). So what is said late is never taken for a later absence.
    /// To one that does not ask because it runs alone already, 0 for the absence gives a higher term: that of a peer that yielded to it, and would not
    /// listen to a lower one.
    GoAlone { term: Term, absence: Option<u64> },
    /// To a secondary: the primary may go on without it, in this term. It ends the session, and its record says so as soon as it is durable
    /// ([`crate::snapshot::Snapshot::record`]). Passed over with a lower term than its own.
    Outdate { term: Term },

    // ---- gate (primary) ----------------------------------------------------------------------------
    /// A caller waits. Answered by exactly one `Action::ReleaseBarrier` with the same ticket.
    SyncRequested { ticket: Ticket, scope: SyncScope },

    // ---- operator (primary) --------------------------------------------------------------------------
    /// Compare both copies now, while the mirror goes on. Ignored while another such comparison is under way; how it stands
    /// is in the snapshot.
    VerifyRequested(VerifyRequest),
    /// End the comparison.
    VerifyStopped,
    /// These files are to be compared (of directories, all below them) though nothing is known to differ, and what is marked is to
    /// be sent now, without waiting for more: in this session, or without one in the next, which is tried at once. `number` tells it from
    /// others; how it stands is in the snapshot.
    ResyncRequested { number: u64, files: Vec<FileId> },

    // ---- completions (primary) ---------------------------------------------------------------------
    /// Answer to `Action::SyncLocal`.
    LocalSynced { sync: LocalSyncId, result: Result<(), Errno> },
    /// Answer to `Action::ReadExtent`.
    ExtentRead { read: ReadId, outcome: ReadOutcome<Vec<Segment>> },
    /// Answer to `Action::ReadAttributes`; the edge holds the encoded attributes under `read`. The number is the size
    /// among them in bytes (zero for anything but a regular file): what was found to lie beyond the end of the file, but lies before this size, is read again.
    AttributesRead { read: ReadId, outcome: ReadOutcome<u64> },
    /// Answer to `Action::ReadDigests`; the edge holds the encoded digests under `read`. `end` is the end of
    /// the range that was digested (the file may be shorter than asked; then the rest needs nothing).
    DigestsRead { read: ReadId, outcome: ReadOutcome<Extent> },
    /// Answer to `Action::ReadDirectory`, in the order of `NamespaceLogged`. Right before it the edge has logged the directory's current names as
    /// one or more `NamespaceChange::Listed`: no operation that is not in the list is told before this.
    DirectoryRead { read: ReadId, outcome: ReadOutcome<()> },
    /// Answer to `Action::ReadVerify`; the edge holds the encoded payload under `read`. For names it stands in the order of
    /// `NamespaceLogged`: the names are those at this point.
    VerifyRead { read: ReadId, outcome: ReadOutcome<Looked> },
    /// Answer to `Action::AwaitCapture`: everything that was done to the file before the order was told.
    CaptureAwaited { read: ReadId },
    /// Answer to `Action::PersistState`: durable, or it could not be made so.
    StatePersisted { persist: PersistId, result: Result<(), Errno> },

    // ---- link (both) -------------------------------------------------------------------------------
    /// A peer that proved membership is connected; frames may flow. `version` is the negotiated one.
    SessionOpened { session: SessionId, version: u16 },
    /// A whole frame arrived and its checksums hold. `body` is what the core needs to know of the payload.
    FrameReceived { session: SessionId, header: Header, body: ReceivedBody },
    /// All frames up to this one were handed to the kernel.
    FramesSent { session: SessionId, upto: Sequence },
    /// The connection is gone, or could not be made (then `session` is the one that was dialled).
    SessionLost { session: SessionId },

    // ---- replica (secondary) -----------------------------------------------------------------------
    /// Answer to `Action::Apply`.
    Applied { session: SessionId, sequence: Sequence, outcome: Result<AppliedOutcome, Errno> },
    /// Answer to `Action::MakeDurable`.
    MadeDurable { session: SessionId, barrier: Sequence, result: Result<(), Errno> },

    /// Others changed the copy: the next session is to compare everything.
    CopyChanged,

    // ---- end (both) --------------------------------------------------------------------------------
    /// The node is to end in order: the session is closed, and none is opened any more. When [`crate::node::Node::is_at_rest`],
    /// [`crate::node::Node::checkpoint`] says what the next run may go on from.
    Stop,

    // ---- time --------------------------------------------------------------------------------------
    /// Nothing happened, but the batch is over or `next_deadline` was reached.
    Tick,
}

/// What a waiting caller asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncScope {
    /// fsync (`data_only: false`) or fdatasync (`true`) of a file, or fsyncdir of a directory.
    File {
        /// The file or directory.
        file: FileId,
        /// fdatasync: attributes other than the size need not be durable.
        data_only: bool,
    },
    /// Everything of a volume (sync, syncfs, end of a resync, orderly stop).
    Volume(VolumeId),
}

/// How a read of a file's state ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadOutcome<T> {
    /// The state, as it was at some moment after the read began.
    Read(T),
    /// The file does not exist any more.
    Gone,
    /// The file system refused.
    Failed(Errno),
}

/// One piece of an extent that was read, in ascending order and without gaps. What lies between the end of the
/// last segment and the end of the asked extent was beyond the end of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The bytes it covers.
    pub extent: Extent,
    /// What they are.
    pub content: SegmentContent,
}

/// What a piece of a file consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentContent {
    /// Bytes, held by the edge under the read's number.
    Data,
    /// Nothing is allocated there (lseek(2), SEEK_HOLE).
    Hole,
}

/// What the core needs to know of a namespace operation; names stay with the edge.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum NamespaceChange {
    /// A new file of any kind.
    Created { parent: FileId, file: FileId, kind: FileKind },
    /// One more name for a file (also the first one of an O_TMPFILE).
    Linked { parent: FileId, file: FileId, kind: FileKind },
    /// A name is gone (unlink, rmdir). `last`: the file has no name left.
    Unlinked { parent: FileId, file: FileId, last: bool },
    /// A file has another name now. With `exchanged`, `other` took the old name; else `other` is the file that was
    /// replaced and `other_last` tells whether it has no name left.
    Renamed {
        old_parent: FileId,
        new_parent: FileId,
        file: FileId,
        other: Option<FileId>,
        other_last: bool,
        exchanged: bool,
    },
    /// (A part of) the complete list of a directory's names, as it was at this point of the log.
    Listed { directory: FileId, first: bool, last: bool, children: Vec<(FileId, FileKind)> },
}

impl NamespaceChange {
    /// The directories whose names the operation changed; none for a list.
    pub(crate) fn directories(&self) -> impl Iterator<Item = FileId> + use<> {
        let (one, other) = match *self {
            NamespaceChange::Created { parent, .. }
            | NamespaceChange::Linked { parent, .. }
            | NamespaceChange::Unlinked { parent, .. } => (Some(parent), None),
            NamespaceChange::Renamed { old_parent, new_parent, .. } => (Some(old_parent), Some(new_parent)),
            NamespaceChange::Listed { .. } => (None, None),
        };
        one.into_iter().chain(other)
    }
}

/// What the core needs to know of a received payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceivedBody {
    /// Nothing: the header says all, or the payload is for the edge alone.
    Opaque,
    /// A namespace operation (kind `Namespace`).
    Namespace(NamespaceChange),
    /// A small body that the core itself encodes and decodes (see `wire::body`).
    Structured(Vec<u8>),
}

/// What an apply on the secondary brought to light.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AppliedOutcome {
    /// Done.
    Done,
    /// Digests were compared: these extents differ (for the primary to send).
    Differs(Vec<Extent>),
    /// (A part of) a directory's list was applied: these files, of any kind, were not there and are new and empty now. All
    /// of their state is to be sent, and nothing is to be compared. The answer to the last part need not repeat those of
    /// the parts before.
    Created(Vec<FileId>),
    /// A part was compared with what the primary has.
    Verified(Verdict),
}
