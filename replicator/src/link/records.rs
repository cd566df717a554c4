//! TLS on one connection: the bytes of frames to records and back. No I/O: it is given what came, and gives what is to be sent.
//!
//! Records are made and opened here, in user space. Where the kernel can do that (kernel TLS, tls(4) of linux/tls.h) the keys would leave this
//! state at the end of the handshake and go to the socket; a [`super::Connection`] without records then runs over it as over any other, and
//! its gathered sends need no copy. `handshake` is the place for that, where a socket and its records become an `Established`.
//!
//! The keys are changed by the library itself before they are worn out (AES-GCM: 2^24 records), and when the peer changes its own.

use std::fmt;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};

use super::error::LinkError;
use crate::uring::{Buffer, Pool, Shared};

/// Bytes of a record before its body (RFC 8446, 5.1).
pub(super) const RECORD_HEADER_BYTES: usize = 5;
/// Most bytes of content in one record.
const RECORD_CONTENT_MAX: usize = 1 << 14;
/// Most bytes of a record's body: content, its type, padding and tag (RFC 8446, 5.2).
pub(super) const RECORD_BODY_MAX: usize = RECORD_CONTENT_MAX + 256;
/// Bytes that a record adds to its content: header, type of the content, tag.
const RECORD_OVERHEAD: usize = RECORD_HEADER_BYTES + 1 + 16;
/// Most bytes in one buffer of records: a capacity that the pool keeps, and with room for all of a send of 1 MiB.
const BUFFER_BYTES_MAX: usize = (1 << 20) + 4096;
/// Room for an alert or an update of the keys.
const MESSAGE_BYTES: usize = 256;

/// The state of TLS on one connection.
pub struct Records {
    side: Side,
    state: State,
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

#[derive(Default)]
struct State {
    /// To be sent before anything else: a step of the handshake, or an alert.
    pending: Vec<u8>,
    /// Application data may be sent.
    ready: bool,
    /// The peer said that it sends nothing more.
    peer_closed: bool,
    /// This side said so, or that it gives up.
    closed: bool,
}

/// What takes the content of records, in order.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), LinkError> + 'a;

impl Records {
    /// TLS of the side that connects.
    pub(super) fn client(connection: UnbufferedClientConnection) -> Records {
        Records { side: Side::Client(Box::new(connection)), state: State::default() }
    }

    /// TLS of the side that listens.
    pub(super) fn server(connection: UnbufferedServerConnection) -> Records {
        Records { side: Side::Server(Box::new(connection)), state: State::default() }
    }

    /// Whether the handshake is done on this side.
    pub(super) fn is_established(&self) -> bool {
        let handshaking = match &self.side {
            Side::Client(connection) => connection.is_handshaking(),
            Side::Server(connection) => connection.is_handshaking(),
        };
        self.state.ready && !handshaking
    }

    /// The name of the protocol that both sides speak inside TLS, if they named one.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        match &self.side {
            Side::Client(connection) => connection.alpn_protocol(),
            Side::Server(connection) => connection.alpn_protocol(),
        }
    }

    /// Whether the peer said that it sends nothing more: the stream ends because it was meant to.
    pub(super) fn peer_closed(&self) -> bool {
        self.state.peer_closed
    }

    /// Take what is to be sent before anything else.
    pub(super) fn take_pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.state.pending)
    }

    /// Open the records that have come, which overwrites them, and hand their content on. Returns how many bytes are done with; the others are
    /// the first part of a record and have to come again, with more behind them.
    ///
    /// # Errors
    /// [`LinkError::Tls`]: what came is not of this connection, which is over. What the peer is to be told of it is pending. Also what
    /// `sink` says.
    pub(super) fn open(&mut self, tls: &mut [u8], sink: &mut Sink<'_>) -> Result<usize, LinkError> {
        match &mut self.side {
            Side::Client(connection) => open(&mut **connection, &mut self.state, tls, sink),
            Side::Server(connection) => open(&mut **connection, &mut self.state, tls, sink),
        }
    }

    /// Make records of these pieces, in order, and put what is pending before them.
    ///
    /// # Errors
    /// [`LinkError::Tls`]: nothing can be sent on this connection.
    pub(super) fn seal(&mut self, pieces: &[Shared], pool: &Pool) -> Result<Vec<Shared>, LinkError> {
        match &mut self.side {
            Side::Client(connection) => seal(&mut **connection, &mut self.state, pieces, pool),
            Side::Server(connection) => seal(&mut **connection, &mut self.state, pieces, pool),
        }
    }

    /// The last bytes of this side: the alert that is pending, or else that nothing more comes. Empty if that was said.
    pub(super) fn farewell(&mut self) -> Vec<u8> {
        if !self.state.closed {
            self.state.closed = true;
            match &mut self.side {
                Side::Client(connection) => close(&mut **connection, &mut self.state),
                Side::Server(connection) => close(&mut **connection, &mut self.state),
            }
        }
        self.take_pending()
    }

    /// Change the keys of this direction, and ask the peer to change its own.
    #[cfg(test)]
    pub(super) fn change_keys(&mut self) {
        fn change<P: Process>(connection: &mut P, state: &mut State) {
            loop {
                match connection.process(&mut []).state {
                    Ok(ConnectionState::WriteTraffic(traffic)) => {
                        return traffic.refresh_traffic_keys().expect("keys that can be changed");
                    }
                    Ok(ConnectionState::EncodeTlsData(data)) => {
                        encode(data, &mut state.pending).expect("encoded");
                    }
                    Ok(ConnectionState::TransmitTlsData(transmitted)) => transmitted.done(),
                    other => panic!("{other:?}"),
                }
            }
        }
        match &mut self.side {
            Side::Client(connection) => change(&mut **connection, &mut self.state),
            Side::Server(connection) => change(&mut **connection, &mut self.state),
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if matches!(self.side, Side::Client(_)) { "client" } else { "server" };
        write!(f, "Records({side})")
    }
}

/// Both sides of TLS, which are different types of one kind.
trait Process {
    type Data;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(tls)
    }
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(tls)
    }
}

fn open<P: Process>(
    connection: &mut P,
    state: &mut State,
    tls: &mut [u8],
    sink: &mut Sink<'_>,
) -> Result<usize, LinkError> {
    let mut done = 0;
    loop {
        let UnbufferedStatus { mut discard, state: next } =
            connection.process(tls.get_mut(done..).unwrap_or_default());
        let over = match next {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(LinkError::Tls)?;
                    discard += record.discard;
                    sink(record.payload)?;
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut state.pending)?;
                false
            }
            // It is handed over here; sending it is the caller's next step.
            Ok(ConnectionState::TransmitTlsData(transmitted)) => {
                transmitted.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                state.peer_closed = true;
                false
            }
            Ok(ConnectionState::WriteTraffic(_)) => {
                state.ready = true;
                true
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => true,
            Ok(_) => return Err(unexpected("early data")),
            Err(error) => {
                done += discard;
                note_alert(connection, state, tls.get_mut(done..).unwrap_or_default());
                return Err(LinkError::Tls(error));
            }
        };
        done += discard;
        if over {
            if !(state.ready && !state.peer_closed && is_whole(tls.get(done..).unwrap_or_default())) {
                return Ok(done);
            }
            // The library is not to be asked for anything any more.
            state.closed = true;
            return Err(unexpected("a part of a message"));
        }
    }
}

/// Whether these bytes begin with a whole record. After the handshake one is only left where the peer split a message of TLS itself. Nothing
/// that speaks this protocol does, and the library could not be asked to send while it waits for the other part.
fn is_whole(bytes: &[u8]) -> bool {
    match bytes.first_chunk() {
        Some(&[_, _, _, high, low]) => {
            bytes.len() >= RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]))
        }
        None => false,
    }
}

/// The library found an error in `rest`: take the alert with which it tells the peer, if it has one. It is asked exactly once, and with the
/// very bytes, because it may look at them again.
fn note_alert<P: Process>(connection: &mut P, state: &mut State, rest: &mut [u8]) {
    state.closed = true;
    if let Ok(ConnectionState::EncodeTlsData(data)) = connection.process(rest).state {
        // The peer is not told then; the error itself is on its way.
        let _ = encode(data, &mut state.pending);
    }
}

/// Add what the library wants sent to what is pending.
fn encode<D>(mut data: EncodeTlsData<'_, D>, pending: &mut Vec<u8>) -> Result<(), LinkError> {
    let start = pending.len();
    pending.resize(start + MESSAGE_BYTES, 0);
    let written = match data.encode(&mut pending[start..]) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            pending.resize(start + required_size, 0);
            data.encode(&mut pending[start..])
        }
        other => other,
    };
    pending.truncate(start + written.as_ref().copied().unwrap_or_default());
    written.map(drop).map_err(|_| unexpected("nothing to be sent"))
}

fn seal<P: Process>(
    connection: &mut P,
    state: &mut State,
    pieces: &[Shared],
    pool: &Pool,
) -> Result<Vec<Shared>, LinkError> {
    loop {
        // Whatever has come was opened: nothing is left in it that the library would wait for.
        match connection.process(&mut []).state.map_err(LinkError::Tls)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let mut sealer = Sealer::new(pieces, pool);
                if !state.pending.is_empty() {
                    sealer.full.push(std::mem::take(&mut state.pending).into());
                }
                for piece in pieces {
                    for content in piece.chunks(RECORD_CONTENT_MAX) {
                        sealer.add(&mut traffic, content)?;
                    }
                }
                return Ok(sealer.finish());
            }
            ConnectionState::EncodeTlsData(data) => encode(data, &mut state.pending)?,
            ConnectionState::TransmitTlsData(transmitted) => transmitted.done(),
            ConnectionState::PeerClosed => state.peer_closed = true,
            _ => return Err(unexpected("no leave to send")),
        }
    }
}

fn close<P: Process>(connection: &mut P, state: &mut State) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = connection.process(&mut []).state {
        let start = state.pending.len();
        state.pending.resize(start + MESSAGE_BYTES, 0);
        let written = traffic.queue_close_notify(&mut state.pending[start..]).unwrap_or_default();
        state.pending.truncate(start + written);
    }
}

fn unexpected(what: &str) -> LinkError {
    LinkError::Tls(rustls::Error::General(format!("{what} in place of records")))
}

/// Fills buffers with records.
struct Sealer<'a> {
    pool: &'a Pool,
    full: Vec<Shared>,
    buffer: Buffer,
    filled: usize,
    /// Bytes of records that are still to come.
    ahead: usize,
}

impl<'a> Sealer<'a> {
    fn new(pieces: &[Shared], pool: &'a Pool) -> Sealer<'a> {
        let sealed =
            |piece: &Shared| piece.len() + piece.len().div_ceil(RECORD_CONTENT_MAX) * RECORD_OVERHEAD;
        let ahead = pieces.iter().map(sealed).sum();
        Sealer { pool, full: Vec::new(), buffer: take(pool, ahead), filled: 0, ahead }
    }

    /// Add a record with this content, which is not longer than one record's.
    fn add<D>(&mut self, traffic: &mut WriteTraffic<'_, D>, content: &[u8]) -> Result<(), LinkError> {
        let written = match traffic.encrypt(content, &mut self.buffer[self.filled..]) {
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                // Nothing is written then. An update of the keys may come before the record.
                self.roll(required_size);
                traffic.encrypt(content, &mut self.buffer)
            }
            other => other,
        };
        let written = written.map_err(|_| LinkError::Tls(rustls::Error::EncryptError))?;
        self.filled += written;
        self.ahead = self.ahead.saturating_sub(written);
        Ok(())
    }

    /// Begin a buffer with room for at least `needed` bytes.
    fn roll(&mut self, needed: usize) {
        let next = take(self.pool, self.ahead.max(needed));
        let before = std::mem::replace(&mut self.buffer, next);
        keep(&mut self.full, before, self.filled);
        self.filled = 0;
    }

    fn finish(self) -> Vec<Shared> {
        let Sealer { mut full, buffer, filled, .. } = self;
        keep(&mut full, buffer, filled);
        full
    }
}

/// A buffer for so many bytes of records, or for a part of them.
fn take(pool: &Pool, bytes: usize) -> Buffer {
    let mut buffer = pool.take(bytes.min(BUFFER_BYTES_MAX));
    buffer.set_length(buffer.capacity());
    buffer
}

fn keep(full: &mut Vec<Shared>, mut buffer: Buffer, filled: usize) {
    if filled > 0 {
        buffer.set_length(filled);
        full.push(buffer.into());
    }
}
