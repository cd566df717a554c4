//! The fixed frame header.

use core::fmt;
use core::ops::RangeInclusive;

use super::checksum::crc32c;
use crate::ids::{FileId, Sequence, Term, VolumeId};

/// Length of an encoded header in bytes.
pub const HEADER_BYTES: usize = 64;
/// First four bytes of every frame: "RPL1" read as little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RPL1");
/// Newest protocol version this build speaks.
pub const VERSION: u16 = 6;
/// Oldest version in which a stream can go on where an earlier one ended.
pub const VERSION_RESUMES: u16 = 2;
/// Oldest version in which attributes carry inode flags.
pub const VERSION_FLAGS: u16 = 3;
/// Oldest version in which both copies can be verified.
pub const VERSION_VERIFIES: u16 = 4;
/// Oldest version in which both nodes tell of their data's lineage.
pub const VERSION_ACCOUNTS: u16 = 4;
/// Oldest version in which a former primary tells what of its copy may differ, and the new one goes on from that.
pub const VERSION_SUCCEEDS: u16 = 5;
/// Oldest version in which a secondary that crashed tells what it has on record of the copy, and the primary goes on from that.
pub const VERSION_RECOVERS: u16 = 6;
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
    /// First frame of either side: versions, identity, nonce.
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
    /// Files of any kind that did not exist before a directory's list was applied. From the secondary; `offset` holds the Namespace
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
    /// Keyed digest over both Hellos: proof of membership.
    Proof = 18,
    /// The acceptor found the dialer's proof right: the session is open.
    Accept = 19,
    /// What the secondary holds, its first frame: which stream, and up to which position. Not before version 2.
    Holding = 20,
    /// The stream goes on where an earlier one ended: instead of ResyncBegin. Not before version 2.
    ResumeBegin = 21,
    /// What the primary has of a part of a file, or a digest of it: is the copy the same? `flags` says which part, and for contents
    /// `offset` and `length` which bytes. Changes nothing. Not before version 4.
    Verify = 22,
    /// The answer. From the secondary; `offset` holds the Verify frame's sequence.
    VerifyReply = 23,
    /// Where the sender's data comes from. The secondary's first frame, and the primary's before a stream begins. Not before version 4.
    Account = 24,
    /// What of the copy of a secondary that was the primary may differ from the other node's. Before `Holding`. Not before version 5.
    Legacy = 25,
    /// Which files of the primary's the former primary had under which numbers; behind a `ResumeBegin` with `FLAG_SUCCEEDS`, before anything else; all but
    /// the last with `FLAG_MORE`. Not before version 5.
    Copies = 26,
    /// The secondary crashed: which stream its record is of, and what is not as that says. Before `Holding`. Not before version 6.
    Recovered = 27,
}

/// Flag of `ResumeBegin`: the stream goes on from one of the secondary's, which was the primary before.
pub const FLAG_SUCCEEDS: u16 = 1;

/// Flag of `Account`: an operator of the primary said that its data is to replace the peer's.
pub const FLAG_OVERWRITES: u16 = 1;

/// Flag of `DigestReply`, `CreatedReply` and `Copies`: another frame of the same answer follows.
pub const FLAG_MORE: u16 = 1;

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Kind; 27] = [
        Kind::Hello,
        Kind::Refuse,
        Kind::KeepAlive,
        Kind::Data,
        Kind::Hole,
        Kind::Attributes,
        Kind::Namespace,
        Kind::Digests,
        Kind::DigestReply,
        Kind::CreatedReply,
        Kind::Barrier,
        Kind::BarrierDone,
        Kind::Ack,
        Kind::ResyncBegin,
        Kind::ResyncEnd,
        Kind::Failed,
        Kind::Goodbye,
        Kind::Proof,
        Kind::Accept,
        Kind::Holding,
        Kind::ResumeBegin,
        Kind::Verify,
        Kind::VerifyReply,
        Kind::Account,
        Kind::Legacy,
        Kind::Copies,
        Kind::Recovered,
    ];

    /// The kind with that number on the wire.
    #[must_use]
    pub fn from_u16(value: u16) -> Option<Kind> {
        Kind::ALL.get(usize::from(value).checked_sub(1)?).copied()
    }

    /// Whether frames of this kind have a position in the stream: those of the primary that the secondary has to apply
    /// or answer.
    #[must_use]
    pub const fn is_sequenced(self) -> bool {
        matches!(
            self,
            Kind::Data
                | Kind::Hole
                | Kind::Attributes
                | Kind::Namespace
                | Kind::Digests
                | Kind::Barrier
                | Kind::ResyncBegin
                | Kind::ResyncEnd
                | Kind::ResumeBegin
                | Kind::Verify
                | Kind::Copies
        )
    }
}

/// A decoded header with what the edge needs to check and read the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// What the core sees.
    pub header: Header,
    /// Protocol version the frame is written in.
    pub version: u16,
    /// Length of the payload in bytes, at most [`PAYLOAD_MAX`].
    pub payload_length: u32,
    /// CRC-32C of the payload (zero for an empty one, which is its sum).
    pub payload_checksum: u32,
}

/// Why 64 bytes are not a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// They do not begin with [`MAGIC`]: something else speaks here, or the position in the stream is lost.
    Magic(u32),
    /// The header's checksum does not hold.
    Checksum {
        /// What the header says.
        stated: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A version that was not negotiated.
    Version(u16),
    /// A kind this build does not know.
    Kind(u16),
    /// A payload longer than [`PAYLOAD_MAX`].
    PayloadTooLong(u32),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Magic(magic) => write!(f, "not a frame: it begins with {magic:#010x}"),
            HeaderError::Checksum { stated, computed } => {
                write!(f, "header checksum is {computed:#010x}, the header says {stated:#010x}")
            }
            HeaderError::Version(version) => write!(f, "protocol version {version} was not negotiated"),
            HeaderError::Kind(kind) => write!(f, "unknown frame kind {kind}"),
            HeaderError::PayloadTooLong(bytes) => {
                write!(f, "payload of {bytes} bytes is longer than {PAYLOAD_MAX}")
            }
        }
    }
}

impl core::error::Error for HeaderError {}

/// Writes fields one after the other.
struct Writer {
    bytes: [u8; HEADER_BYTES],
    at: usize,
}

impl Writer {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        self.bytes[self.at..self.at + N].copy_from_slice(&field);
        self.at += N;
    }
}

/// Lengths of the fields in their order: magic, version, kind, term, sequence, volume, flags, payload length, inode,
/// offset, length, payload checksum, header checksum.
const FIELDS: [usize; 13] = [4, 2, 2, 8, 8, 2, 2, 4, 8, 8, 8, 4, 4];
const _: () = {
    let mut sum = 0;
    let mut field = 0;
    while field < FIELDS.len() {
        sum += FIELDS[field];
        field += 1;
    }
    assert!(sum == HEADER_BYTES, "the fields fill the header exactly");
};
/// What the header checksum covers: everything before it.
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

/// `N` bytes of the header at a constant position.
fn field<const AT: usize, const N: usize>(bytes: &[u8; HEADER_BYTES]) -> [u8; N] {
    const { assert!(AT + N <= HEADER_BYTES) };
    let mut field = [0; N];
    field.copy_from_slice(&bytes[AT..AT + N]);
    field
}

impl Header {
    /// A header of that kind and term with everything else zero.
    #[must_use]
    pub const fn new(kind: Kind, term: Term) -> Header {
        Header {
            kind,
            flags: 0,
            term,
            sequence: Sequence(0),
            file: FileId { volume: VolumeId(0), inode: 0 },
            offset: 0,
            length: 0,
        }
    }

    /// The 64 bytes of this header.
    #[must_use]
    pub fn encode(&self, version: u16, payload_length: u32, payload_checksum: u32) -> [u8; HEADER_BYTES] {
        let mut writer = Writer { bytes: [0; HEADER_BYTES], at: 0 };
        writer.put(MAGIC.to_le_bytes());
        writer.put(version.to_le_bytes());
        writer.put((self.kind as u16).to_le_bytes());
        writer.put(self.term.0.to_le_bytes());
        writer.put(self.sequence.0.to_le_bytes());
        writer.put(self.file.volume.0.to_le_bytes());
        writer.put(self.flags.to_le_bytes());
        writer.put(payload_length.to_le_bytes());
        writer.put(self.file.inode.to_le_bytes());
        writer.put(self.offset.to_le_bytes());
        writer.put(self.length.to_le_bytes());
        writer.put(payload_checksum.to_le_bytes());
        let checksum = crc32c(&writer.bytes[..CHECKED_BYTES]);
        writer.put(checksum.to_le_bytes());
        writer.bytes
    }

    /// The header in these bytes, if its version is one of `versions`. Checked in this order: magic, header checksum,
    /// version, kind, payload length.
    ///
    /// # Errors
    /// [`HeaderError`]; what follows in the stream cannot be understood then.
    pub fn decode(
        bytes: &[u8; HEADER_BYTES],
        versions: &RangeInclusive<u16>,
    ) -> Result<Decoded, HeaderError> {
        let magic = u32::from_le_bytes(field::<0, 4>(bytes));
        if magic != MAGIC {
            return Err(HeaderError::Magic(magic));
        }
        let stated = u32::from_le_bytes(field::<60, 4>(bytes));
        let computed = crc32c(&bytes[..CHECKED_BYTES]);
        if stated != computed {
            return Err(HeaderError::Checksum { stated, computed });
        }
        let version = u16::from_le_bytes(field::<4, 2>(bytes));
        if !versions.contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let kind = u16::from_le_bytes(field::<6, 2>(bytes));
        let kind = Kind::from_u16(kind).ok_or(HeaderError::Kind(kind))?;
        let payload_length = u32::from_le_bytes(field::<28, 4>(bytes));
        if payload_length > PAYLOAD_MAX {
            return Err(HeaderError::PayloadTooLong(payload_length));
        }
        let header = Header {
            kind,
            flags: u16::from_le_bytes(field::<26, 2>(bytes)),
            term: Term(u64::from_le_bytes(field::<8, 8>(bytes))),
            sequence: Sequence(u64::from_le_bytes(field::<16, 8>(bytes))),
            file: FileId {
                volume: VolumeId(u16::from_le_bytes(field::<24, 2>(bytes))),
                inode: u64::from_le_bytes(field::<32, 8>(bytes)),
            },
            offset: u64::from_le_bytes(field::<40, 8>(bytes)),
            length: u64::from_le_bytes(field::<48, 8>(bytes)),
        };
        let payload_checksum = u32::from_le_bytes(field::<56, 4>(bytes));
        Ok(Decoded { header, version, payload_length, payload_checksum })
    }
}
