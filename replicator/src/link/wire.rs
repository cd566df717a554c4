//! Stand-in for the header's encoding until `replicator_core::wire::header` has it.

use replicator_core::ids::{FileId, Sequence, Term, VolumeId};
use replicator_core::wire::header::{HEADER_BYTES, Header, Kind, MAGIC, PAYLOAD_MAX};

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HeaderError {
    #[error("wrong magic")]
    Magic,
    #[error("header checksum")]
    Checksum,
    #[error("unknown kind {0}")]
    Kind(u16),
    #[error("payload of {0} bytes")]
    Oversize(u32),
}

pub struct Decoded {
    pub header: Header,
    pub version: u16,
    pub payload_length: u32,
    pub payload_checksum: u32,
}

pub fn encode(
    header: &Header,
    version: u16,
    payload_length: u32,
    payload_checksum: u32,
) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..6].copy_from_slice(&version.to_le_bytes());
    out[6..8].copy_from_slice(&(header.kind as u16).to_le_bytes());
    out[8..16].copy_from_slice(&header.term.0.to_le_bytes());
    out[16..24].copy_from_slice(&header.sequence.0.to_le_bytes());
    out[24..26].copy_from_slice(&header.file.volume.0.to_le_bytes());
    out[26..28].copy_from_slice(&header.flags.to_le_bytes());
    out[28..32].copy_from_slice(&payload_length.to_le_bytes());
    out[32..40].copy_from_slice(&header.file.inode.to_le_bytes());
    out[40..48].copy_from_slice(&header.offset.to_le_bytes());
    out[48..56].copy_from_slice(&header.length.to_le_bytes());
    out[56..60].copy_from_slice(&payload_checksum.to_le_bytes());
    let checksum = crc32c::crc32c(&out[..60]);
    out[60..64].copy_from_slice(&checksum.to_le_bytes());
    out
}

pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Decoded, HeaderError> {
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    if u32_at(0) != MAGIC {
        return Err(HeaderError::Magic);
    }
    if crc32c::crc32c(&bytes[..60]) != u32_at(60) {
        return Err(HeaderError::Checksum);
    }
    let kind = match u16_at(6) {
        1 => Kind::Hello,
        2 => Kind::Refuse,
        3 => Kind::KeepAlive,
        4 => Kind::Data,
        5 => Kind::Hole,
        11 => Kind::Barrier,
        17 => Kind::Goodbye,
        other => return Err(HeaderError::Kind(other)),
    };
    if u32_at(28) > PAYLOAD_MAX {
        return Err(HeaderError::Oversize(u32_at(28)));
    }
    Ok(Decoded {
        header: Header {
            kind,
            flags: u16_at(26),
            term: Term(u64_at(8)),
            sequence: Sequence(u64_at(16)),
            file: FileId { volume: VolumeId(u16_at(24)), inode: u64_at(32) },
            offset: u64_at(40),
            length: u64_at(48),
        },
        version: u16_at(4),
        payload_length: u32_at(28),
        payload_checksum: u32_at(56),
    })
}
