//! Bytes to frames. No I/O: it lends out a buffer to be filled and looks at what came.

use replicator_core::wire::header::{Decoded, HEADER_BYTES, Header, Kind};

use super::error::LinkError;
use crate::uring::{AppendBuffer, Pool, Shared};

/// Buffer while little comes: what is received in it pins no more than this.
const SMALL_BYTES: usize = 64 << 10;

/// Buffer while much comes, in bytes of payload.
const LARGE_BYTES: usize = 1 << 20;

/// With less room than this a new buffer is begun rather than a tiny receive made.
const ROOM_MIN: usize = 4 << 10;

pub(super) struct Incoming {
    version: u16,
    pool: Pool,
    /// None while it is lent out.
    buffer: Option<AppendBuffer>,
    /// Bytes of the buffer that belong to frames already handed on.
    parsed: usize,
    /// The header of the frame that has begun, once it is there.
    current: Option<Decoded>,
    /// Length of the last whole frame.
    last_needed: usize,
    /// Room of the buffer when it was lent out.
    lent_room: usize,
    /// Whether the last receive filled all the room it was given.
    flooded: bool,
}

impl Incoming {
    pub(super) fn version(&self) -> u16 {
        self.version
    }

    pub(super) fn new(version: u16, pool: Pool) -> Incoming {
        let buffer = Some(pool.take_append(SMALL_BYTES));
        Incoming {
            version,
            pool,
            buffer,
            parsed: 0,
            current: None,
            last_needed: 0,
            lent_room: 0,
            flooded: false,
        }
    }

    /// Bytes from the first unparsed one to the end of what is being received.
    fn needed(&self) -> usize {
        HEADER_BYTES + self.current.as_ref().map_or(0, |decoded| decoded.payload_length as usize)
    }

    /// Lend out a buffer with room for (more of) the frame that is being received. None while it is lent out already.
    pub(super) fn lend(&mut self) -> Option<AppendBuffer> {
        let mut buffer = self.buffer.take()?;
        let rest = buffer.filled() - self.parsed;
        let needed = self.needed();
        let busy = self.flooded || self.last_needed > SMALL_BYTES / 2;
        let wanted = if busy { LARGE_BYTES } else { SMALL_BYTES }.max(needed);
        if rest == 0 && buffer.capacity() >= wanted && buffer.try_clear() {
            self.parsed = 0;
        }
        let too_small = buffer.capacity() - self.parsed < needed;
        let not_worth_it = buffer.room() < ROOM_MIN && rest < ROOM_MIN;
        if too_small || not_worth_it {
            buffer = self.roll(&buffer, wanted);
        }
        self.lent_room = buffer.room();
        Some(buffer)
    }

    /// A new buffer that begins with what is not parsed of the old one.
    fn roll(&mut self, old: &AppendBuffer, wanted: usize) -> AppendBuffer {
        let mut buffer = self.pool.take_append(wanted);
        let rest = old.bytes().get(self.parsed..).unwrap_or_default();
        let fits = buffer.append(rest);
        debug_assert!(fits, "what is not parsed is less than one frame, and a whole one fits");
        self.parsed = 0;
        buffer
    }

    /// Take the buffer back, unchanged or with more bytes.
    pub(super) fn give_back(&mut self, buffer: AppendBuffer) {
        self.flooded = buffer.room() == 0 && self.lent_room > 0;
        self.buffer = Some(buffer);
    }

    /// Add as many of these bytes as there is room for, at least one; the others come back. What is whole is to be taken before the next call,
    /// and no buffer may be lent out.
    pub(super) fn append<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut buffer = self.lend().expect("nobody else fills the buffer");
        let (now, later) = bytes.split_at(bytes.len().min(buffer.room()));
        let fits = buffer.append(now);
        debug_assert!(fits, "no more than there is room for");
        self.give_back(buffer);
        later
    }

    /// The next whole frame of what has come; None if it is not all there.
    pub(super) fn next_frame(&mut self) -> Result<Option<(Header, Shared)>, LinkError> {
        let Some(buffer) = &self.buffer else { return Ok(None) };
        let unparsed = buffer.bytes().get(self.parsed..).unwrap_or_default();
        if self.current.is_none() {
            let Some(bytes) = unparsed.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let decoded = Header::decode(bytes, &(self.version..=self.version))?;
            if matches!(decoded.header.kind, Kind::Hello | Kind::Refuse | Kind::Proof | Kind::Accept) {
                return Err(LinkError::UnexpectedKind { kind: decoded.header.kind });
            }
            self.current = Some(decoded);
        }
        let needed = self.needed();
        let Some(payload) = unparsed.get(HEADER_BYTES..needed) else { return Ok(None) };
        let Some(decoded) = self.current.take() else { return Ok(None) };
        let computed = crc32c::crc32c(payload);
        if computed != decoded.payload_checksum {
            let (kind, announced) = (decoded.header.kind, decoded.payload_checksum);
            return Err(LinkError::PayloadChecksum { kind, announced, computed });
        }
        let start = self.parsed + HEADER_BYTES;
        self.parsed += needed;
        self.last_needed = needed;
        // An empty payload pins no buffer.
        let view = if payload.is_empty() { None } else { buffer.view(start..self.parsed) };
        Ok(Some((decoded.header, view.unwrap_or_default())))
    }

    /// What it means that the stream ends here.
    pub(super) fn end(&self) -> LinkError {
        let rest = self.buffer.as_ref().map_or(0, |buffer| buffer.filled() - self.parsed);
        if rest == 0 { LinkError::PeerClosed } else { LinkError::Truncated { missing: self.needed() - rest } }
    }
}
