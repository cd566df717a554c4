//! What lies between the bytes of frames and the socket: nothing, or TLS. No I/O.

use replicator_core::wire::header::Header;

use super::error::LinkError;
use super::incoming::Incoming;
use super::records::Records;
use crate::uring::{AppendBuffer, Pool, Shared};

/// Bytes that one receive takes at most: some sixty records of full size.
const ARRIVING_BYTES: usize = 1 << 20;

pub(super) enum Channel {
    /// The bytes are on the wire as they are.
    Plain,
    /// They are in records of TLS.
    Tls(Box<Tls>),
}

/// An encrypted stream.
pub(super) struct Tls {
    records: Records,
    /// What has come and is not opened: less than a record. `None` while it is lent out.
    arriving: Option<AppendBuffer>,
}

impl Channel {
    /// The channel of a stream on which a handshake was done, inside TLS or not.
    pub(super) fn new(records: Option<Records>, pool: &Pool) -> Channel {
        match records {
            None => Channel::Plain,
            Some(records) => {
                let arriving = Some(pool.take_append(ARRIVING_BYTES));
                Channel::Tls(Box::new(Tls { records, arriving }))
            }
        }
    }

    /// Lend out a buffer for what comes next. `None` while it is lent out already.
    pub(super) fn lend(&mut self, incoming: &mut Incoming) -> Option<AppendBuffer> {
        match self {
            Channel::Plain => incoming.lend(),
            Channel::Tls(tls) => tls.arriving.take(),
        }
    }

    /// Take the buffer back, unchanged or with more bytes.
    pub(super) fn give_back(&mut self, buffer: AppendBuffer, incoming: &mut Incoming) {
        match self {
            Channel::Plain => incoming.give_back(buffer),
            Channel::Tls(tls) => tls.arriving = Some(buffer),
        }
    }

    /// Hand on the frames that are whole by now.
    ///
    /// # Errors
    /// What came is nonsense; frames before it were handed on.
    pub(super) fn hand_on(
        &mut self,
        incoming: &mut Incoming,
        frame: &mut dyn FnMut(Header, Shared),
    ) -> Result<(), LinkError> {
        let mut frames = |incoming: &mut Incoming| {
            while let Some((header, payload)) = incoming.next_frame()? {
                frame(header, payload);
            }
            Ok(())
        };
        let tls = match self {
            Channel::Plain => return frames(incoming),
            Channel::Tls(tls) => tls,
        };
        let Some(arriving) = &mut tls.arriving else { return Ok(()) };
        // Nobody has a view of what is encrypted.
        let bytes = arriving.bytes_mut().unwrap_or_default();
        let done = tls.records.open(bytes, &mut |mut content| {
            while !content.is_empty() {
                content = incoming.append(content);
                frames(incoming)?;
            }
            Ok(())
        })?;
        arriving.discard(done);
        Ok(())
    }

    /// Whether the peer said that it sends nothing more.
    pub(super) fn peer_closed(&self) -> bool {
        match self {
            Channel::Plain => false,
            Channel::Tls(tls) => tls.records.peer_closed(),
        }
    }

    /// What it means that the stream ends here.
    pub(super) fn end(&self, incoming: &Incoming) -> LinkError {
        match (self, incoming.end()) {
            (Channel::Tls(tls), LinkError::PeerClosed) if !tls.records.peer_closed() => LinkError::CutOff,
            (_, reason) => reason,
        }
    }

    /// What goes to the socket for these pieces.
    ///
    /// # Errors
    /// Nothing can be sent any more.
    pub(super) fn seal(&mut self, pieces: Vec<Shared>, pool: &Pool) -> Result<Vec<Shared>, LinkError> {
        match self {
            Channel::Plain => Ok(pieces),
            Channel::Tls(tls) => tls.records.seal(&pieces, pool),
        }
    }

    /// The last bytes of this side, if it owes some.
    pub(super) fn farewell(&mut self) -> Vec<u8> {
        match self {
            Channel::Plain => Vec::new(),
            Channel::Tls(tls) => tls.records.farewell(),
        }
    }
}
