//! Frames over an established stream, on the data plane's ring.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::socket::MsgFlags;
use replicator_core::ids::Sequence;
use replicator_core::wire::header::Header;

use super::channel::Channel;
use super::error::LinkError;
use super::incoming::Incoming;
use super::outgoing::{Outgoing, Payload};
use super::records::Records;
use crate::uring::{Completion, Pool, Ring, Shared, Token};

/// Distinguishes the tokens of connections that had the same namespace one after the other.
static SERIAL: AtomicU64 = AtomicU64::new(1);

const RECEIVE: u64 = 1;
const SEND: u64 = 2;

/// What a connection tells its owner.
#[derive(Debug)]
pub enum LinkEvent {
    /// A whole frame whose checksums hold. The payload is a view of the receive buffer: holding it holds that buffer (64 KiB
    /// to 4 MiB), not just its own bytes.
    #[allow(missing_docs)]
    Frame { header: Header, payload: Shared },
    /// All sequenced frames up to this one were handed to the kernel.
    #[allow(missing_docs)]
    Sent { upto: Sequence },
    /// The connection is over; the last event. Comes once, and not after [`Connection::close`].
    #[allow(missing_docs)]
    Closed { reason: LinkError },
}

/// What a connection has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Frames received whole.
    pub frames_received: u64,
    /// Bytes received, headers (and what encryption adds) included.
    pub bytes_received: u64,
    /// Frames queued for sending.
    pub frames_queued: u64,
    /// Bytes taken by the kernel for sending, headers (and what encryption adds) included.
    pub bytes_sent: u64,
    /// Sends and receives that completed: how well frames are batched.
    pub operations: u64,
}

/// One established session's stream of frames. Its owner passes it the completions that [`Connection::owns`].
///
/// ```text
/// Open --end of stream, error, nonsense--> Closed (event)
///   |--- send failed --> Draining: what the peer sent before is still received --> Closed (event)
///   `--- close() or drop --> Closed (no event)
/// ```
///
/// It may be dropped at any time: the ring keeps what the kernel still uses.
pub struct Connection {
    socket: Arc<OwnedFd>,
    tokens: u64,
    pool: Pool,
    outgoing: Outgoing,
    channel: Channel,
    incoming: Incoming,
    /// Bytes of frames in the send that is under way.
    sending: Option<usize>,
    receiving: bool,
    /// Not (or not yet) to receive.
    paused: bool,
    /// The kernel said that nothing more was there after the last receive.
    drained: bool,
    state: State,
    statistics: Statistics,
}

enum State {
    Open,
    /// Sending failed for this reason; receiving goes on to the end of the stream.
    Draining(LinkError),
    Closed,
}

impl Connection {
    /// A connection over a stream on which the handshake is done, for frames of the negotiated `version`; with `records`, inside the TLS
    /// connection in which it was done. `namespace` is the top byte of all its tokens.
    ///
    /// # Errors
    /// The socket's options cannot be set.
    pub fn new(
        stream: TcpStream,
        records: Option<Records>,
        version: u16,
        namespace: u8,
        pool: &Pool,
    ) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        Connection::over(stream.into(), records, version, namespace, pool)
    }

    /// The protocol version of its frames.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.incoming.version()
    }

    /// A connection over any connected stream socket.
    pub(super) fn over(
        socket: OwnedFd,
        records: Option<Records>,
        version: u16,
        namespace: u8,
        pool: &Pool,
    ) -> io::Result<Connection> {
        // The ring waits by itself; a non-blocking socket or a time limit would make it fail instead.
        let socket = TcpStream::from(socket);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff_ffff;
        Ok(Connection {
            socket: Arc::new(socket.into()),
            tokens: u64::from(namespace) << 56 | serial << 8,
            pool: pool.clone(),
            outgoing: Outgoing::new(version, pool.clone()),
            channel: Channel::new(records, pool),
            incoming: Incoming::new(version, pool.clone()),
            sending: None,
            receiving: false,
            paused: true,
            drained: true,
            state: State::Open,
            statistics: Statistics::default(),
        })
    }

    /// Whether a completion with this token is for [`Connection::on_completion`] of this connection. Those of a connection
    /// that was dropped belong to nobody.
    #[must_use]
    pub fn owns(&self, token: Token) -> bool {
        token == self.token(RECEIVE) || token == self.token(SEND)
    }

    /// Begin (or go on) to receive.
    pub fn start(&mut self, ring: &mut Ring) {
        self.paused = false;
        self.arm(ring);
    }

    /// Receive no more until [`Connection::start`], so that a peer that is faster than this node's disk fills the socket
    /// buffers and waits. What a receive under way brings is still handed on.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Queue a frame; sent by the next [`Connection::pump`]. After the connection is closed this does nothing.
    ///
    /// # Panics
    /// If the payload is longer than [`replicator_core::wire::header::PAYLOAD_MAX`].
    pub fn queue(&mut self, header: &Header, payload: Payload) {
        if matches!(self.state, State::Open) {
            self.statistics.frames_queued += 1;
            self.outgoing.push(header, payload);
        }
    }

    /// Bytes queued and not yet taken by the kernel: the measure for back-pressure.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.outgoing.queued_bytes()
    }

    /// Hand as much as possible of what is queued to the ring, if no send is under way, and go on to receive where a full
    /// ring prevented it. To be called after queueing, once for a run of frames; further sends follow by themselves.
    pub fn pump(&mut self, ring: &mut Ring) {
        self.arm(ring);
        if self.sending.is_some() || !matches!(self.state, State::Open) || ring.is_full() {
            return;
        }
        let batch = self.outgoing.take_batch();
        if batch.is_empty() {
            return;
        }
        let bytes = batch.iter().map(|piece| piece.len()).sum();
        match self.channel.seal(batch, &self.pool) {
            Ok(sealed) => {
                // Not full, so it is taken.
                let taken = ring.send(self.socket.clone(), sealed, self.token(SEND));
                self.sending = taken.is_ok().then_some(bytes);
            }
            Err(reason) => {
                // The owner is told by the receive that ends now.
                self.drain(reason);
                self.start(ring);
            }
        }
    }

    /// Take a completion that this connection owns; what follows from it is added to `events`.
    pub fn on_completion(&mut self, ring: &mut Ring, completion: Completion, events: &mut Vec<LinkEvent>) {
        self.statistics.operations += 1;
        if completion.token == self.token(RECEIVE) {
            self.on_received(ring, completion, events);
        } else if completion.token == self.token(SEND) {
            self.on_sent(ring, completion.result, events);
        }
    }

    /// End the connection from this side: what is queued is worth nothing, no further event comes. What was handed to the
    /// kernel before is still delivered if the peer takes it.
    pub fn close(&mut self) {
        self.take_leave();
        self.state = State::Closed;
        self.outgoing.clear();
        self.shutdown();
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What was done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    fn token(&self, operation: u64) -> Token {
        Token(self.tokens | operation)
    }

    fn arm(&mut self, ring: &mut Ring) {
        if self.receiving || self.paused || self.is_closed() {
            return;
        }
        let Some(buffer) = self.channel.lend(&mut self.incoming) else { return };
        match ring.receive(self.socket.clone(), buffer, self.drained, self.token(RECEIVE)) {
            Ok(()) => self.receiving = true,
            Err(buffer) => self.channel.give_back(buffer, &mut self.incoming),
        }
    }

    fn on_received(&mut self, ring: &mut Ring, completion: Completion, events: &mut Vec<LinkEvent>) {
        self.receiving = false;
        if let Some(buffer) = completion.received {
            self.channel.give_back(buffer, &mut self.incoming);
        }
        if self.is_closed() {
            return;
        }
        self.drained = !completion.more;
        match completion.result {
            Ok(0) => {
                let reason = self.channel.end(&self.incoming);
                self.end(reason, events);
            }
            Ok(count) => {
                self.statistics.bytes_received += count as u64;
                if let Err(reason) = self.hand_on(events) {
                    return self.end(reason, events);
                }
                if self.channel.peer_closed() {
                    let reason = self.channel.end(&self.incoming);
                    return self.end(reason, events);
                }
                self.arm(ring);
                if !self.receiving && matches!(self.state, State::Draining(_)) {
                    // Paused (or the ring is full): nobody would come back for the rest.
                    self.end(LinkError::PeerClosed, events);
                }
            }
            Err(source) => self.end(LinkError::System { operation: "receive", source }, events),
        }
    }

    fn hand_on(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        let before = events.len();
        let result = self.channel.hand_on(&mut self.incoming, &mut |header, payload| {
            events.push(LinkEvent::Frame { header, payload });
        });
        self.statistics.frames_received += (events.len() - before) as u64;
        result
    }

    fn on_sent(&mut self, ring: &mut Ring, result: io::Result<usize>, events: &mut Vec<LinkEvent>) {
        let frames = self.sending.take().unwrap_or_default();
        if !matches!(self.state, State::Open) {
            return;
        }
        match result {
            Ok(count) => {
                self.statistics.bytes_sent += count as u64;
                // All of it: the ring goes on until then.
                if let Some(upto) = self.outgoing.on_sent(frames) {
                    events.push(LinkEvent::Sent { upto });
                }
                self.pump(ring);
            }
            Err(source) => {
                let reason = LinkError::System { operation: "send", source };
                if self.receiving {
                    // The peer may have said why before it closed.
                    self.drain(reason);
                } else {
                    self.end(reason, events);
                }
            }
        }
    }

    /// Send no more, and receive to the end of the stream, which certainly comes after the shutdown.
    fn drain(&mut self, reason: LinkError) {
        self.outgoing.clear();
        self.state = State::Draining(reason);
        self.shutdown();
    }

    /// Over: tell the owner, with the first reason there was.
    fn end(&mut self, reason: LinkError, events: &mut Vec<LinkEvent>) {
        self.take_leave();
        let before = std::mem::replace(&mut self.state, State::Closed);
        let reason = match before {
            State::Draining(first) if !reason.is_nonsense() => first,
            _ => reason,
        };
        self.outgoing.clear();
        self.shutdown();
        events.push(LinkEvent::Closed { reason });
    }

    /// Tell an encrypted peer that nothing more comes, or why, if the socket takes that at once and nothing is on its way to it.
    fn take_leave(&mut self) {
        if self.sending.is_some() || !matches!(self.state, State::Open) {
            return;
        }
        let last = self.channel.farewell();
        if !last.is_empty() {
            // The peer finds out by itself, too, only not as well.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let _ = nix::sys::socket::send(self.socket.as_raw_fd(), &last, flags);
        }
    }

    /// End both directions, which also ends the operations under way.
    fn shutdown(&self) {
        // It fails only if the socket is not connected any more, which is what is wanted.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shutdown();
    }
}
