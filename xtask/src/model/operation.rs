//! What one process does in one call, as data: it is generated, sent to the processes that do it, foretold by the model, and
//! kept when it led to a difference.
//!
//! Paths are relative to the directory of the sequence. A *slot* is one of a process's open files, a *map* one of its mappings.

use serde::{Deserialize, Serialize};

use crate::lab::aligned;

/// Open files of a process.
pub const SLOTS: u8 = 3;
/// Mappings of a process.
pub const MAPS: u8 = 2;
/// What the offset, length and address of direct I/O are multiples of.
pub const BLOCK: u64 = aligned::BLOCK as u64;

/// A path below the sequence's directory.
pub type Path = String;

/// How an open file is chosen for a call that takes a path or a descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// By its path; whether a symlink at its end is followed is the call's nature.
    Path(Path),
    /// By a descriptor.
    Slot(u8),
}

/// How open(2) is called, beside `O_NONBLOCK`, which is always set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Flags {
    /// `O_RDWR`, or `O_WRONLY` without `read`.
    pub write: bool,
    /// `O_RDWR` or `O_RDONLY`.
    pub read: bool,
    /// `O_CREAT`.
    pub create: bool,
    /// `O_EXCL`.
    pub exclusive: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_NOFOLLOW`.
    pub nofollow: bool,
    /// `O_SYNC`.
    pub sync: bool,
    /// `O_DSYNC`.
    pub dsync: bool,
    /// `O_DIRECT`: offsets and lengths of its reads and writes are rounded down to [`BLOCK`].
    pub direct: bool,
}

/// How a write is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Write {
    /// pwrite(2).
    Plain,
    /// pwritev2(2) with `RWF_DSYNC`.
    Dsync,
    /// pwritev2(2) with `RWF_APPEND`.
    Append,
}

/// How a call comes to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Via {
    /// It is made.
    #[default]
    Call,
    /// Submitted to an io_uring(7), and waited for.
    Ring,
    /// Submitted by io_submit(2), and waited for.
    Aio,
}

/// How bytes get from one open file into another.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Copying {
    /// copy_file_range(2), which shares extents where the file system can and the range is aligned.
    #[default]
    Range,
    /// sendfile(2) to the file's position, until all is sent.
    Send,
    /// splice(2) into a pipe and out of it, until all is there.
    Splice,
}

/// What fallocate(2) does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Space {
    /// Mode 0: also makes the file longer.
    Allocate,
    /// `KEEP_SIZE`.
    Keep,
    /// `PUNCH_HOLE | KEEP_SIZE`.
    Punch,
    /// `ZERO_RANGE`: also makes the file longer.
    Zero,
    /// `ZERO_RANGE | KEEP_SIZE`.
    ZeroKeep,
}

/// What msync(2) is asked after a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Msync {
    /// Not at all.
    No,
    /// `MS_ASYNC`.
    Async,
    /// `MS_SYNC`.
    Sync,
}

/// What mknod(2) makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Node {
    /// A pipe with a name.
    Fifo,
    /// The character device 1:3, harmless when it is opened.
    Null,
    /// A socket nobody listens on.
    Socket,
    /// A block device that no driver serves.
    Block,
    /// The character device 0:0, which `RENAME_WHITEOUT` leaves behind: there is no driver for it either.
    Whiteout,
}

impl Node {
    /// Its kind as in a mode, and its device number.
    #[must_use]
    pub fn numbers(self) -> (u32, u64) {
        match self {
            Node::Fifo => (libc::S_IFIFO, 0),
            Node::Null => (libc::S_IFCHR, libc::makedev(1, 3)),
            Node::Socket => (libc::S_IFSOCK, 0),
            Node::Block => (libc::S_IFBLK, libc::makedev(240, 1)),
            Node::Whiteout => (libc::S_IFCHR, 0),
        }
    }
}

/// From what a file or directory is protected (`FS_IOC_SETFLAGS`, chattr(1)).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Protection {
    /// Nothing.
    #[default]
    Nothing,
    /// Every change (`FS_IMMUTABLE_FL`).
    Immutable,
    /// Every change but additions at the end, in a directory of names (`FS_APPEND_FL`).
    AppendOnly,
}

/// What a sync covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Sync {
    /// fsync(2).
    All,
    /// fdatasync(2).
    Data,
    /// syncfs(2), which the gate does not hold.
    System,
}

/// What renameat2(2) is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Rename {
    /// Replace what is there.
    Plain,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
    /// `RENAME_WHITEOUT`.
    Whiteout,
}

/// One call, or a few that belong together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Operation {
    /// openat(2); what was in the slot is closed before. Only files and directories stay open.
    Open {
        slot: u8,
        path: Path,
        flags: Flags,
        mode: u32,
    },
    /// openat(2) with `O_TMPFILE` (and `O_EXCL`: never to be linked).
    OpenNameless {
        slot: u8,
        directory: Path,
        exclusive: bool,
        mode: u32,
    },
    Close {
        slot: u8,
    },
    /// A write of `length` bytes that follow from `tag` and their offsets.
    Write {
        slot: u8,
        at: u64,
        length: u64,
        tag: u64,
        how: Write,
        #[serde(default)]
        via: Via,
    },
    /// pread(2); shows a checksum.
    Read {
        slot: u8,
        at: u64,
        length: u64,
        #[serde(default)]
        via: Via,
    },
    /// Map a file, store, perhaps msync, unmap: only inside the file, else skipped.
    Store {
        slot: u8,
        at: u64,
        length: u64,
        tag: u64,
        sync: Msync,
    },
    /// Map the file from its beginning, and keep the mapping.
    Map {
        map: u8,
        slot: u8,
        length: u64,
    },
    /// Store into a kept mapping: only inside the file as the model knows it.
    StoreMapped {
        map: u8,
        at: u64,
        length: u64,
        tag: u64,
        sync: Msync,
    },
    Unmap {
        map: u8,
    },
    /// truncate(2).
    Truncate {
        path: Path,
        length: u64,
    },
    /// ftruncate(2).
    SetLength {
        slot: u8,
        length: u64,
    },
    /// fallocate(2).
    Allocate {
        slot: u8,
        space: Space,
        at: u64,
        length: u64,
    },
    /// Not between descriptors of direct I/O: natively that must be aligned, on the gate it need not be. Through a pipe, not from a
    /// file into itself: how much of what it has just written is read again depends on the size of the pipe.
    Copy {
        from: u8,
        to: u8,
        from_at: u64,
        to_at: u64,
        length: u64,
        #[serde(default)]
        how: Copying,
    },
    Sync {
        slot: u8,
        what: Sync,
        #[serde(default)]
        via: Via,
    },
    /// open, fsync, close of whatever can be opened for reading.
    SyncPath {
        path: Path,
    },
    MakeDirectory {
        path: Path,
        mode: u32,
    },
    RemoveDirectory {
        path: Path,
    },
    Unlink {
        path: Path,
    },
    /// linkat(2), symlinks not followed.
    Link {
        from: Path,
        to: Path,
    },
    /// linkat(2) of an open file, by its place in /proc.
    LinkSlot {
        slot: u8,
        to: Path,
    },
    Symlink {
        content: Path,
        path: Path,
    },
    MakeNode {
        path: Path,
        node: Node,
        mode: u32,
    },
    Rename {
        from: Path,
        to: Path,
        how: Rename,
    },
    /// fchmodat(2) follows symlinks; or fchmod(2).
    SetMode {
        target: Target,
        mode: u32,
    },
    /// fchownat(2) does not follow; or fchown(2).
    SetOwner {
        target: Target,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// utimensat(2) does not follow; or futimens(2). Seconds and nanoseconds of the modification time.
    SetTime {
        target: Target,
        seconds: i64,
        nanoseconds: i64,
    },
    /// lsetxattr(2) or fsetxattr(2); `flags` are `XATTR_CREATE`, `XATTR_REPLACE` or none.
    SetAttribute {
        target: Target,
        name: String,
        value: Vec<u8>,
        flags: i32,
    },
    /// lremovexattr(2) or fremovexattr(2).
    RemoveAttribute {
        target: Target,
        name: String,
    },
    /// `FS_IOC_SETFLAGS` of a name (opened for reading, symlinks followed) or an open file; other flags stay.
    SetProtection {
        target: Target,
        protection: Protection,
    },
    /// Kind, mode, owner, links, size of a name.
    Stat {
        path: Path,
    },
    /// The same of an open file.
    StatSlot {
        slot: u8,
    },
    /// Names in a directory.
    List {
        path: Path,
    },
}

impl Operation {
    /// The slot of the open file it is done on.
    #[must_use]
    pub fn slot(&self) -> Option<u8> {
        match self {
            Operation::Close { slot }
            | Operation::Write { slot, .. }
            | Operation::Read { slot, .. }
            | Operation::Store { slot, .. }
            | Operation::Map { slot, .. }
            | Operation::SetLength { slot, .. }
            | Operation::Allocate { slot, .. }
            | Operation::Sync { slot, .. }
            | Operation::LinkSlot { slot, .. }
            | Operation::StatSlot { slot }
            | Operation::Copy { from: slot, .. } => Some(*slot),
            _ => None,
        }
    }

    /// What a call on attributes is done on, and whether it follows a symlink at the end of a path.
    #[must_use]
    pub fn target(&self) -> Option<(&Target, bool)> {
        match self {
            Operation::SetMode { target, .. } | Operation::SetProtection { target, .. } => {
                Some((target, true))
            }
            Operation::SetOwner { target, .. }
            | Operation::SetTime { target, .. }
            | Operation::SetAttribute { target, .. }
            | Operation::RemoveAttribute { target, .. } => Some((target, false)),
            _ => None,
        }
    }

    /// All paths it names.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Operation::Open { path, .. }
            | Operation::Truncate { path, .. }
            | Operation::SyncPath { path }
            | Operation::MakeDirectory { path, .. }
            | Operation::RemoveDirectory { path }
            | Operation::Unlink { path }
            | Operation::Symlink { path, .. }
            | Operation::MakeNode { path, .. }
            | Operation::Stat { path }
            | Operation::List { path }
            | Operation::OpenNameless { directory: path, .. }
            | Operation::LinkSlot { to: path, .. } => vec![path],
            Operation::Link { from, to } | Operation::Rename { from, to, .. } => vec![from, to],
            _ => match self.target() {
                Some((Target::Path(path), _)) => vec![path],
                _ => Vec::new(),
            },
        }
    }
}

/// An operation and who does it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Number of the process.
    pub actor: u8,
    /// What it does.
    pub operation: Operation,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It succeeded and says so much: bytes written or copied.
    Done(u64),
    /// It succeeded and shows this.
    Shown(String),
    /// The errno; EFAULT for a store that the kernel answers with SIGBUS.
    Refused(i32),
    /// Only foretold: this errno, or EPERM because something is protected. Which of two reasons is found first is not the same in a
    /// file system and in a gate above it.
    RefusedOrProtected(i32),
    /// Not done, because it would be the end of the process (a store beyond the file's end) or nothing is in the slot.
    Skipped,
}

impl Outcome {
    /// Whether a file system may answer so where the model does as `self`: a directory that is not empty is either to rename(2).
    #[must_use]
    pub fn allows(&self, found: &Outcome) -> bool {
        match (self, found) {
            (Outcome::RefusedOrProtected(_), Outcome::Refused(libc::EPERM)) => true,
            (Outcome::RefusedOrProtected(errno), _) => Outcome::Refused(*errno).allows(found),
            (Outcome::Refused(libc::ENOTEMPTY), Outcome::Refused(libc::EEXIST)) => true,
            _ => self == found,
        }
    }
}

/// The bytes that a write or store with this tag leaves at `at`: never zero, so that holes are told from bytes.
#[must_use]
pub fn fill(tag: u64, at: u64, length: u64) -> Vec<u8> {
    let byte = |offset: u64| {
        let mixed = (tag.wrapping_add(offset >> 9)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(offset);
        ((mixed >> 24 ^ mixed) % 255) as u8 + 1
    };
    (at..at + length).map(byte).collect()
}

/// Offset and length of direct I/O.
#[must_use]
pub fn rounded(direct: bool, at: u64, length: u64) -> (u64, u64) {
    if direct { (at / BLOCK * BLOCK, length / BLOCK * BLOCK) } else { (at, length) }
}

impl std::fmt::Display for Step {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "{} {:?}", self.actor, self.operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_from_tag_and_offset_and_are_never_zero() {
        let whole = fill(7, 0, 10_000);
        assert_eq!(fill(7, 4000, 2000), whole[4000..6000]);
        assert_ne!(fill(8, 0, 10_000), whole);
        assert!(whole.iter().all(|byte| *byte != 0));
    }

    #[test]
    fn a_step_is_kept_as_text() {
        let operation =
            Operation::Write { slot: 1, at: 5, length: 9, tag: 3, how: Write::Dsync, via: Via::Ring };
        let step = Step { actor: 2, operation };
        let text = serde_json::to_string(&step).unwrap();
        assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), step);
    }
}
