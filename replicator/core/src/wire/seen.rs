//! What the edges say in `Verify` frames and in the details of a verdict. The core carries it, and takes nothing from it.
//!
//! The state and the names of a file travel whole, or as a digest (the edges' business) of just these bytes; the first byte
//! tells which: 0 a digest, 1 the whole.

use alloc::vec::Vec;

use super::attributes::Attributes;
use super::cursor::{BodyError, Cursor, Put};
use super::header::VERSION;
use super::verdict::DETAILS_MAX;
use crate::ids::FileKind;

/// Longest name of a file in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Longest target of a symlink in bytes (`PATH_MAX`).
const TARGET_MAX: usize = 4096;
/// Longest text in a finding in bytes.
const TEXT_MAX: usize = 255;
/// Most names of a directory that travel whole.
const NAMES_MAX: usize = 1 << 20;
/// Most findings in a verdict.
pub const FINDINGS_MAX: usize = 256;

/// First byte of a payload about state or names.
const DIGEST: u8 = 0;
const WHOLE: u8 = 1;

/// A payload about state or names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen<'a> {
    /// The digest of what [`Seen::Whole`] would hold.
    Digest([u8; 16]),
    /// [`SeenState::encode`] or [`encode_names`].
    Whole(&'a [u8]),
}

impl<'a> Seen<'a> {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Seen::Digest(digest) => {
                body.put_u8(DIGEST);
                body.put(digest);
            }
            Seen::Whole(bytes) => {
                body.put_u8(WHOLE);
                body.put(bytes);
            }
        }
        body
    }

    /// What a payload holds.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &'a [u8]) -> Result<Seen<'a>, BodyError> {
        match body.split_first().ok_or(BodyError::Truncated)? {
            (&DIGEST, digest) => {
                let mut cursor = Cursor::new(digest);
                let digest = cursor.array()?;
                cursor.finish()?;
                Ok(Seen::Digest(digest))
            }
            (&WHOLE, bytes) => Ok(Seen::Whole(bytes)),
            _ => Err(BodyError::Value("form of what was seen")),
        }
    }
}

/// Everything of a file that is mirrored but its names and contents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenState {
    /// What it is.
    pub kind: FileKind,
    /// Of a device file: its number; else zero.
    pub rdev: u64,
    /// Of a symlink: where it leads; else empty.
    pub target: Vec<u8>,
    /// Its attributes. The access time does not count, nor does the size of anything but a regular file.
    pub attributes: Attributes,
}

impl SeenState {
    /// The same bytes for the same state.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut attributes = self.attributes.clone();
        attributes.atime = attributes.mtime;
        if self.kind != FileKind::Regular {
            attributes.size = 0;
        }
        let mut body = Vec::new();
        body.put_u8(self.kind as u8);
        body.put_u64(self.rdev);
        body.put_short_bytes(&self.target);
        body.put(&attributes.encode(VERSION));
        body
    }

    /// The state in these bytes.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<SeenState, BodyError> {
        let mut cursor = Cursor::new(body);
        let kind = FileKind::from_u8(cursor.u8()?).ok_or(BodyError::Value("kind of file"))?;
        let rdev = cursor.u64()?;
        let target = cursor.short_bytes(TARGET_MAX, "target")?;
        let left = cursor.left();
        let attributes = Attributes::decode(cursor.bytes(left)?, VERSION)?;
        Ok(SeenState { kind, rdev, target, attributes })
    }
}

/// The names of a directory with the primary's numbers of what they stand for (zero: of nothing of the primary's), in
/// ascending order of the names.
pub type SeenNames = Vec<(Vec<u8>, u64)>;

/// The names as bytes.
#[must_use]
pub fn encode_names(names: &[(Vec<u8>, u64)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_count(names.len());
    for (name, inode) in names {
        body.put_short_bytes(name);
        body.put_u64(*inode);
    }
    body
}

/// The names in these bytes.
///
/// # Errors
/// [`BodyError`]; also where they are not in strictly ascending order.
pub fn decode_names(body: &[u8]) -> Result<SeenNames, BodyError> {
    let mut cursor = Cursor::new(body);
    let name = |cursor: &mut Cursor<'_>| Ok((cursor.short_bytes(NAME_MAX, "name")?, cursor.u64()?));
    let names = cursor.list(10, NAMES_MAX, "names", name)?;
    cursor.finish()?;
    if !names.is_sorted_by(|(one, _), (two, _)| one < two) {
        return Err(BodyError::Value("order of names"));
    }
    Ok(names)
}

/// In what the copy differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Aspect {
    /// What sort of file it is.
    Kind = 1,
    Mode = 2,
    Owner = 3,
    Size = 4,
    /// Modification time.
    Times = 5,
    /// An extended attribute (an access list among them), which is named.
    ExtendedAttribute = 6,
    /// Inode flags.
    Flags = 7,
    /// Target of a symlink.
    Target = 8,
    /// Number of a device.
    Device = 9,
    /// A name that the copy does not have.
    MissingName = 10,
    /// A name that only the copy has.
    ExtraName = 11,
    /// A name that stands for another file in the copy.
    OtherFile = 12,
    /// There are too many names to tell which.
    Names = 13,
}

impl Aspect {
    /// All of them, in the order of their numbers.
    pub const ALL: [Aspect; 13] = [
        Aspect::Kind,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Size,
        Aspect::Times,
        Aspect::ExtendedAttribute,
        Aspect::Flags,
        Aspect::Target,
        Aspect::Device,
        Aspect::MissingName,
        Aspect::ExtraName,
        Aspect::OtherFile,
        Aspect::Names,
    ];

    fn from_u8(value: u8) -> Option<Aspect> {
        Aspect::ALL.get(usize::from(value).checked_sub(1)?).copied()
    }
}

/// One thing in which the copy differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub aspect: Aspect,
    /// Of which name in the directory, or which extended attribute; else empty.
    pub name: Vec<u8>,
    /// What the primary has, for a person; may be empty.
    pub here: Vec<u8>,
    /// What the copy has, for a person; may be empty.
    pub there: Vec<u8>,
}

/// The details of a verdict: at most [`FINDINGS_MAX`] findings, and how many more there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Those that are told.
    pub list: Vec<Finding>,
    /// How many are not.
    pub more: u32,
}

impl Findings {
    /// One more; counted only, if there are many.
    pub fn push(&mut self, aspect: Aspect, name: &[u8], here: &[u8], there: &[u8]) {
        if self.list.len() < FINDINGS_MAX {
            let cut = |bytes: &[u8]| bytes.get(..TEXT_MAX).unwrap_or(bytes).to_vec();
            let (name, here, there) = (cut(name), cut(here), cut(there));
            self.list.push(Finding { aspect, name, here, there });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// As bytes, at most [`DETAILS_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u32(self.more);
        body.put_count(self.list.len());
        for finding in &self.list {
            body.put_u8(finding.aspect as u8);
            body.put_short_bytes(&finding.name);
            body.put_short_bytes(&finding.here);
            body.put_short_bytes(&finding.there);
        }
        debug_assert!(body.len() <= DETAILS_MAX);
        body
    }

    /// The findings in these bytes.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Findings, BodyError> {
        let mut cursor = Cursor::new(body);
        let more = cursor.u32()?;
        let finding = |cursor: &mut Cursor<'_>| {
            Ok(Finding {
                aspect: Aspect::from_u8(cursor.u8()?).ok_or(BodyError::Value("aspect"))?,
                name: cursor.short_bytes(TEXT_MAX, "name")?,
                here: cursor.short_bytes(TEXT_MAX, "text")?,
                there: cursor.short_bytes(TEXT_MAX, "text")?,
            })
        };
        let list = cursor.list(7, FINDINGS_MAX, "findings", finding)?;
        cursor.finish()?;
        Ok(Findings { list, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::attributes::Timestamp;

    fn state() -> SeenState {
        let times = |seconds| Timestamp { seconds, nanoseconds: 5 };
        let xattrs = Vec::from([(b"user.a".to_vec(), b"b".to_vec())]);
        let flags = Some(crate::wire::attributes::InodeFlags::NONE);
        SeenState {
            kind: FileKind::Regular,
            rdev: 0,
            target: Vec::new(),
            attributes: Attributes {
                mode: 0o100_644,
                uid: 1,
                gid: 2,
                size: 3,
                atime: times(4),
                mtime: times(5),
                xattrs,
                flags,
            },
        }
    }

    #[test]
    fn the_access_time_does_not_count() {
        let one = state();
        let mut other = state();
        other.attributes.atime.seconds = 99;
        assert_eq!(one.encode(), other.encode());
        other.attributes.mtime.seconds = 99;
        assert_ne!(one.encode(), other.encode());
        let back = SeenState::decode(&one.encode()).unwrap();
        assert_eq!(back.encode(), one.encode());
        assert_eq!(back.attributes.xattrs, one.attributes.xattrs);
    }

    #[test]
    fn names_come_back_in_order() {
        let names = Vec::from([(b"a".to_vec(), 5), (b"b".to_vec(), 0)]);
        assert_eq!(decode_names(&encode_names(&names)), Ok(names.clone()));
        let turned: Vec<_> = names.into_iter().rev().collect();
        assert_eq!(decode_names(&encode_names(&turned)), Err(BodyError::Value("order of names")));
        assert_eq!(decode_names(&[255, 255, 255, 255]), Err(BodyError::Truncated));
    }

    #[test]
    fn many_findings_are_counted_and_fit() {
        let mut findings = Findings::default();
        for _ in 0..FINDINGS_MAX + 3 {
            findings.push(Aspect::MissingName, &[7; 300], &[7; 300], &[7; 300]);
        }
        assert_eq!((findings.list.len(), findings.more), (FINDINGS_MAX, 3));
        let bytes = findings.encode();
        assert!(bytes.len() <= DETAILS_MAX);
        assert_eq!(Findings::decode(&bytes), Ok(findings));
    }

    #[test]
    fn aspects_have_the_numbers_of_their_places() {
        for (place, aspect) in Aspect::ALL.into_iter().enumerate() {
            assert_eq!(aspect as usize, place + 1);
        }
        assert_eq!(Seen::decode(&[2]), Err(BodyError::Value("form of what was seen")));
        assert_eq!(Seen::decode(&[0, 1]), Err(BodyError::Truncated));
        assert_eq!(Seen::decode(&[1, 9]), Ok(Seen::Whole(&[9])));
    }
}
