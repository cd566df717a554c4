//! One thing that a register says.

use replicator_core::ids::{FileId, FileKind, Generation, VolumeId};
use replicator_core::lineage::{self, GenerationId};
use replicator_core::resume::StreamId;
use replicator_core::wire::BodyError;

use crate::storage::log;
use crate::volume::FileHandle;

/// Bytes of an entry, whatever it is: the rest is zero.
const BYTES: usize = 28;

const BOUND: u8 = 1;
const UNBOUND: u8 = 2;
const DELETED: u8 = 3;
const STREAM: u8 = 4;
const UNTIL: u8 = 5;
const GENERATION: u8 = 6;

/// Stands for a file's handle, which the number of another file may have later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(u64);

impl Tag {
    /// That of a handle.
    #[must_use]
    pub fn of(handle: &FileHandle) -> Tag {
        let (kind, bytes) = handle.parts();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&kind.to_le_bytes());
        hasher.update(bytes);
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Tag(u64::from_le_bytes(first))
    }
}

/// See the module. A file is one of the primary's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Its copy is this; what either of them was bound to before is not bound any more.
    Bound {
        /// The file.
        file: FileId,
        /// Inode number of the copy, in the same volume.
        here: u64,
        /// What both are.
        kind: FileKind,
        /// Of the copy.
        tag: Tag,
    },
    /// It has no copy.
    Unbound(FileId),
    /// Its copy was deleted without the primary's knowledge.
    Deleted(FileId),
    /// What is held is of this stream.
    Stream(StreamId),
    /// The node's state has this generation.
    Generation(GenerationId),
    /// Up to this moment, in nanoseconds since 1970, the node may have changed its files itself.
    Until(i64),
}

impl log::Entry for Entry {
    const MAGIC: [u8; 8] = *b"RPLRGLOG";
    const NAME: &'static str = "register";

    fn encode(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len() + BYTES;
        let put_file = |bytes: &mut Vec<u8>, kind, file: FileId| {
            bytes.push(kind);
            bytes.extend_from_slice(&file.volume.0.to_le_bytes());
            bytes.extend_from_slice(&file.inode.to_le_bytes());
        };
        match *self {
            Entry::Bound { file, here, kind, tag } => {
                put_file(bytes, BOUND, file);
                bytes.extend_from_slice(&here.to_le_bytes());
                bytes.push(kind as u8);
                bytes.extend_from_slice(&tag.0.to_le_bytes());
            }
            Entry::Unbound(file) => put_file(bytes, UNBOUND, file),
            Entry::Deleted(file) => put_file(bytes, DELETED, file),
            Entry::Stream(stream) => {
                bytes.push(STREAM);
                bytes.extend_from_slice(&stream.incarnation);
                bytes.extend_from_slice(&stream.number.to_le_bytes());
            }
            Entry::Generation(generation) => {
                bytes.push(GENERATION);
                bytes.extend_from_slice(&generation.number.0.to_le_bytes());
                bytes.extend_from_slice(&generation.tag.0.to_le_bytes());
            }
            Entry::Until(moment) => {
                bytes.push(UNTIL);
                bytes.extend_from_slice(&moment.to_le_bytes());
            }
        }
        bytes.resize(end, 0);
    }

    fn decode_all(bytes: &[u8]) -> Result<Vec<Entry>, BodyError> {
        let (entries, rest) = bytes.as_chunks::<BYTES>();
        if !rest.is_empty() {
            return Err(BodyError::Trailing(rest.len()));
        }
        entries.iter().map(|bytes| decode(bytes).ok_or(BodyError::Value("entry"))).collect()
    }
}

fn decode(bytes: &[u8; BYTES]) -> Option<Entry> {
    let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let volume = VolumeId(u16::from_le_bytes([bytes[1], bytes[2]]));
    let file = FileId { volume, inode: number(3)? };
    Some(match bytes[0] {
        BOUND => Entry::Bound {
            file,
            here: number(11)?,
            kind: FileKind::from_u8(bytes[19])?,
            tag: Tag(number(20)?),
        },
        UNBOUND => Entry::Unbound(file),
        DELETED => Entry::Deleted(file),
        STREAM => {
            Entry::Stream(StreamId { incarnation: *bytes.get(1..)?.first_chunk()?, number: number(17)? })
        }
        GENERATION => {
            Entry::Generation(GenerationId { number: Generation(number(1)?), tag: lineage::Tag(number(9)?) })
        }
        UNTIL => Entry::Until(i64::from_le_bytes(*bytes.get(1..)?.first_chunk()?)),
        _ => return None,
    })
}
