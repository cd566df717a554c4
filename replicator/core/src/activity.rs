//! What a primary leaves behind when it crashes: which files may differ from the peer's.
//!
//! A base says what the peer had at a moment and what was in doubt then. Records follow it, in the order in which they were made:
//! each file that may change is named *before* it does ([`Record::Intent`]), and leaves only when nobody can write to it any more, the peer has
//! confirmed all of it as durable, and this node's own copy is durable, too ([`Record::Settled`]). So at each moment
//!
//! * a file that is not in doubt is, on stable storage, the same on both nodes, and its names are;
//! * a file that has a name and is not known to the peer has it in a directory that is in doubt.
//!
//! That is all that a session needs to go on from ([`crate::resume`]), wherever in the stream the crash was: everything that a frame behind the base
//! was about is in doubt. Records that are not durable are worth nothing, and nobody was answered on the strength of them.
//!
//! ```text
//!   base ---- Begin, Intent, Named, Relist, Listed, Parts, Settled ----> crash
//!     `--------------- replayed in this order --------------------> Activity::checkpoint
//! ```

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::checkpoint::{FileCheckpoint, PrimaryCheckpoint};
use crate::extent::Extent;
use crate::file_set::FileSet;
use crate::ids::{FileId, Sequence};
use crate::resume::{LastStream, StreamId};
use crate::wire::body::{extents, files, put_extents, put_files, put_stream, stream};
use crate::wire::cursor::{BodyError, Cursor, Put};

/// Most bytes of an encoded record.
pub const RECORD_BYTES_MAX: usize = 480;
/// Most extents of a [`Record::Parts`].
pub const PARTS_MAX: usize = 24;

/// What the peer has of a file's names.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Named {
    /// It has a copy under some name.
    pub known: bool,
    /// It is a directory whose names the peer has.
    pub scanned: bool,
}

/// One thing that happened since the base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A stream begins that goes on from the one before: what the peer says to hold may be of it.
    Begin(StreamId),
    /// The file may change from here on: its bytes, its attributes, or the names in it.
    Intent {
        /// The file or directory.
        file: FileId,
        /// It was just made: what the peer has under its number is another file.
        new: bool,
    },
    /// The directory is about to be listed for the peer, which may lose what the list does not name.
    Relist(FileId),
    /// The list of the directory is answered, and what the answer was about is on record: its names are in doubt, and no more.
    Listed(FileId),
    /// What the peer has of the file's names has changed.
    Named(FileId, Named),
    /// Nobody writes to the file, and what is in doubt of it is this: all else is durable on both nodes.
    Parts {
        /// The file.
        file: FileId,
        /// Bytes, at most [`PARTS_MAX`] extents.
        dirty: Vec<Extent>,
        /// Its attributes, by themselves or as a consequence of a write.
        attributes: bool,
        /// What the file looks like here, as in [`Record::Settled`].
        look: u64,
    },
    /// Nothing is in doubt of the file any more.
    Settled {
        /// The file.
        file: FileId,
        /// What the peer has of its names.
        named: Named,
        /// What the file looks like here. A number of the edge's, 0 if there is none.
        look: u64,
    },
}

const BEGIN: u8 = 1;
const INTENT: u8 = 2;
const INTENT_NEW: u8 = 3;
const RELIST: u8 = 4;
const NAMED: u8 = 5;
const PARTS: u8 = 6;
const SETTLED: u8 = 7;
const LISTED: u8 = 8;

const KNOWN: u8 = 1;
const SCANNED: u8 = 2;

impl Named {
    fn encode(self) -> u8 {
        (u8::from(self.known) * KNOWN) | (u8::from(self.scanned) * SCANNED)
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Named, BodyError> {
        let bits = cursor.u8()?;
        if bits & !(KNOWN | SCANNED) != 0 {
            return Err(BodyError::Value("named"));
        }
        Ok(Named { known: bits & KNOWN != 0, scanned: bits & SCANNED != 0 })
    }
}

impl Record {
    /// Append the record's bytes, at most [`RECORD_BYTES_MAX`].
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Record::Begin(stream) => {
                bytes.put_u8(BEGIN);
                put_stream(bytes, *stream);
            }
            Record::Intent { file, new } => {
                bytes.put_u8(if *new { INTENT_NEW } else { INTENT });
                bytes.put_file(*file);
            }
            Record::Relist(directory) => {
                bytes.put_u8(RELIST);
                bytes.put_file(*directory);
            }
            Record::Listed(directory) => {
                bytes.put_u8(LISTED);
                bytes.put_file(*directory);
            }
            Record::Named(file, named) => {
                bytes.put_u8(NAMED);
                bytes.put_file(*file);
                bytes.put_u8(named.encode());
            }
            Record::Parts { file, dirty, attributes, look } => {
                bytes.put_u8(PARTS);
                bytes.put_file(*file);
                bytes.put_u8(u8::from(*attributes));
                bytes.put_u64(*look);
                put_extents(bytes, dirty);
            }
            Record::Settled { file, named, look } => {
                bytes.put_u8(SETTLED);
                bytes.put_file(*file);
                bytes.put_u8(named.encode());
                bytes.put_u64(*look);
            }
        }
    }

    fn decode_one(cursor: &mut Cursor<'_>) -> Result<Record, BodyError> {
        Ok(match cursor.u8()? {
            BEGIN => Record::Begin(stream(cursor)?),
            INTENT => Record::Intent { file: cursor.file()?, new: false },
            INTENT_NEW => Record::Intent { file: cursor.file()?, new: true },
            RELIST => Record::Relist(cursor.file()?),
            LISTED => Record::Listed(cursor.file()?),
            NAMED => Record::Named(cursor.file()?, Named::decode(cursor)?),
            PARTS => {
                let (file, attributes, look) = (cursor.file()?, cursor.flag("attributes")?, cursor.u64()?);
                Record::Parts { file, dirty: extents(cursor, PARTS_MAX)?, attributes, look }
            }
            SETTLED => {
                Record::Settled { file: cursor.file()?, named: Named::decode(cursor)?, look: cursor.u64()? }
            }
            _ => return Err(BodyError::Value("record")),
        })
    }

    /// The records in some bytes, one behind the other.
    ///
    /// # Errors
    /// [`BodyError`]: they were not written by this version.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Record>, BodyError> {
        let mut cursor = Cursor::new(bytes);
        let mut records = Vec::new();
        while cursor.left() > 0 {
            records.push(Record::decode_one(&mut cursor)?);
        }
        Ok(records)
    }
}

/// What is in doubt of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Doubt {
    /// Everything; of a directory, its names.
    All,
    /// The same of a directory, and whether the peer has what is in it: a list may have had it make files anew, which it tells in its answer.
    Relisted,
    /// This, and nothing else.
    Parts(FileCheckpoint),
}

/// What the peer has, and what is in doubt of it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Activity {
    /// What the peer may say to hold, ascending in age from the last.
    streams: Vec<StreamId>,
    known: FileSet,
    scanned: FileSet,
    /// Directories that are to be listed as soon as they are known.
    changed: BTreeSet<FileId>,
    doubts: BTreeMap<FileId, Doubt>,
    /// What files looked like when they were settled since the base, or a part of them was.
    looks: BTreeMap<FileId, u64>,
}

impl Activity {
    /// Of a primary whose peer holds this stream and knows these files, `doubtful` ones excepted.
    pub(crate) fn new(
        stream: StreamId,
        known: FileSet,
        scanned: FileSet,
        changed: BTreeSet<FileId>,
        doubtful: impl Iterator<Item = FileId>,
    ) -> Activity {
        let doubts = doubtful.map(|file| (file, Doubt::All)).collect();
        Activity { streams: Vec::from([stream]), known, scanned, changed, doubts, looks: BTreeMap::new() }
    }

    /// Take in what was recorded next.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Begin(stream) => self.streams.push(stream),
            Record::Intent { file, new } => {
                if new {
                    self.name(file, Named::default());
                }
                let doubt = self.doubts.entry(file).or_insert(Doubt::All);
                if matches!(doubt, Doubt::Parts(_)) {
                    *doubt = Doubt::All;
                }
            }
            Record::Relist(directory) => {
                self.doubts.insert(directory, Doubt::Relisted);
            }
            Record::Listed(directory) => {
                if let Some(doubt @ Doubt::Relisted) = self.doubts.get_mut(&directory) {
                    *doubt = Doubt::All;
                }
            }
            Record::Named(file, named) => self.name(file, named),
            Record::Parts { file, dirty, attributes, look } => {
                let explicit = attributes;
                let parts = FileCheckpoint { dirty, attributes, explicit, ..FileCheckpoint::default() };
                self.doubts.insert(file, Doubt::Parts(parts));
                self.looks.insert(file, look);
            }
            Record::Settled { file, named, look } => {
                self.name(file, named);
                self.doubts.remove(&file);
                self.changed.remove(&file);
                self.looks.insert(file, look);
            }
        }
    }

    fn name(&mut self, file: FileId, named: Named) {
        let set = |set: &mut FileSet, is_in: bool| {
            if is_in {
                set.insert(file)
            } else {
                set.remove(&file)
            };
        };
        set(&mut self.known, named.known);
        set(&mut self.scanned, named.scanned);
    }

    /// The files that are in doubt, ascending.
    pub fn doubtful(&self) -> impl Iterator<Item = FileId> + '_ {
        self.doubts.keys().copied()
    }

    /// What the peer has of the file's names.
    #[must_use]
    pub fn named(&self, file: FileId) -> Named {
        Named { known: self.known.contains(&file), scanned: self.scanned.contains(&file) }
    }

    /// The files that have a name at the peer, ascending.
    pub(crate) fn known(&self) -> impl Iterator<Item = FileId> + '_ {
        self.known.iter()
    }

    /// Files in doubt that the peer is not known to have: it may have.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = FileId> + '_ {
        self.doubtful().filter(|file| !self.known.contains(file))
    }

    /// Whether anything of the file is in doubt.
    #[must_use]
    pub fn is_doubtful(&self, file: FileId) -> bool {
        self.doubts.contains_key(&file) || self.changed.contains(&file)
    }

    /// How many there are.
    #[must_use]
    pub fn doubts(&self) -> usize {
        self.doubts.len()
    }

    /// Whether all of the file is in doubt, whatever it looks like.
    #[must_use]
    pub fn is_wholly_doubtful(&self, file: FileId) -> bool {
        matches!(self.doubts.get(&file), Some(Doubt::All | Doubt::Relisted))
    }

    /// Take out what files looked like when they were settled, or a part of them was; 0 where there is no look.
    #[must_use]
    pub fn take_looks(&mut self) -> BTreeMap<FileId, u64> {
        core::mem::take(&mut self.looks)
    }

    /// The streams that the peer may say to hold.
    pub(crate) fn streams(&self) -> &[StreamId] {
        &self.streams
    }

    /// What a primary that goes on from this knows. `None`: there is no stream to go on from.
    pub(crate) fn checkpoint(&self) -> Option<PrimaryCheckpoint> {
        // Wherever the crash was: what frames were about is in doubt.
        let (proven, queued) = (Sequence(0), Sequence(u64::MAX));
        let last = LastStream { stream: *self.streams.last()?, proven, queued, before: None };
        // A directory of which only operations were still told, because it was found gone, is forgotten like a session's: the next file with its number
        // may be of another kind.
        let is_known = |file: &FileId| self.known.contains(file);
        let mut checkpoint = PrimaryCheckpoint {
            last,
            known: self.known.iter().collect(),
            scanned: self.scanned.iter().filter(is_known).collect(),
            marked: Vec::new(),
            changed: self.changed.iter().copied().collect(),
            may_lack: true,
            files: Vec::new(),
        };
        let attributes = || FileCheckpoint { attributes: true, explicit: true, ..FileCheckpoint::default() };
        for (file, doubt) in &self.doubts {
            let marks = match doubt {
                // It has its names in directories that are in doubt, and is listed when their lists name it; or it has none, and whatever gets its
                // number next is not to be taken for it.
                _ if !self.known.contains(file) => continue,
                Doubt::All | Doubt::Relisted if self.scanned.contains(file) => {
                    checkpoint.marked.push((*file, *doubt == Doubt::Relisted));
                    attributes()
                }
                // Relisted, and no directory any more: its number was used again.
                Doubt::All | Doubt::Relisted => FileCheckpoint { lost: true, ..attributes() },
                Doubt::Parts(parts) => parts.clone(),
            };
            checkpoint.files.push((*file, marks));
        }
        Some(checkpoint)
    }

    /// The bytes that are kept of a base; what files look like is not among them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let list = |bytes: &mut Vec<u8>, files: Vec<FileId>| put_files(bytes, &files);
        bytes.put_count(self.streams.len());
        self.streams.iter().for_each(|stream| put_stream(&mut bytes, *stream));
        list(&mut bytes, self.known.iter().collect());
        list(&mut bytes, self.scanned.iter().collect());
        list(&mut bytes, self.changed.iter().copied().collect());
        bytes.put_count(self.doubts.len());
        for (file, doubt) in &self.doubts {
            let record = match doubt {
                Doubt::All => Record::Intent { file: *file, new: false },
                Doubt::Relisted => Record::Relist(*file),
                Doubt::Parts(parts) => {
                    let (dirty, attributes) = (parts.dirty.clone(), parts.attributes);
                    Record::Parts { file: *file, dirty, attributes, look: 0 }
                }
            };
            record.encode(&mut bytes);
        }
        bytes
    }

    /// What such bytes say.
    ///
    /// # Errors
    /// [`BodyError`]: they were not written by this version.
    pub fn decode(bytes: &[u8]) -> Result<Activity, BodyError> {
        let mut cursor = Cursor::new(bytes);
        let mut activity = Activity {
            streams: cursor.list(24, usize::MAX, "streams", stream)?,
            known: files(&mut cursor, usize::MAX)?.into_iter().collect(),
            scanned: files(&mut cursor, usize::MAX)?.into_iter().collect(),
            changed: files(&mut cursor, usize::MAX)?.into_iter().collect(),
            ..Activity::default()
        };
        for record in cursor.list(11, usize::MAX, "doubts", Record::decode_one)? {
            match record {
                Record::Intent { new: false, .. } | Record::Relist(_) | Record::Parts { .. } => {
                    activity.apply(record);
                }
                _ => return Err(BodyError::Value("doubt")),
            }
        }
        activity.looks.clear();
        cursor.finish()?;
        Ok(activity)
    }
}

#[cfg(test)]
mod tests;
