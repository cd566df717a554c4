//! A node's state as an operator sees it. Nothing is decided by it.

use crate::action::{Phase, StateRecord};
use crate::ids::{Sequence, Term};
use crate::resume::Beginning;
use crate::reunion::{Account, Reunion};
use crate::verify::VerifyProgress;
use crate::wire::body::Ack;

/// Where a node stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Where the mirror stands, seen from this node.
    pub phase: Phase,
    /// The record that was last known to be durable.
    pub record: StateRecord,
    /// What this node says of its data to its peer, and to whoever decides which of the two is the primary.
    pub account: Account,
    /// A primary that is held until it is told that it may go on alone: the number of the present absence of its peer, from 1 on.
    pub asks: Option<u64>,
    /// A primary that heard of this higher term, and lets nobody go.
    pub deposed: Option<Term>,
    /// Positions in the stream of the session; all zero without one.
    pub positions: Positions,
    /// Files with marks (primary).
    pub dirty_files: u64,
    /// Bytes in marks that are neither being read nor under way; ranges to the end of a file count nothing (primary).
    pub dirty_bytes: u64,
    /// Bytes sent and not confirmed durable (primary).
    pub in_flight_bytes: u64,
    /// Bytes being read or sent and not yet applied by the peer (primary).
    pub window_bytes: u64,
    /// Callers that wait for durability (primary).
    pub waiting: u64,
    /// Progress of the resync (primary).
    pub resync: ResyncProgress,
    /// The resync that an operator asked for last (primary).
    pub asked: Option<AskedProgress>,
    /// The verification that is under way, or the last one (primary).
    pub verify: Option<VerifyProgress>,
    /// How the session began, or the last one.
    pub beginning: Option<Beginning>,
    /// What followed from what both nodes said of their data, when they last met. Seen from this node.
    pub reunion: Option<Reunion>,
    /// An operator's word is waited for: both nodes have met, and this primary must not overwrite the peer's data by itself.
    pub refused: bool,
    /// Frames received and not applied (secondary).
    pub unapplied_frames: u64,
    /// Counters since the node was made.
    pub counters: Counters,
}

/// Positions in the stream: `queued >= sent >= received >= applied >= synced`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// Ordered by the primary's core.
    pub queued: Sequence,
    /// Handed to the primary's kernel.
    pub sent: Sequence,
    /// Arrived at the secondary.
    pub received: Sequence,
    /// Applied by the secondary.
    pub applied: Sequence,
    /// Durable at the secondary.
    pub synced: Sequence,
}

impl Positions {
    /// Take over what the secondary reports.
    pub(crate) fn acknowledge(&mut self, ack: Ack) {
        self.received = self.received.max(ack.received);
        self.applied = self.applied.max(ack.applied);
        self.synced = self.synced.max(ack.synced);
        self.sent = self.sent.max(self.received);
    }
}

/// How far the resync is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResyncProgress {
    /// Directories that are known and not yet listed.
    pub directories_left: u64,
    /// Files of all kinds found so far that the peer was not told before.
    pub files_found: u64,
    /// Names in lists so far: in the session, or since an operator asked for a comparison.
    pub names_listed: u64,
    /// Regular files that are not yet compared.
    pub files_left: u64,
    /// Regular files of which the beginning was digested so far, each as often as it was.
    pub files_compared: u64,
    /// Bytes digested so far.
    pub bytes_compared: u64,
    /// Bytes sent so far in this session.
    pub bytes_sent: u64,
}

/// How far a resync is that an operator asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskedProgress {
    /// Which one.
    pub number: u64,
    /// All that was marked when it began is durable at the peer.
    pub done: bool,
}

/// Counters since the node was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Extent sets that were widened.
    pub widened: u64,
    /// Barriers sent (primary) or answered (secondary).
    pub barriers: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Sessions that were lost or closed.
    pub sessions_lost: u64,
    /// Data frames sent or received.
    pub data_frames: u64,
    /// Bytes of file data sent or received.
    pub data_bytes: u64,
    /// Callers that were let go with success.
    pub released: u64,
    /// Callers that got an error.
    pub refused: u64,
    /// Reads of file state that failed.
    pub reads_failed: u64,
}
