//! The datagram: a fixed little-endian header, a MAC, and at most one piece of the payload.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `RHB1` |
//! | 4 | 2 | version |
//! | 6 | 1 | number of the path, as the sender counts its paths |
//! | 7 | 1 | zero |
//! | 8 | 8 | which key made the MAC |
//! | 16 | 16 | cluster |
//! | 32 | 16 | sender's node id |
//! | 48 | 16 | sender's session |
//! | 64 | 8 | sequence: rises by one with each datagram of a session; the same on all paths |
//! | 72 | 8 | ticks the sender has executed in this session |
//! | 80 | 4 | sender's interval, microseconds |
//! | 84 | 4 | sender's era |
//! | 88 | 16 | heard: the session the sender believes, zero for none |
//! | 104 | 4 | heard: its era |
//! | 108 | 4 | heard: microseconds since something of it came on this path, all ones for never or too long |
//! | 112 | 8 | heard: version of the last payload that is complete, zero for none |
//! | 120 | 64 | heard: last sequence on each of eight paths, zero for none |
//! | 184 | 16 | answer: a session the sender does not believe yet, zero for none |
//! | 200 | 4 | answer: its era |
//! | 204 | 4 | zero |
//! | 208 | 8 | another key the sender accepts, zero for none |
//! | 216 | 8 | payload: version, zero for none |
//! | 224 | 4 | payload: bytes in all |
//! | 228 | 2 | payload: number of this piece |
//! | 230 | 2 | payload: number of pieces, zero if this datagram carries none |
//! | 232 | 2 | payload: bytes of this piece |
//! | 234 | 6 | zero |
//! | 240 | 32 | MAC over all that precedes it, the piece, and the receiver's node id |
//! | 272 | .. | the piece |
//!
//! The receiver's id is part of the MAC without being sent: a datagram that is sent back to where it came from, or on to a third node,
//! has no valid MAC there.

use super::config::PATHS_MAX;
use super::keys::{KeyId, MacKey};

/// Longest datagram in bytes: fits the smallest packet every IPv6 network carries (1280 bytes).
pub(crate) const DATAGRAM_MAX: usize = 1200;
/// Header and MAC in bytes.
pub(crate) const HEADER_BYTES: usize = SIGNED_BYTES + 32;
/// Payload bytes of one datagram.
pub(crate) const PIECE_BYTES: usize = DATAGRAM_MAX - HEADER_BYTES;
/// Longest payload in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// Most pieces of a payload.
pub(crate) const PIECES_MAX: usize = PAYLOAD_BYTES_MAX.div_ceil(PIECE_BYTES);

const MAGIC: [u8; 4] = *b"RHB1";
const VERSION: u16 = 1;
const SIGNED_BYTES: usize = 240;

const _: () = assert!(PATHS_MAX == 8, "the header has room for eight paths");
const _: () = assert!(PIECES_MAX <= 32, "the pieces that have come are marked in 32 bits");

/// One run of a node's heartbeat: drawn at its start, never zero.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Session(pub u128);

impl Session {
    pub(crate) const NONE: Session = Session(0);
}

/// What the sender knows of the receiver's session, which it believes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Heard {
    pub session: Session,
    pub era: u32,
    /// Microseconds since something came on the path of this datagram.
    pub held: Option<u32>,
    pub version: u64,
    pub sequences: [u64; PATHS_MAX],
}

/// The answer to a session that is not believed yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Answer {
    pub session: Session,
    pub era: u32,
}

/// Which part of which payload a datagram carries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Piece {
    /// Of the payload; zero if the sender has published none.
    pub version: u64,
    /// Bytes of the payload.
    pub total: u32,
    pub index: u16,
    /// Zero if the datagram carries no piece.
    pub count: u16,
    /// Bytes of this piece.
    pub length: u16,
}

impl Piece {
    /// The datagram says which payload is current and carries nothing of it.
    pub(crate) fn none(version: u64) -> Piece {
        Piece { version, ..Piece::default() }
    }

    /// Piece `index` of a payload of `total` bytes.
    pub(crate) fn of(version: u64, total: usize, index: usize) -> Piece {
        let rest = total.saturating_sub(index * PIECE_BYTES);
        // Nothing here is longer than a payload or a datagram.
        Piece {
            version,
            total: total as u32,
            index: index as u16,
            count: pieces_of(total) as u16,
            length: rest.min(PIECE_BYTES) as u16,
        }
    }

    fn is_sound(&self) -> bool {
        if self.count == 0 {
            return *self == Piece::none(self.version);
        }
        let total = self.total as usize;
        self.version > 0
            && total <= PAYLOAD_BYTES_MAX
            && self.index < self.count
            && *self == Piece::of(self.version, total, self.index.into())
    }
}

/// Datagrams that a payload of so many bytes needs. An empty one needs one, too.
pub(crate) fn pieces_of(total: usize) -> usize {
    total.div_ceil(PIECE_BYTES).max(1)
}

/// The header but what is the same in every datagram, and the MAC.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Header {
    pub path: u8,
    pub key: KeyId,
    pub cluster: [u8; 16],
    pub sender: [u8; 16],
    pub session: Session,
    pub sequence: u64,
    pub ticks: u64,
    pub interval_us: u32,
    pub era: u32,
    pub heard: Heard,
    pub answer: Answer,
    pub other_key: KeyId,
    pub piece: Piece,
}

/// Why a datagram was not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// It is no heartbeat, one of another version, or says what cannot be.
    Garbage,
    /// Of another cluster or another node.
    Stranger,
    /// Made with a key that is not accepted here.
    UnknownKey,
    /// The MAC is wrong.
    BadMac,
}

/// A datagram to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    bytes: [u8; DATAGRAM_MAX],
    length: usize,
}

impl Datagram {
    /// What is to be sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl std::fmt::Debug for Datagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Datagram({} bytes)", self.length)
    }
}

/// Write a datagram. `piece` is cut off where a datagram ends; `header.piece` says how long it is.
pub(crate) fn seal(header: &Header, piece: &[u8], receiver: &[u8; 16], key: &MacKey) -> Datagram {
    let mut writer = Writer { bytes: [0; DATAGRAM_MAX], at: 0 };
    write_header(&mut writer, header);
    debug_assert_eq!(writer.at, SIGNED_BYTES);
    let mac = mac(&writer.bytes[..SIGNED_BYTES], piece, receiver, key);
    writer.put(mac.as_bytes());
    writer.put(piece);
    Datagram { bytes: writer.bytes, length: writer.at }
}

fn write_header(writer: &mut Writer, header: &Header) {
    let Header { heard, answer, piece, .. } = header;
    writer.put(&MAGIC);
    writer.put(&VERSION.to_le_bytes());
    writer.put(&[header.path, 0]);
    writer.put(&header.key.0);
    writer.put(&header.cluster);
    writer.put(&header.sender);
    writer.put(&header.session.0.to_le_bytes());
    writer.put(&header.sequence.to_le_bytes());
    writer.put(&header.ticks.to_le_bytes());
    writer.put(&header.interval_us.to_le_bytes());
    writer.put(&header.era.to_le_bytes());
    writer.put(&heard.session.0.to_le_bytes());
    writer.put(&heard.era.to_le_bytes());
    writer.put(&heard.held.unwrap_or(u32::MAX).to_le_bytes());
    writer.put(&heard.version.to_le_bytes());
    for sequence in heard.sequences {
        writer.put(&sequence.to_le_bytes());
    }
    writer.put(&answer.session.0.to_le_bytes());
    writer.put(&answer.era.to_le_bytes());
    writer.put(&[0; 4]);
    writer.put(&header.other_key.0);
    writer.put(&piece.version.to_le_bytes());
    writer.put(&piece.total.to_le_bytes());
    writer.put(&piece.index.to_le_bytes());
    writer.put(&piece.count.to_le_bytes());
    writer.put(&piece.length.to_le_bytes());
    writer.put(&[0; 6]);
}

/// A datagram that is long enough and looks like one of this version. Nothing of it is proven.
pub(crate) struct Unproven<'a> {
    header: Header,
    signed: &'a [u8],
    mac: [u8; 32],
    piece: &'a [u8],
}

impl<'a> Unproven<'a> {
    /// # Errors
    /// [`Refusal::Garbage`].
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Unproven<'a>, Refusal> {
        if bytes.len() > DATAGRAM_MAX {
            return Err(Refusal::Garbage);
        }
        let (signed, rest) = bytes.split_at_checked(SIGNED_BYTES).ok_or(Refusal::Garbage)?;
        let (mac, piece) = rest.split_first_chunk().ok_or(Refusal::Garbage)?;
        let header = read_header(&mut Reader(signed)).ok_or(Refusal::Garbage)?;
        Ok(Unproven { header, signed, mac: *mac, piece })
    }

    /// Who it claims to come from, and with which key: enough to find the key, not to believe it.
    pub(crate) fn claim(&self) -> &Header {
        &self.header
    }

    /// Believe it if its MAC says that the owner of the key made it for this receiver.
    ///
    /// # Errors
    /// [`Refusal::BadMac`]; [`Refusal::Garbage`] if its maker says what cannot be.
    pub(crate) fn prove(self, receiver: &[u8; 16], key: &MacKey) -> Result<(Header, &'a [u8]), Refusal> {
        // This comparison of hashes takes the same time wherever they differ.
        if mac(self.signed, self.piece, receiver, key) != self.mac {
            return Err(Refusal::BadMac);
        }
        let Header { piece, session, sequence, .. } = self.header;
        let sound = piece.is_sound()
            && self.piece.len() == usize::from(piece.length)
            && session != Session::NONE
            && sequence > 0;
        if sound { Ok((self.header, self.piece)) } else { Err(Refusal::Garbage) }
    }
}

fn mac(signed: &[u8], piece: &[u8], receiver: &[u8; 16], key: &MacKey) -> blake3::Hash {
    blake3::Hasher::new_keyed(&key.0).update(signed).update(piece).update(receiver).finalize()
}

fn read_header(reader: &mut Reader<'_>) -> Option<Header> {
    if reader.take()? != MAGIC || reader.u16()? != VERSION {
        return None;
    }
    let [path, _] = reader.take()?;
    let key = KeyId(reader.take()?);
    let cluster = reader.take()?;
    let sender = reader.take()?;
    let session = reader.session()?;
    let (sequence, ticks) = (reader.u64()?, reader.u64()?);
    let (interval_us, era) = (reader.u32()?, reader.u32()?);
    let mut heard = Heard {
        session: reader.session()?,
        era: reader.u32()?,
        held: Some(reader.u32()?).filter(|held| *held != u32::MAX),
        version: reader.u64()?,
        sequences: [0; PATHS_MAX],
    };
    for sequence in &mut heard.sequences {
        *sequence = reader.u64()?;
    }
    let answer = Answer { session: reader.session()?, era: reader.u32()? };
    reader.take::<4>()?;
    let other_key = KeyId(reader.take()?);
    let piece = Piece {
        version: reader.u64()?,
        total: reader.u32()?,
        index: reader.u16()?,
        count: reader.u16()?,
        length: reader.u16()?,
    };
    Some(Header {
        path,
        key,
        cluster,
        sender,
        session,
        sequence,
        ticks,
        interval_us,
        era,
        heard,
        answer,
        other_key,
        piece,
    })
}

struct Writer {
    bytes: [u8; DATAGRAM_MAX],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        let room = self.bytes.get_mut(self.at..).unwrap_or_default();
        let length = field.len().min(room.len());
        room[..length].copy_from_slice(&field[..length]);
        self.at += length;
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn session(&mut self) -> Option<Session> {
        self.take().map(u128::from_le_bytes).map(Session)
    }
}

#[cfg(test)]
mod tests;
