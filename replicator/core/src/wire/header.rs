//! The fixed frame header.

use crate::ids::{FileId, Sequence, Term};

/// Length of an encoded header in bytes.
pub const HEADER_BYTES: usize = 64;
/// First four bytes of every frame: "RPL1" read as little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RPL1");
/// Newest protocol version this build speaks.
pub const VERSION: u16 = 1;
/// Oldest protocol version this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Largest payload in bytes; a longer one is refused before any of it is read.
pub const PAYLOAD_MAX: u32 = 4 << 20;

/// A frame's header without its checksums and payload length, which the edge adds when it encodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Kind-specific bits.
    pub flags: u16,
    /// The sender's term.
    pub term: Term,
    /// Position in the sender's stream; zero for frames that have none (keep-alive, acks).
    pub sequence: Sequence,
    /// The file the frame is about, or zero.
    pub file: FileId,
    /// First byte the frame is about, or a kind-specific number.
    pub offset: u64,
    /// Number of bytes the frame is about (not the payload's length), or a kind-specific number.
    pub length: u64,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Kind {
    /// First frame of either side: versions, identity, proof of membership.
    Hello = 1,
    /// Answer to a Hello that is not accepted; the payload says why; the sender closes.
    Refuse = 2,
    /// Says nothing but "still here".
    KeepAlive = 3,
    /// Bytes of a file: `offset`, `length`, payload.
    Data = 4,
    /// A range without allocation: `offset`, `length`.
    Hole = 5,
    /// Size, mode, owner, times, extended attributes of a file.
    Attributes = 6,
    /// A namespace operation or (a part of) a directory's list of names.
    Namespace = 7,
    /// Digests of a file's blocks: `offset`, `length`.
    Digests = 8,
    /// Which of the digested extents differ. From the secondary; `offset` holds the Digests frame's sequence.
    DigestReply = 9,
    /// Files that did not exist before a directory's list was applied. From the secondary; `offset` holds the Namespace
    /// frame's sequence.
    CreatedReply = 10,
    /// Everything listed is to be made durable and answered.
    Barrier = 11,
    /// A barrier is durable. From the secondary; `offset` holds the Barrier frame's sequence.
    BarrierDone = 12,
    /// Positions reached. From the secondary; received, applied, synced in the payload.
    Ack = 13,
    /// The primary begins to describe its whole tree.
    ResyncBegin = 14,
    /// The whole tree was described and compared; answered by BarrierDone once durable and recorded.
    ResyncEnd = 15,
    /// The sender could not do what was asked; `offset` holds the errno. The session ends.
    Failed = 16,
    /// Orderly end of the session.
    Goodbye = 17,
}
