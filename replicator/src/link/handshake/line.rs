//! The bytes of a handshake over a blocking stream with a deadline, inside TLS or not.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::super::error::LinkError;
use super::super::records::{RECORD_BODY_MAX, RECORD_HEADER_BYTES, Records};
use super::PROTOCOL;
use super::error::HandshakeError;
use crate::uring::{Pool, Shared};

/// Types of records (RFC 8446, 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

pub(super) struct Line<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
    records: Option<Records>,
    /// Content of opened records that nobody has taken yet.
    content: Vec<u8>,
    pool: Pool,
}

/// Whether a stream begins so that is encrypted.
pub(super) fn is_client_hello(bytes: &[u8]) -> bool {
    matches!(bytes, [HANDSHAKE, 3, ..])
}

impl<'a> Line<'a> {
    pub(super) fn new(stream: &'a TcpStream, limit: Duration) -> Line<'a> {
        let deadline = Instant::now() + limit;
        Line { stream, deadline, records: None, content: Vec::new(), pool: Pool::new(0) }
    }

    /// Do the handshake of TLS.
    pub(super) fn encrypt(&mut self, mut records: Records) -> Result<(), HandshakeError> {
        let waiting_for = "the peer's certificate, and its word on this node's";
        let mut arrived = Vec::new();
        loop {
            let opened = records.open(&mut arrived, &mut |_| Err(early()));
            let sent = self.write(&records.take_pending(), "the peer to take this node's certificate");
            arrived.drain(..opened.map_err(HandshakeError::of_tls)?);
            sent?;
            if records.is_established() {
                break;
            }
            self.read_record(&mut arrived, waiting_for)?;
        }
        if records.protocol() != Some(PROTOCOL) {
            return Err(HandshakeError::OtherProtocol);
        }
        self.records = Some(records);
        if arrived.is_empty() { Ok(()) } else { Err(HandshakeError::Trailing) }
    }

    /// What the session's bytes go through.
    pub(super) fn finish(self) -> Result<Option<Records>, HandshakeError> {
        if self.content.is_empty() { Ok(self.records) } else { Err(HandshakeError::Trailing) }
    }

    /// Send all of these bytes.
    pub(super) fn send(&mut self, bytes: Vec<u8>, waiting_for: &'static str) -> Result<(), HandshakeError> {
        let Some(records) = &mut self.records else { return self.write(&bytes, waiting_for) };
        let sealed = records.seal(&[Shared::from(bytes)], &self.pool).map_err(HandshakeError::of_tls)?;
        sealed.iter().try_for_each(|piece| self.write(piece, waiting_for))
    }

    /// Receive so many bytes.
    pub(super) fn fill(
        &mut self,
        target: &mut [u8],
        waiting_for: &'static str,
    ) -> Result<(), HandshakeError> {
        if self.records.is_none() {
            return self.read(target, waiting_for);
        }
        while self.content.len() < target.len() {
            self.open_record(waiting_for)?;
        }
        target.copy_from_slice(&self.content[..target.len()]);
        self.content.drain(..target.len());
        Ok(())
    }

    /// Send nothing more.
    pub(super) fn end(&mut self) {
        let last = self.records.as_mut().map(Records::farewell).unwrap_or_default();
        let _ = self.write(&last, "the peer to take what was sent");
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn open_record(&mut self, waiting_for: &'static str) -> Result<(), HandshakeError> {
        let mut record = Vec::new();
        self.read_record(&mut record, waiting_for)?;
        let Some(records) = &mut self.records else { return Ok(()) };
        let content = &mut self.content;
        let opened = records.open(&mut record, &mut |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        });
        if let Err(error) = opened {
            let alert = records.take_pending();
            let _ = self.write(&alert, waiting_for);
            return Err(HandshakeError::of_tls(error));
        }
        if records.peer_closed() { Err(HandshakeError::Closed { waiting_for }) } else { Ok(()) }
    }

    /// Receive exactly one record behind what is there: what follows it is the session's.
    fn read_record(&self, arrived: &mut Vec<u8>, waiting_for: &'static str) -> Result<(), HandshakeError> {
        let mut header = [0; RECORD_HEADER_BYTES];
        self.read(&mut header, waiting_for)?;
        let [kind, version, _, high, low] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let is_record = (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) && version == 3;
        if !is_record || length > RECORD_BODY_MAX {
            return Err(HandshakeError::NotEncrypted);
        }
        let start = arrived.len();
        arrived.extend_from_slice(&header);
        arrived.resize(start + RECORD_HEADER_BYTES + length, 0);
        self.read(&mut arrived[start + RECORD_HEADER_BYTES..], waiting_for)
    }

    fn write(&self, mut rest: &[u8], waiting_for: &'static str) -> Result<(), HandshakeError> {
        while !rest.is_empty() {
            self.stream
                .set_write_timeout(Some(self.left(waiting_for)?))
                .map_err(|source| self.system("send", source))?;
            match (&mut &*self.stream).write(rest) {
                Ok(0) => return Err(HandshakeError::Closed { waiting_for }),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) => self.check(error, "send to", waiting_for)?,
            }
        }
        Ok(())
    }

    fn read(&self, target: &mut [u8], waiting_for: &'static str) -> Result<(), HandshakeError> {
        let mut filled = 0;
        while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            self.stream
                .set_read_timeout(Some(self.left(waiting_for)?))
                .map_err(|source| self.system("receive from", source))?;
            match (&mut &*self.stream).read(rest) {
                Ok(0) => return Err(HandshakeError::Closed { waiting_for }),
                Ok(count) => filled += count,
                Err(error) => self.check(error, "receive from", waiting_for)?,
            }
        }
        Ok(())
    }

    /// Time left; never zero, which the socket would take for "without limit".
    fn left(&self, waiting_for: &'static str) -> Result<Duration, HandshakeError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(HandshakeError::Timeout { waiting_for }) } else { Ok(left) }
    }

    /// Ok: try again.
    fn check(
        &self,
        error: io::Error,
        operation: &'static str,
        waiting_for: &'static str,
    ) -> Result<(), HandshakeError> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Err(HandshakeError::Timeout { waiting_for })
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Err(HandshakeError::Closed { waiting_for })
            }
            _ => Err(self.system(operation, error)),
        }
    }

    fn system(&self, operation: &'static str, source: io::Error) -> HandshakeError {
        let address = self.stream.peer_addr().map_or_else(|_| "the peer".to_owned(), |at| at.to_string());
        HandshakeError::System { operation, address, source }
    }
}

/// Nothing of the session may come before both sides have shown who they are.
fn early() -> LinkError {
    LinkError::Tls(rustls::Error::General("data came before the peer had shown who it is".to_owned()))
}
