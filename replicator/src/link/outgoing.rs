//! Frames to bytes: what is queued, in which pieces it is handed to the kernel, and what of it was. No I/O.

use std::collections::VecDeque;

use replicator_core::ids::Sequence;
use replicator_core::wire::header::{HEADER_BYTES, Header, PAYLOAD_MAX};

use crate::uring::{AppendBuffer, Pool, Shared};

/// Payloads up to this many bytes are copied behind their header, so that a run of small frames is one piece; larger ones
/// are pieces of their own. Figures: docs/measurements/link.md.
const COPY_MAX: usize = 1 << 10;

/// Size of a staging buffer in bytes.
const STAGING_BYTES: usize = 64 << 10;

/// Most pieces of one send; the kernel's limit is 1024 (`UIO_MAXIOV`).
const BATCH_PIECES: usize = 256;

/// One send is closed when it has this many bytes. A larger one only delays the report of what was sent.
const BATCH_BYTES: usize = 1 << 20;

/// What follows a header.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing.
    Empty,
    /// Bytes that were made for this frame.
    Bytes(Vec<u8>),
    /// Bytes that may be used elsewhere too; not copied if they are many.
    Shared(Shared),
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Empty => &[],
            Payload::Bytes(bytes) => bytes,
            Payload::Shared(shared) => shared,
        }
    }
}

/// The end of a sequenced frame in the stream of bytes.
struct Mark {
    end: u64,
    sequence: Sequence,
}

pub(super) struct Outgoing {
    version: u16,
    pool: Pool,
    staging: AppendBuffer,
    /// What is not handed to the kernel yet, in order.
    pieces: VecDeque<Shared>,
    marks: VecDeque<Mark>,
    /// Bytes ever queued.
    queued: u64,
    /// Bytes that the kernel has taken.
    sent: u64,
}

impl Outgoing {
    pub(super) fn new(version: u16, pool: Pool) -> Outgoing {
        let staging = pool.take_append(STAGING_BYTES);
        Outgoing {
            version,
            pool,
            staging,
            pieces: VecDeque::new(),
            marks: VecDeque::new(),
            queued: 0,
            sent: 0,
        }
    }

    /// Bytes that were queued and are not yet taken by the kernel.
    pub(super) fn queued_bytes(&self) -> u64 {
        self.queued - self.sent
    }

    /// Add a frame. The payload must not be longer than [`PAYLOAD_MAX`].
    pub(super) fn push(&mut self, header: &Header, payload: Payload) {
        let bytes = payload.bytes();
        assert!(bytes.len() <= PAYLOAD_MAX as usize, "no frame is made with a payload beyond PAYLOAD_MAX");
        let length = bytes.len();
        let encoded = header.encode(self.version, length as u32, crc32c::crc32c(bytes));
        if length <= COPY_MAX {
            self.stage(&encoded, bytes);
        } else {
            self.stage(&encoded, &[]);
            match payload {
                Payload::Empty => {}
                Payload::Bytes(bytes) => self.pieces.push_back(bytes.into()),
                Payload::Shared(shared) => self.pieces.push_back(shared),
            }
        }
        self.queued += (HEADER_BYTES + length) as u64;
        if header.sequence != Sequence(0) {
            self.marks.push_back(Mark { end: self.queued, sequence: header.sequence });
        }
    }

    fn stage(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) {
        let needed = header.len() + payload.len();
        if self.staging.room() < needed && !self.staging.try_clear() {
            self.staging = self.pool.take_append(STAGING_BYTES);
        }
        let start = self.staging.filled();
        let fits = self.staging.append(header) && self.staging.append(payload);
        debug_assert!(fits, "a staging buffer holds several of the largest copied frames");
        let Some(view) = self.staging.view(start..start + needed) else { return };
        if !self.pieces.back_mut().is_some_and(|last| last.extend_with(&view)) {
            self.pieces.push_back(view);
        }
    }

    /// Take the pieces of the next send; empty if nothing is queued.
    pub(super) fn take_batch(&mut self) -> Vec<Shared> {
        let mut bytes = 0;
        let count = self
            .pieces
            .iter()
            .take(BATCH_PIECES)
            .take_while(|piece| {
                let open = bytes < BATCH_BYTES;
                bytes += piece.len();
                open
            })
            .count();
        self.pieces.drain(..count).collect()
    }

    /// The kernel took so many bytes: the last sequenced frame that it has all of, if it is a new one.
    pub(super) fn on_sent(&mut self, bytes: usize) -> Option<Sequence> {
        self.sent += bytes as u64;
        let mut upto = None;
        while let Some(mark) = self.marks.front().filter(|mark| mark.end <= self.sent) {
            upto = Some(mark.sequence);
            self.marks.pop_front();
        }
        upto
    }

    /// Forget what is queued.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.marks.clear();
        self.sent = self.queued;
    }
}
