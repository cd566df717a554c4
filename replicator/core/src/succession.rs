//! What a node that takes over knows of the other one's copy, so that only what differs is looked at when that comes back.
//!
//! ```text
//!   before:   one node is the primary  ---- stream ---->  the other is its secondary, and knows which file of its own is which of
//!                      |                                  the primary's ([`Inheritance`])
//!          crashes, or is stopped                                         |  is promoted
//!                      v                                                  v
//!   after:    secondary, and knows what may         -- Legacy -->     primary: takes it for the former's copy but for that, and for
//!             differ from the other ([`Legacy`])    <-- Copies --     what it changed since
//! ```
//!
//! The former primary recorded what may differ before it did ([`crate::activity`]); all else is the same on both nodes, wherever in the stream
//! its end was. Files are known by the primary's numbers, which are others now: the new primary tells for each file what its number was
//! ([`encode_copies`]). The former one binds those that it still has, and what it vouches for must be among them: else the two did not know the same, and
//! everything is compared.
//!
//! From there on it is as if the secondary had held a stream of the new primary up to the moment of the promotion ([`crate::resume`]).

use alloc::vec::Vec;

use crate::activity::Activity;
use crate::checkpoint::FileCheckpoint;
use crate::ids::{FileId, FileKind, Generation, VolumeId};
use crate::resume::{Held, StreamId};
use crate::wire::body::{Holding, files, put_files, put_stream, stream};
use crate::wire::cursor::{BodyError, Cursor, Put};

/// Most files that a [`Legacy`] tells of; one of whom more is in doubt leaves none.
pub const LEGACY_FILES_MAX: usize = 32_768;
/// Most bytes of an encoded legacy.
pub const LEGACY_BYTES_MAX: usize = 2 << 20;
/// Most copies in one `Copies` frame.
pub const COPIES_MAX: usize = 65_536;
/// Bytes of an encoded [`CopyOf`].
pub const COPY_BYTES: usize = 19;

/// What a former primary says of its copy. All that it does not name is, durably, as the other node had it when one of the streams ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Legacy {
    /// Its streams that the other node may have held last.
    streams: Vec<StreamId>,
    /// Directories of which names may differ, and whether all below may.
    marked: Vec<(FileId, bool)>,
    /// Files and directories that the other node may not know.
    changed: Vec<FileId>,
    /// What may differ of other files.
    files: Vec<(FileId, FileCheckpoint)>,
}

/// What may differ of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Difference {
    /// The names in it, and perhaps all below.
    Names { deep: bool },
    /// Everything of it; of a directory, its names.
    All,
    /// This.
    Parts(FileCheckpoint),
}

impl Legacy {
    /// Of a primary that left this and has these files, in any order. `None`: there is nothing, or too much.
    ///
    /// One that was just made need not be on record before it is there, only its directory; but the other node may know it by now. So what it is not known
    /// to have may differ.
    #[must_use]
    pub fn of(activity: &Activity, there: impl Iterator<Item = FileId>) -> Option<Legacy> {
        let checkpoint = activity.checkpoint()?;
        let there = there.filter(|file| !activity.named(*file).known && !activity.is_doubtful(*file));
        let legacy = Legacy {
            streams: activity.streams().to_vec(),
            marked: checkpoint.marked,
            changed: checkpoint.changed.into_iter().chain(activity.unknown()).chain(there).collect(),
            files: checkpoint.files,
        };
        let count = legacy.marked.len() + legacy.changed.len() + legacy.files.len();
        let small = count <= LEGACY_FILES_MAX && legacy.encode().len() <= LEGACY_BYTES_MAX;
        small.then_some(legacy)
    }

    /// Whether the other node may have held that stream last.
    pub(crate) fn is_of(&self, stream: StreamId) -> bool {
        self.streams.contains(&stream)
    }

    /// All that may differ. A file may be named more than once.
    pub(crate) fn differences(&self) -> impl Iterator<Item = (FileId, Difference)> + '_ {
        let marked = self.marked.iter().map(|&(file, deep)| (file, Difference::Names { deep }));
        let changed = self.changed.iter().map(|&file| (file, Difference::All));
        let files = self.files.iter().map(|(file, parts)| (*file, Difference::Parts(parts.clone())));
        marked.chain(changed).chain(files)
    }

    /// The payload of a `Legacy` frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_count(self.streams.len());
        self.streams.iter().for_each(|id| put_stream(&mut bytes, *id));
        bytes.put_count(self.marked.len());
        for &(directory, deep) in &self.marked {
            bytes.put_file(directory);
            bytes.put_u8(u8::from(deep));
        }
        put_files(&mut bytes, &self.changed);
        bytes.put_count(self.files.len());
        for (file, parts) in &self.files {
            bytes.put_file(*file);
            parts.encode(&mut bytes);
        }
        bytes
    }

    /// What such a payload says.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(bytes: &[u8]) -> Result<Legacy, BodyError> {
        let mut cursor = Cursor::new(bytes);
        let legacy = Legacy {
            streams: cursor.list(24, LEGACY_FILES_MAX, "streams", stream)?,
            marked: cursor
                .list(11, LEGACY_FILES_MAX, "marked", |cursor| Ok((cursor.file()?, cursor.flag("deep")?)))?,
            changed: files(&mut cursor, LEGACY_FILES_MAX)?,
            files: cursor.list(23, LEGACY_FILES_MAX, "files", |cursor| {
                Ok((cursor.file()?, FileCheckpoint::decode(cursor)?))
            })?,
        };
        cursor.finish()?;
        Ok(legacy)
    }
}

impl Activity {
    /// Files that the peer had, and that do not differ: they are there, and the other node knows them.
    pub fn vouched(&self) -> impl Iterator<Item = FileId> + '_ {
        self.known().filter(|file| !self.is_doubtful(*file))
    }
}

/// A file here that was the copy of one of the former primary's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CopyOf {
    /// The former primary's file.
    pub original: FileId,
    /// The file here, in the same volume.
    pub here: FileId,
    /// What both are.
    pub kind: FileKind,
}

impl CopyOf {
    /// Append its bytes: volume, number here, number of the original, kind.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.put_u16(self.here.volume.0);
        bytes.put_u64(self.here.inode);
        bytes.put_u64(self.original.inode);
        bytes.put_u8(self.kind as u8);
    }

    /// The one in such bytes.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(bytes: &[u8; COPY_BYTES]) -> Result<CopyOf, BodyError> {
        CopyOf::read(&mut Cursor::new(bytes))
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<CopyOf, BodyError> {
        let volume = VolumeId(cursor.u16()?);
        let mut file = || Ok(FileId { volume, inode: cursor.u64()? });
        let (here, original) = (file()?, file()?);
        let kind = FileKind::from_u8(cursor.u8()?).ok_or(BodyError::Value("file kind"))?;
        Ok(CopyOf { original, here, kind })
    }
}

/// What a secondary that is promoted knows of the copy that the former primary has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inheritance {
    /// What it held of the former primary's last stream, all of it applied.
    held: Held,
    /// Ascending by the original.
    copies: Vec<CopyOf>,
}

impl Inheritance {
    /// Of a secondary that is at rest, holds this, and has all of these files.
    #[must_use]
    pub fn new(held: Held, mut copies: Vec<CopyOf>) -> Inheritance {
        copies.sort_unstable();
        Inheritance { held, copies }
    }

    /// What was held.
    pub(crate) fn held(&self) -> Held {
        self.held
    }

    pub(crate) fn copies(&self) -> &[CopyOf] {
        &self.copies
    }

    /// The copy of a file of the former primary's.
    pub(crate) fn copy_of(&self, original: FileId) -> Option<CopyOf> {
        let at = self.copies.binary_search_by_key(&original, |copy| copy.original).ok()?;
        self.copies.get(at).copied()
    }

    /// Whether what the secondary leaves fits: it was the primary of the stream that this node held, and has nothing newer.
    pub(crate) fn fits(&self, legacy: &Legacy, generation: Generation, holding: Holding) -> bool {
        legacy.is_of(self.held.stream) && holding.generation <= generation
    }
}

/// The payload of a `Copies` frame.
#[must_use]
pub fn encode_copies(copies: &[CopyOf]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + copies.len() * COPY_BYTES);
    bytes.put_count(copies.len());
    copies.iter().for_each(|copy| copy.encode(&mut bytes));
    bytes
}

/// The copies in such a payload.
///
/// # Errors
/// [`BodyError`].
pub fn decode_copies(bytes: &[u8]) -> Result<Vec<CopyOf>, BodyError> {
    let mut cursor = Cursor::new(bytes);
    let copies = cursor.list(COPY_BYTES, COPIES_MAX, "copies", CopyOf::read)?;
    cursor.finish()?;
    Ok(copies)
}

#[cfg(test)]
mod tests;
