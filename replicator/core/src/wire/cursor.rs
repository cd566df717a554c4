//! Reading and writing of little-endian bodies. Reading never goes beyond the end and never trusts a count.

use alloc::vec::Vec;
use core::fmt;

use crate::ids::{FileId, VolumeId};

/// Why a body cannot be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// It ends in the middle of a value.
    Truncated,
    /// So many bytes follow its last value.
    Trailing(usize),
    /// This field has a value that is not allowed.
    Value(&'static str),
    /// This field is longer, or this list has more members, than is allowed.
    Limit(&'static str),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::Truncated => write!(f, "the body ends in the middle of a value"),
            BodyError::Trailing(bytes) => write!(f, "{bytes} bytes follow the last value of the body"),
            BodyError::Value(field) => write!(f, "{field} has a value that is not allowed"),
            BodyError::Limit(field) => write!(f, "{field} is longer than allowed"),
        }
    }
}

impl core::error::Error for BodyError {}

/// What is left to read of a body.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: body }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], BodyError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(BodyError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(BodyError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BodyError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, BodyError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BodyError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BodyError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, BodyError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, BodyError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BodyError::Value(field)),
        }
    }

    pub(crate) fn file(&mut self) -> Result<FileId, BodyError> {
        Ok(FileId { volume: VolumeId(self.u16()?), inode: self.u64()? })
    }

    /// A u16 length and so many bytes, at most `max`.
    pub(crate) fn short_bytes(&mut self, max: usize, field: &'static str) -> Result<Vec<u8>, BodyError> {
        let length = usize::from(self.u16()?);
        if length > max {
            return Err(BodyError::Limit(field));
        }
        Ok(self.bytes(length)?.to_vec())
    }

    /// A u32 count of members of at least `member_bytes` each: refused when they cannot be there, so that a count never
    /// makes room for more than arrived.
    pub(crate) fn count(&mut self, member_bytes: usize) -> Result<usize, BodyError> {
        let count = self.u32()? as usize;
        match count.checked_mul(member_bytes) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(BodyError::Truncated),
        }
    }

    /// A u32 count, at most `max`, and so many members of at least `member_bytes` each.
    pub(crate) fn list<T>(
        &mut self,
        member_bytes: usize,
        max: usize,
        field: &'static str,
        member: impl Fn(&mut Cursor<'a>) -> Result<T, BodyError>,
    ) -> Result<Vec<T>, BodyError> {
        let count = self.count(member_bytes)?;
        if count > max {
            return Err(BodyError::Limit(field));
        }
        (0..count).map(|_| member(self)).collect()
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn finish(self) -> Result<(), BodyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(BodyError::Trailing(self.rest.len())) }
    }
}

/// Appends values to a body.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    fn put_file(&mut self, file: FileId) {
        self.put_u16(file.volume.0);
        self.put_u64(file.inode);
    }

    /// A u16 length and the bytes; what does not fit into a u16 is cut (no caller has such a thing: names, targets and
    /// texts are limited far below).
    fn put_short_bytes(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.put_u16(length);
        self.put(&bytes[..usize::from(length)]);
    }

    /// A u32 count. What is counted is held in memory and framed in at most 4 MiB, so that it fits.
    fn put_count(&mut self, count: usize) {
        self.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
