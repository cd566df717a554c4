//! A file's attributes as they travel: the payload of an `Attributes` frame.

use alloc::vec::Vec;

use super::cursor::{BodyError, Cursor, Put};

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
    /// The payload of an `Attributes` frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
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
        body
    }

    /// The attributes in a payload.
    ///
    /// # Errors
    /// [`BodyError`]; also where nanoseconds are a second or more, or extended attributes are not in strictly ascending
    /// order of their names.
    pub fn decode(body: &[u8]) -> Result<Attributes, BodyError> {
        let mut cursor = Cursor::new(body);
        let mut attributes = Attributes {
            mode: cursor.u32()?,
            uid: cursor.u32()?,
            gid: cursor.u32()?,
            size: cursor.u64()?,
            atime: timestamp(&mut cursor)?,
            mtime: timestamp(&mut cursor)?,
            xattrs: Vec::new(),
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
