//! What a received frame asks of the copy.

use replicator_core::event::ReceivedBody;
use replicator_core::ids::FileId;
use replicator_core::succession::{CopyOf, decode_copies};
use replicator_core::wire::attributes::Attributes;
use replicator_core::wire::header::{FLAG_MORE, FLAG_SUCCEEDS, Header, Kind};
use replicator_core::wire::namespace::Operation;

use crate::uring::Shared;

/// A received frame that waits for its turn.
pub(super) enum Frame {
    Data {
        header: Header,
        bytes: Shared,
    },
    Hole {
        header: Header,
    },
    Attributes {
        header: Header,
        attributes: Attributes,
    },
    Namespace(Operation),
    Digests {
        header: Header,
        digests: Shared,
    },
    Verify {
        header: Header,
        seen: Shared,
    },
    /// A stream, of a primary with these roots.
    Begin(Begin, Vec<FileId>),
    /// Whether these are the last.
    Copies(Vec<CopyOf>, bool),
    ResyncEnd,
}

/// How a stream begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// The primary describes its whole tree.
    Anew,
    /// It goes on where an earlier stream ended.
    Resumed,
    /// It goes on where a stream of this node's own ended.
    Succeeded,
}

impl Frame {
    /// The frame, if it is one that is applied, and what the core is to know of its payload. The roots of a stream that begins are not in it.
    ///
    /// # Errors
    /// The payload makes no sense: this text.
    pub fn decode(
        version: u16,
        header: &Header,
        payload: Shared,
    ) -> Result<(Option<Frame>, ReceivedBody), &'static str> {
        let header = *header;
        let structured = |payload: Shared| ReceivedBody::Structured(payload.to_vec());
        let (frame, body) = match header.kind {
            Kind::Data if payload.len() as u64 != header.length => {
                return Err("a data frame of another length");
            }
            Kind::Data => (Frame::Data { header, bytes: payload }, ReceivedBody::Opaque),
            Kind::Hole => (Frame::Hole { header }, ReceivedBody::Opaque),
            Kind::Attributes => {
                let attributes =
                    Attributes::decode(&payload, version).map_err(|_| "attributes that make no sense")?;
                (Frame::Attributes { header, attributes }, ReceivedBody::Opaque)
            }
            Kind::Namespace => {
                let operation =
                    Operation::decode(&payload).map_err(|_| "a namespace operation that makes no sense")?;
                let change = operation.change();
                (Frame::Namespace(operation), ReceivedBody::Namespace(change))
            }
            Kind::Digests => (Frame::Digests { header, digests: payload }, ReceivedBody::Opaque),
            Kind::Verify => (Frame::Verify { header, seen: payload }, ReceivedBody::Opaque),
            Kind::ResyncBegin => (Frame::Begin(Begin::Anew, Vec::new()), structured(payload)),
            Kind::ResumeBegin => {
                let succeeds = header.flags & FLAG_SUCCEEDS != 0;
                let begin = if succeeds { Begin::Succeeded } else { Begin::Resumed };
                (Frame::Begin(begin, Vec::new()), structured(payload))
            }
            Kind::Copies => {
                let copies = decode_copies(&payload).map_err(|_| "copies that make no sense")?;
                (Frame::Copies(copies, header.flags & FLAG_MORE == 0), ReceivedBody::Opaque)
            }
            Kind::ResyncEnd => (Frame::ResyncEnd, ReceivedBody::Opaque),
            Kind::Barrier | Kind::Account => return Ok((None, structured(payload))),
            _ => return Ok((None, ReceivedBody::Opaque)),
        };
        Ok((Some(frame), body))
    }
}
