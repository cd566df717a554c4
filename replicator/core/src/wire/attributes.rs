//! A file's attributes as they travel: the payload of an `Attributes` frame.

use alloc::vec::Vec;

use super::cursor::{BodyError, Cursor, Put};
use super::header::VERSION_FLAGS;

/// Longest name of an extended attribute in bytes (xattr(7)).
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute in bytes (xattr(7)).
pub const XATTR_VALUE_MAX: usize = 64 << 10;

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
    /// Inode flags: exactly these of [`InodeFlags::ALL`]. `None`: not told, by a primary of a version before
    /// [`VERSION_FLAGS`]; the secondary leaves them as they are.
    pub flags: Option<InodeFlags>,
}

/// The inode flags that are mirrored (chattr(1), ioctl_iflags(2)): those that a person sets and that mean the same on every file
/// system that has them. Numbers are those of linux/fs.h, here and on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InodeFlags(u32);

impl InodeFlags {
    /// None.
    pub const NONE: InodeFlags = InodeFlags(0);
    /// `S`: each write of the file is synchronous.
    pub const SYNCHRONOUS: InodeFlags = InodeFlags(0x8);
    /// `i`: neither bytes nor attributes nor names of it can be changed, nor names in it.
    pub const IMMUTABLE: InodeFlags = InodeFlags(0x10);
    /// `a`: only appended to; in a directory, names are only added.
    pub const APPEND_ONLY: InodeFlags = InodeFlags(0x20);
    /// `d`: left out by dump(8).
    pub const NO_DUMP: InodeFlags = InodeFlags(0x40);
    /// `A`: its access time stays.
    pub const NO_ACCESS_TIME: InodeFlags = InodeFlags(0x80);
    /// `D`: changes of names in the directory are synchronous.
    pub const SYNCHRONOUS_DIRECTORY: InodeFlags = InodeFlags(0x1_0000);
    /// All of them.
    pub const ALL: InodeFlags = InodeFlags(0x1_00f8);
    /// Those that keep others, and the replica itself, from changing a file.
    pub const PROTECTING: InodeFlags = InodeFlags(0x30);

    /// Those of `bits` that are mirrored.
    #[must_use]
    pub const fn of_bits(bits: u32) -> InodeFlags {
        InodeFlags(bits & InodeFlags::ALL.0)
    }

    /// Their numbers in linux/fs.h, together.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Those that both have.
    #[must_use]
    pub const fn and(self, other: InodeFlags) -> InodeFlags {
        InodeFlags(self.0 & other.0)
    }

    /// Those that either has.
    #[must_use]
    pub const fn or(self, other: InodeFlags) -> InodeFlags {
        InodeFlags(self.0 | other.0)
    }

    /// Those that `other` has not.
    #[must_use]
    pub const fn without(self, other: InodeFlags) -> InodeFlags {
        InodeFlags(self.0 & !other.0)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each flag that is set, alone.
    pub fn each(self) -> impl Iterator<Item = InodeFlags> {
        (0..u32::BITS).map(|bit| InodeFlags(1 << bit)).filter(move |flag| !self.and(*flag).is_empty())
    }
}

/// A point in time as inodes have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl Attributes {
    /// The payload of an `Attributes` frame in that protocol version. One before [`VERSION_FLAGS`] has no room for flags.
    #[must_use]
    pub fn encode(&self, version: u16) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        body.put_u32(self.mode);
        body.put_u32(self.uid);
        body.put_u32(self.gid);
        body.put_u64(self.size);
        for time in [self.atime, self.mtime] {
            body.put_i64(time.seconds);
            body.put_u32(time.nanoseconds);
        }
        body.put_count(self.xattrs.len());
        for (name, value) in &self.xattrs {
            body.put_short_bytes(name);
            body.put_count(value.len());
            body.put(value);
        }
        if version >= VERSION_FLAGS {
            body.put_u32(self.flags.unwrap_or_default().bits());
        }
        body
    }

    /// The attributes in a payload of that protocol version.
    ///
    /// # Errors
    /// [`BodyError`]; also where nanoseconds are a second or more, extended attributes are not in strictly ascending
    /// order of their names, or there is a flag that is not mirrored.
    pub fn decode(body: &[u8], version: u16) -> Result<Attributes, BodyError> {
        let mut cursor = Cursor::new(body);
        let mut attributes = Attributes {
            mode: cursor.u32()?,
            uid: cursor.u32()?,
            gid: cursor.u32()?,
            size: cursor.u64()?,
            atime: timestamp(&mut cursor)?,
            mtime: timestamp(&mut cursor)?,
            xattrs: Vec::new(),
            flags: None,
        };
        let count = cursor.count(6)?;
        for _ in 0..count {
            let name = cursor.short_bytes(XATTR_NAME_MAX, "xattr name")?;
            if name.is_empty() || name.contains(&0) {
                return Err(BodyError::Value("xattr name"));
            }
            if attributes.xattrs.last().is_some_and(|(before, _)| *before >= name) {
                return Err(BodyError::Value("xattr order"));
            }
            let length = cursor.u32()? as usize;
            if length > XATTR_VALUE_MAX {
                return Err(BodyError::Limit("xattr value"));
            }
            let value = cursor.bytes(length)?.to_vec();
            attributes.xattrs.push((name, value));
        }
        if version >= VERSION_FLAGS {
            let bits = cursor.u32()?;
            let flags = InodeFlags::of_bits(bits);
            if flags.bits() != bits {
                return Err(BodyError::Value("inode flags"));
            }
            attributes.flags = Some(flags);
        }
        cursor.finish()?;
        Ok(attributes)
    }
}

fn timestamp(cursor: &mut Cursor<'_>) -> Result<Timestamp, BodyError> {
    let time = Timestamp { seconds: cursor.i64()?, nanoseconds: cursor.u32()? };
    if time.nanoseconds >= 1_000_000_000 {
        return Err(BodyError::Value("nanoseconds"));
    }
    Ok(time)
}
