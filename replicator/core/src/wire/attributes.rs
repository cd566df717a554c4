//! A file's attributes as they travel: the payload of an `Attributes` frame.

use alloc::vec::Vec;

/// All attributes of a file that the secondary is to have. Not among them: ctime and birth time (no call sets them) and
/// the link count (a result of the names).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// File type and permission bits (`st_mode`).
    pub mode: u32,
    /// Owner's user id.
    pub uid: u32,
    /// Owner's group id.
    pub gid: u32,
    /// Size in bytes; applied to regular files only, exactly.
    pub size: u64,
    /// Access time.
    pub atime: Timestamp,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes by name, sorted by name; POSIX ACLs are `system.posix_acl_*` among them. The complete list:
    /// what the secondary has beyond it is removed.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A point in time as inodes have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanoseconds: u32,
}
