//! The handshake: two nodes prove to each other that they belong together, before anything can change.
//!
//! ```text
//!   dialer                                acceptor
//!     Hello (nonce, versions, identity)  -->           no common version, other cluster: Refuse
//!                                        <--  Hello (nonce, versions, identity)
//!     Proof (keyed digest, "dialer")     -->           wrong: Refuse; node, role, mode, volumes do not fit: Refuse
//!                                        <--  Proof (keyed digest, "acceptor"), Accept
//!   the dialer checks the acceptor's proof, and the same conditions as the acceptor
//! ```
//!
//! Both digests cover both Hellos as they were on the wire, so neither can be changed on the way, replayed (each side's
//! nonce is fresh) or reflected (the direction is part of it). A refusal is not authenticated: it makes the dialer try
//! again later and nothing else.
//!
//! Where the node has certificates all of this, and the session, is inside TLS 1.3 (`replicator_cluster::tls`): a byte of the Hello is sent or
//! looked at only when the other side has shown that it is the expected peer. The certificates are read for each handshake, so that they can be
//! replaced at any time; a session that is open goes on with its keys.
//!
//! Without certificates, frames after the handshake carry checksums against accidents, not keys. Who can change packets between the
//! nodes can change data then, and who can read them can read it: such a network must be trusted or tunnelled.
//!
//! Everything here blocks, with time limits, on threads of its own; the data plane's ring has no part in it. Where
//! unauthenticated peers come in, each is bounded in time, memory (64 KiB) and number.

mod acceptor;
mod admission;
mod dialer;
mod error;
mod exchange;
mod line;
mod membership;
mod sockets;
#[cfg(test)]
mod tests;

use std::net::TcpStream;
use std::time::Duration;

use replicator_core::wire::hello::Hello;

use super::records::Records;
use crate::config::TlsFiles;

pub use acceptor::{Acceptor, AcceptorStatistics, Host, Limits};
pub use dialer::dial;
pub use error::{HandshakeError, KeyError};
pub use membership::ClusterKey;

/// The protocol's name inside TLS (RFC 7301), so that no other use of the same certificates can be taken for this one.
pub(super) const PROTOCOL: &[u8] = b"replicator-mirror/1";

/// What a node says of itself, and how it proves it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Sent to the peer. The nonce is replaced by fresh random bytes in every handshake.
    pub hello: Hello,
    /// Proof of membership.
    pub key: ClusterKey,
    /// With what the connection is encrypted, if it is.
    pub tls: Option<TlsFiles>,
}

/// How long things may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For one attempt to connect to one address.
    pub connect: Duration,
    /// For the whole handshake after that.
    pub handshake: Duration,
    /// After this long without any sign of the peer's kernel the session's connection is dead (`TCP_USER_TIMEOUT`,
    /// keep-alive probes).
    pub dead: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(3),
            handshake: Duration::from_secs(5),
            dead: Duration::from_secs(10),
        }
    }
}

/// A connection on which both sides have proven membership and fit together.
#[derive(Debug)]
pub struct Established {
    /// The stream, positioned at the first byte of the session. Blocking, without time limits.
    pub stream: TcpStream,
    /// The state of TLS, inside which the session's bytes are; `None` if the link is not encrypted.
    pub records: Option<Records>,
    /// The negotiated protocol version.
    pub version: u16,
    /// What the peer says of itself.
    pub peer: Hello,
    /// Whether the peer proved who it is with a certificate or a configured key. If not, anybody who can connect can be a member: the operator
    /// is to be warned.
    pub authenticated: bool,
}
