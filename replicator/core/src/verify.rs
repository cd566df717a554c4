//! What a verification, a comparison of both copies that an operator asks for, looks at and finds.

use alloc::vec::Vec;

use crate::extent::Extent;
use crate::ids::Errno;

/// The smallest blocks by which contents are compared, in bytes.
pub const VERIFY_BLOCK_BYTES: u64 = 4096;

/// What an operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifyRequest {
    /// Tells this verification from others of the same run; not zero.
    pub number: u64,
    /// What is found to differ is marked, so that it is sent.
    pub repair: bool,
    /// At most so many bytes are read each second, on either node. `None`: as many as both disks give.
    pub bytes_per_second: Option<u64>,
}

/// What of a file is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyPart {
    /// Kind and attributes; access times are left out.
    State,
    /// The names in a directory, and which files they stand for.
    Names,
    /// These bytes of a regular file.
    Contents(Extent),
}

/// What the edge has read of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Looked {
    /// State: the size in bytes, of a regular file; else zero. Contents: the end of what was read, where the file is shorter
    /// than asked. Names: zero.
    pub end: u64,
    /// Bytes that were read from the disk, or would have been.
    pub bytes: u64,
}

/// What the secondary says of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It has the same.
    Same,
    /// These extents differ.
    Extents(Vec<Extent>),
    /// It differs in what is told here, in the edges' own encoding; empty where details were not asked for.
    Details(Vec<u8>),
    /// It has no such file. What the names of directories differ in tells of that.
    Absent,
    /// It cannot read its copy.
    Unreadable(Errno),
}

/// A difference that is one: both copies were looked at twice at the same point of the stream, and nothing was on its way between
/// them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// These extents of a file, in bytes.
    Contents(Vec<Extent>),
    /// State or names, in the edges' own encoding.
    Details(VerifyPart, Vec<u8>),
    /// The secondary cannot read its copy of this part.
    UnreadableThere(VerifyPart, Errno),
    /// This node cannot read this part.
    UnreadableHere(VerifyPart, Errno),
}

/// How far a verification is.
///
/// ```text
///  Running --all looked at--> Done                    (nothing to repair)
///     |  `------------------> Healing --at the peer--> Done
///     +--VerifyStopped--> Stopped        (both also from Healing)
///     +--session lost---> Interrupted
///  Refused: it could not begin
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyState {
    /// Both trees are being compared.
    Running,
    /// All was compared; what was marked for repair is on its way.
    Healing,
    /// All was compared, and what was to be repaired is durable at the peer.
    Done,
    /// An operator ended it.
    Stopped,
    /// The session ended.
    Interrupted,
    /// The nodes are not mirrored, or the peer speaks a protocol that has no verification.
    Refused,
}

/// Progress and result of a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifyProgress {
    /// Which one.
    pub number: u64,
    /// How far it is.
    pub state: VerifyState,
    /// Files of all kinds that were known when it began: a file more or less is looked at if some come or go meanwhile.
    pub files: u64,
    /// Files that were looked at, or are being looked at.
    pub files_examined: u64,
    /// Bytes of content that were compared.
    pub bytes_examined: u64,
    /// Parts of files that differ.
    pub differences: u64,
    /// Parts that changed each time they were looked at: what changes is sent, so that they need no comparison.
    pub unsettled: u64,
    /// Parts marked for repair.
    pub repaired: u64,
}
