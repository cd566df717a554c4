//! What the kernel programs tell.

/// One event in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Record {
    /// Number of the event, from 1, taken before its place in the ring: two processors may swap neighbours. A number that
    /// never appears is a lost event.
    pub sequence: u64,
    /// Inode number of the file or directory.
    pub inode: u64,
    /// First byte that may have changed.
    pub offset: u64,
    /// Bytes from there; `u64::MAX - offset` or more means "to the end".
    pub length: u64,
    /// The superblock's device in the kernel's own encoding (major << 20 | minor).
    pub device: u32,
    /// The inode's generation, which tells an old file from a new one with the same number.
    pub generation: u32,
    /// The process that did it, as the initial PID namespace numbers it. Whoever was running, for asynchronous completions.
    pub tgid: u32,
    /// What the membership table said: volume plus one, or [`crate::OF_SOME_VOLUME`]; 0 if it knows nothing ([`flag::MEMBER`] is
    /// not set).
    pub member: u32,
    /// A [`Kind`].
    pub kind: u8,
    /// A [`crate::Hook`].
    pub hook: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<Record>() == 56 && align_of::<Record>() == 8);

/// What happened to the file of a [`Record`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Bytes were written, punched, zeroed, cut off or added. Size and times changed with them.
    Write = 1,
    /// A folio went from clean to dirty, or one that was dirty was mapped.
    Store = 2,
    /// Mode, owner, times, link count or extended attributes changed.
    Attributes = 3,
    /// Names in this directory changed.
    Directory = 4,
    /// The file was made durable.
    Sync = 5,
}

impl Kind {
    /// The kind with that number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Kind> {
        Some(match value {
            1 => Kind::Write,
            2 => Kind::Store,
            3 => Kind::Attributes,
            4 => Kind::Directory,
            5 => Kind::Sync,
            _ => return None,
        })
    }
}

/// Bits of [`Record::flags`].
pub mod flag {
    /// The membership table knows the file as a member of [`super::Record::member`].
    pub const MEMBER: u8 = 1;
    /// The inode's address space has a shared mapping that is, or may become, writable: with [`super::Kind::Write`], the
    /// folios that were written may be stored to from now on without a further event until they have been written back.
    pub const MAPPED: u8 = 2;
    /// The file may have come into the tree from outside by a new name; it is told whatever the membership table says.
    pub const MOVED: u8 = 4;
    /// The file is a directory (set with [`MOVED`]).
    pub const DIRECTORY: u8 = 8;
}

/// Shared by all processors, readable by the daemon without a system call.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// Last sequence number given.
    pub sequence: u64,
    /// Events that found the ring full.
    pub dropped: u64,
    /// The process that ran the program `identify` last, as the initial PID namespace numbers it.
    pub identity: u64,
}

const _: () = assert!(size_of::<Counters>() == 24);

/// Events of watched devices that were not told, per processor.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Filtered {
    /// Done by the daemon itself.
    pub own: u64,
    /// On files outside of every replicated directory.
    pub outside: u64,
}

const _: () = assert!(size_of::<Filtered>() == 16);
