//! What a node that was stopped in order has to know, beside what is on its disks, to go on as if only the connection had been lost.
//!
//! A node's memory of the other is worth something only as long as nothing happens that it is not told of. A crash ends it; so would a
//! stop, but for the edge, which keeps this on disk together with what every file looked like, and finds by that what was
//! changed while nobody watched (`docs/on-disk.md`). It is used once: a node that runs has none on disk.

use alloc::vec::Vec;

use crate::extent::{Extent, ExtentSet};
use crate::ids::{FileId, Sequence};
use crate::resume::{Held, LastStream};
use crate::wire::body::{
    extents, files, held, held_if_any, put_extents, put_files, put_held, put_held_if_any, put_stream, stream,
};
use crate::wire::cursor::{BodyError, Cursor, Put};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checkpoint {
    /// Of a primary.
    Primary(PrimaryCheckpoint),
    /// Of a secondary: what a stream may go on from.
    Secondary(Held),
}

/// What a primary knows of its peer, and what the peer may not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrimaryCheckpoint {
    pub(crate) last: LastStream,
    /// Files that have a name at the peer.
    pub(crate) known: Vec<FileId>,
    /// Directories whose names the peer has.
    pub(crate) scanned: Vec<FileId>,
    /// Directories that are marked, in order, and whether what was known of everything in them is not to be relied on.
    pub(crate) marked: Vec<(FileId, bool)>,
    /// Directories that are to be marked as soon as they are known.
    pub(crate) changed: Vec<FileId>,
    /// The peer may lack known files.
    pub(crate) may_lack: bool,
    pub(crate) files: Vec<(FileId, FileCheckpoint)>,
}

/// What of a file the peer may not have.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct FileCheckpoint {
    pub dirty: Vec<Extent>,
    pub mapped: Vec<Extent>,
    pub compare: Vec<Extent>,
    pub lost: bool,
    pub attributes: bool,
    pub explicit: bool,
}

const PRIMARY: u8 = 1;
const SECONDARY: u8 = 2;

const LOST: u8 = 1;
const ATTRIBUTES: u8 = 2;
const EXPLICIT: u8 = 4;

impl Checkpoint {
    /// The bytes that are kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Checkpoint::Primary(primary) => {
                bytes.put_u8(PRIMARY);
                primary.encode(&mut bytes);
            }
            Checkpoint::Secondary(held) => {
                bytes.put_u8(SECONDARY);
                put_held(&mut bytes, *held);
            }
        }
        bytes
    }

    /// What such bytes say.
    ///
    /// # Errors
    /// [`BodyError`]: they were not written by this version.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, BodyError> {
        let mut cursor = Cursor::new(bytes);
        let checkpoint = match cursor.u8()? {
            PRIMARY => Checkpoint::Primary(PrimaryCheckpoint::decode(&mut cursor)?),
            SECONDARY => Checkpoint::Secondary(held(&mut cursor)?),
            _ => return Err(BodyError::Value("role")),
        };
        cursor.finish()?;
        Ok(checkpoint)
    }
}

impl PrimaryCheckpoint {
    fn encode(&self, bytes: &mut Vec<u8>) {
        put_stream(bytes, self.last.stream);
        bytes.put_u64(self.last.proven.0);
        bytes.put_u64(self.last.queued.0);
        put_held_if_any(bytes, self.last.before);
        put_files(bytes, &self.known);
        put_files(bytes, &self.scanned);
        bytes.put_count(self.marked.len());
        for &(directory, deep) in &self.marked {
            bytes.put_file(directory);
            bytes.put_u8(u8::from(deep));
        }
        put_files(bytes, &self.changed);
        bytes.put_u8(u8::from(self.may_lack));
        bytes.put_count(self.files.len());
        for (file, marks) in &self.files {
            bytes.put_file(*file);
            marks.encode(bytes);
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<PrimaryCheckpoint, BodyError> {
        let (stream, proven, queued) = (stream(cursor)?, Sequence(cursor.u64()?), Sequence(cursor.u64()?));
        let before = held_if_any(cursor)?;
        if proven > queued {
            return Err(BodyError::Value("order of positions"));
        }
        Ok(PrimaryCheckpoint {
            last: LastStream { stream, proven, queued, before },
            known: files(cursor, usize::MAX)?,
            scanned: files(cursor, usize::MAX)?,
            marked: cursor
                .list(11, usize::MAX, "marked", |cursor| Ok((cursor.file()?, cursor.flag("deep")?)))?,
            changed: files(cursor, usize::MAX)?,
            may_lack: cursor.flag("may lack")?,
            files: cursor.list(23, usize::MAX, "files", |cursor| {
                Ok((cursor.file()?, FileCheckpoint::decode(cursor)?))
            })?,
        })
    }
}

impl FileCheckpoint {
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let flag = |set, flag| if set { flag } else { 0 };
        bytes.put_u8(
            flag(self.lost, LOST) | flag(self.attributes, ATTRIBUTES) | flag(self.explicit, EXPLICIT),
        );
        for extents in [&self.dirty, &self.mapped, &self.compare] {
            put_extents(bytes, extents);
        }
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<FileCheckpoint, BodyError> {
        let flags = cursor.u8()?;
        if flags & !(LOST | ATTRIBUTES | EXPLICIT) != 0 {
            return Err(BodyError::Value("marks"));
        }
        Ok(FileCheckpoint {
            dirty: extents(cursor, usize::MAX)?,
            mapped: extents(cursor, usize::MAX)?,
            compare: extents(cursor, usize::MAX)?,
            lost: flags & LOST != 0,
            attributes: flags & ATTRIBUTES != 0,
            explicit: flags & EXPLICIT != 0,
        })
    }
}

/// Extents as a set.
pub(crate) fn set_of(extents: &[Extent]) -> ExtentSet {
    let mut set = ExtentSet::default();
    extents.iter().for_each(|extent| set.insert(*extent));
    set
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::ids::VolumeId;
    use crate::resume::StreamId;

    fn file(inode: u64) -> FileId {
        FileId { volume: VolumeId(1), inode }
    }

    fn held(number: u64) -> Held {
        Held { stream: StreamId { incarnation: [7; 16], number }, received: Sequence(9) }
    }

    fn example() -> Checkpoint {
        let marks = FileCheckpoint {
            dirty: vec![Extent { start: 3, end: 9 }],
            mapped: vec![Extent { start: 0, end: 4096 }, Extent { start: 8192, end: Extent::END }],
            compare: vec![Extent::WHOLE],
            lost: true,
            attributes: true,
            explicit: false,
        };
        Checkpoint::Primary(PrimaryCheckpoint {
            last: LastStream {
                stream: StreamId { incarnation: [3; 16], number: 4 },
                proven: Sequence(5),
                queued: Sequence(6),
                before: Some(held(2)),
            },
            known: vec![file(2), file(3), file(4)],
            scanned: vec![file(2)],
            marked: vec![(file(2), true), (file(9), false)],
            changed: vec![file(12)],
            may_lack: true,
            files: vec![
                (file(3), marks),
                (file(4), FileCheckpoint { attributes: true, ..Default::default() }),
            ],
        })
    }

    #[test]
    fn what_is_written_is_read_again() {
        for checkpoint in [example(), Checkpoint::Secondary(held(8))] {
            assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
        }
    }

    #[test]
    fn no_part_of_it_is_taken_for_the_whole() {
        let bytes = example().encode();
        for length in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..length]).is_err(), "{length}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(Checkpoint::decode(&longer), Err(BodyError::Trailing(1)));
        let mut other = bytes;
        other[0] = 3;
        assert_eq!(Checkpoint::decode(&other), Err(BodyError::Value("role")));
    }
}
