//! Identifiers and positions. Each is its own type, so that none can be given for another.

use core::fmt;
use core::time::Duration;

/// One replicated directory of a node: its place in the configuration's list, the same on both nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VolumeId(pub u16);

/// A file (of any type) of the primary: volume and inode number.
///
/// A number that the file system gives to a new file after the old one is gone is the same `FileId`;
/// that is harmless because the stream is ordered and marks say "send the current state".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileId {
    /// The replicated directory the file belongs to.
    pub volume: VolumeId,
    /// The inode number on the primary's file system.
    pub inode: u64,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume.0, self.inode)
    }
}

/// What kind of file an inode is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum FileKind {
    Regular = 1,
    Directory = 2,
    Symlink = 3,
    Fifo = 4,
    Socket = 5,
    CharacterDevice = 6,
    BlockDevice = 7,
}

impl FileKind {
    /// The kind with that number on the wire.
    pub const fn from_u8(value: u8) -> Option<FileKind> {
        Some(match value {
            1 => FileKind::Regular,
            2 => FileKind::Directory,
            3 => FileKind::Symlink,
            4 => FileKind::Fifo,
            5 => FileKind::Socket,
            6 => FileKind::CharacterDevice,
            7 => FileKind::BlockDevice,
            _ => return None,
        })
    }

    /// The kind in the file-type bits of a `st_mode` (inode(7)).
    pub const fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & 0o170_000 {
            0o100_000 => FileKind::Regular,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            0o010_000 => FileKind::Fifo,
            0o140_000 => FileKind::Socket,
            0o020_000 => FileKind::CharacterDevice,
            0o060_000 => FileKind::BlockDevice,
            _ => return None,
        })
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// Position of a frame in the stream of one session, from 1. Every sequenced frame has its own.
    Sequence
);
number!(
    /// Number of a primacy; higher wins; in every frame.
    Term
);
number!(
    /// Identity of a data history; changes when histories may part.
    Generation
);
number!(
    /// One connection between the nodes, numbered by the node that uses the number (not on the wire).
    SessionId
);
number!(
    /// A caller held at the gate until its barrier is answered.
    Ticket
);
number!(
    /// A local fdatasync or fsync under way.
    LocalSyncId
);
number!(
    /// A read of a file's state under way; the edge keeps the bytes under this number.
    ReadId
);
number!(
    /// An encoded namespace operation kept by the edge until it was sent.
    EntryId
);
number!(
    /// One request to make the state record durable.
    PersistId
);

/// No primacy and no generation has a higher number: nobody counts that far. A peer that names one would leave no room to count on from it, so it is not
/// believed.
pub const COUNTED_MAX: u64 = 1 << 63;

/// An error number of the operating system (errno(3)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Errno(pub i32);

/// Monotonic time in nanoseconds since an arbitrary start; never wall clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// This time plus a span; saturates.
    #[must_use]
    pub fn after(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Span since an earlier time; zero if that time is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
