//! The bytes of the state file.

use replicator_core::action::{DataState, StateRecord};
use replicator_core::ids::{Generation, Sequence, Term};
use replicator_core::lineage::{GenerationId, HISTORY, Lineage, Tag};
use replicator_core::resume::{Held, StreamId};
use replicator_core::wire::hello::Role;

use super::StateError;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"RPLSTATE";
/// Version of the layout that this build writes. It reads all before it, too.
pub const VERSION: u32 = 2;
/// Length of the file in bytes.
pub const STATE_BYTES: usize = 384;

/// Length of a file of version 1.
const STATE_BYTES_1: usize = 80;

const TERM: usize = 48;
const CURRENT: usize = 56;
const SHARED: usize = 72;
const KEEPING: usize = 88;
const DATA: usize = 104;
const ALONE: usize = 105;
const ROLE: usize = 106;
const RUNNING: usize = 107;
const CRASHED: usize = 108;
const LOST: usize = 109;
const HAS_SYNCED: usize = 110;
const SYNCED: usize = 112;
const PAST: usize = 144;
const RESERVED: usize = PAST + HISTORY * 16;

const _: () = assert!(RESERVED == 336 && RESERVED < STATE_BYTES - 4);

/// What the state file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeState {
    /// The cluster this node belongs to.
    pub cluster: [u8; 16],
    /// This node.
    pub node: [u8; 16],
    /// What the core has to remember.
    pub record: StateRecord,
}

impl NodeState {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let record = &self.record;
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(STATE_BYTES as u32).to_le_bytes());
        put(16, &self.cluster);
        put(32, &self.node);
        put(TERM, &record.term.0.to_le_bytes());
        put(CURRENT, &generation_bytes(record.lineage.current));
        put(SHARED, &generation_bytes(record.lineage.shared));
        put(KEEPING, &generation_bytes(record.keeping));
        put(DATA, &[record.data as u8]);
        put(ROLE, &[record.role.map_or(0, |role| role as u8)]);
        let flags = [
            (ALONE, record.alone),
            (RUNNING, record.running),
            (CRASHED, record.crashed),
            (LOST, record.lost),
            (HAS_SYNCED, record.synced.is_some()),
        ];
        flags.iter().for_each(|(at, holds)| put(*at, &[u8::from(*holds)]));
        if let Some(Held { stream, received }) = record.synced {
            put(SYNCED, &stream.incarnation);
            put(SYNCED + 16, &stream.number.to_le_bytes());
            put(SYNCED + 24, &received.0.to_le_bytes());
        }
        for (place, id) in record.lineage.history.iter().enumerate() {
            put(PAST + place * 16, &generation_bytes(*id));
        }
        let checksum = crc32c::crc32c(&bytes[..STATE_BYTES - 4]);
        bytes[STATE_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The state in a file's bytes, of this version or an older one.
    ///
    /// # Errors
    /// [`StateError`]: the version is looked at before the length and checksum, so that a newer file is known as one.
    pub fn decode(bytes: &[u8]) -> Result<NodeState, StateError> {
        let wrong_length = || StateError::WrongLength { found: bytes.len() };
        if bytes.first_chunk().ok_or_else(wrong_length)? != &MAGIC {
            return Err(StateError::NoMagic);
        }
        match u32::from_le_bytes(field(bytes, 8).ok_or_else(wrong_length)?) {
            1 => version_1(&Checked::new::<STATE_BYTES_1>(bytes)?),
            VERSION => version_2(&Checked::new::<STATE_BYTES>(bytes)?),
            found if found > VERSION => Err(StateError::Newer { found }),
            found => Err(StateError::NoSuchVersion { found }),
        }
    }
}

/// A file of the right length whose checksum holds.
struct Checked<'a>(&'a [u8]);

impl<'a> Checked<'a> {
    fn new<const LENGTH: usize>(bytes: &'a [u8]) -> Result<Checked<'a>, StateError> {
        let wrong_length = || StateError::WrongLength { found: bytes.len() };
        let whole: &[u8; LENGTH] = bytes.try_into().map_err(|_| wrong_length())?;
        let found = u32::from_le_bytes(field(whole, LENGTH - 4).ok_or_else(wrong_length)?);
        let computed = crc32c::crc32c(&whole[..LENGTH - 4]);
        if found != computed {
            return Err(StateError::Checksum { found, computed });
        }
        if whole[12..16] != (LENGTH as u32).to_le_bytes() {
            return Err(StateError::Field { field: "length" });
        }
        Ok(Checked(whole))
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], StateError> {
        field(self.0, at).ok_or(StateError::WrongLength { found: self.0.len() })
    }

    fn byte(&self, at: usize) -> Result<u8, StateError> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    fn number(&self, at: usize) -> Result<u64, StateError> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn flag(&self, at: usize, field: &'static str) -> Result<bool, StateError> {
        match self.byte(at)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StateError::Field { field }),
        }
    }

    fn generation(&self, at: usize) -> Result<GenerationId, StateError> {
        let id = GenerationId { number: Generation(self.number(at)?), tag: Tag(self.number(at + 8)?) };
        // A tag is one of a generation.
        if id.is_none() && id != GenerationId::NONE {
            return Err(StateError::Field { field: "generation" });
        }
        Ok(id)
    }

    fn data(&self, at: usize) -> Result<DataState, StateError> {
        DataState::from_u8(self.byte(at)?).ok_or(StateError::Field { field: "data" })
    }

    /// Nothing was ever written there.
    fn is_zero(&self, from: usize, to: usize, field: &'static str) -> Result<(), StateError> {
        match self.0.get(from..to) {
            Some(bytes) if bytes.iter().all(|&byte| byte == 0) => Ok(()),
            _ => Err(StateError::Field { field }),
        }
    }
}

fn version_2(file: &Checked<'_>) -> Result<NodeState, StateError> {
    let mut lineage = Lineage {
        current: file.generation(CURRENT)?,
        shared: file.generation(SHARED)?,
        ..Lineage::default()
    };
    for (place, id) in lineage.history.iter_mut().enumerate() {
        *id = file.generation(PAST + place * 16)?;
    }
    let role = match file.byte(ROLE)? {
        0 => None,
        role if role == Role::Primary as u8 => Some(Role::Primary),
        role if role == Role::Secondary as u8 => Some(Role::Secondary),
        _ => return Err(StateError::Field { field: "role" }),
    };
    let synced = if file.flag(HAS_SYNCED, "last synced position")? {
        let stream = StreamId { incarnation: file.array(SYNCED)?, number: file.number(SYNCED + 16)? };
        Some(Held { stream, received: Sequence(file.number(SYNCED + 24)?) })
    } else {
        file.is_zero(SYNCED, PAST, "last synced position")?;
        None
    };
    file.is_zero(HAS_SYNCED + 1, SYNCED, "reserved")?;
    file.is_zero(RESERVED, STATE_BYTES - 4, "reserved")?;
    Ok(NodeState {
        cluster: file.array(16)?,
        node: file.array(32)?,
        record: StateRecord {
            term: Term(file.number(TERM)?),
            lineage,
            data: file.data(DATA)?,
            alone: file.flag(ALONE, "alone")?,
            role,
            running: file.flag(RUNNING, "running")?,
            crashed: file.flag(CRASHED, "crashed")?,
            lost: file.flag(LOST, "lost")?,
            keeping: file.generation(KEEPING)?,
            synced,
        },
    })
}

/// What version 1 knew: its generations had no tags and no past.
fn version_1(file: &Checked<'_>) -> Result<NodeState, StateError> {
    file.is_zero(66, STATE_BYTES_1 - 4, "reserved")?;
    Ok(NodeState {
        cluster: file.array(16)?,
        node: file.array(32)?,
        record: StateRecord {
            term: Term(file.number(48)?),
            lineage: Lineage::untagged(Generation(file.number(56)?)),
            data: file.data(64)?,
            alone: file.flag(65, "alone")?,
            // A primary that ran until now and one that was stopped in order look the same: everything is compared anyway.
            ..StateRecord::unknown()
        },
    })
}

fn generation_bytes(id: GenerationId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.number.0.to_le_bytes());
    bytes[8..].copy_from_slice(&id.tag.0.to_le_bytes());
    bytes
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
