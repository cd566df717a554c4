//! Why a handshake fails.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use replicator_core::wire::BodyError;
use replicator_core::wire::header::{HeaderError, Kind};
use replicator_core::wire::hello::Refusal;

use super::super::error::LinkError;
use crate::config::ConfigError;

/// Why there is no session. None of these has changed anything.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A system call on the network failed.
    #[error("cannot {operation} {address}: {source}")]
    System {
        /// What was tried: "connect to", "listen on", ...
        operation: &'static str,
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The address is in use by another program (or another replicator).
    #[error("{address} is in use: stop the program that listens there or configure another port")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The host's name has no address.
    #[error("{address} has no network address")]
    NoAddress {
        /// What was configured.
        address: String,
    },
    /// The peer did not do its part in time.
    #[error("no answer in time while waiting for {waiting_for}")]
    Timeout {
        /// What it owed.
        waiting_for: &'static str,
    },
    /// The peer closed the connection.
    #[error("the connection was closed while waiting for {waiting_for}")]
    Closed {
        /// What it owed.
        waiting_for: &'static str,
    },
    /// What came is no frame.
    #[error("what came is not of this protocol: {0}")]
    Header(#[from] HeaderError),
    /// A frame that is longer than any of the handshake.
    #[error("a {kind:?} frame of {length} bytes came in the handshake")]
    Oversize {
        /// What came.
        kind: Kind,
        /// Its payload's length in bytes.
        length: u32,
    },
    /// A frame's bytes are not those that were sent.
    #[error("the checksum of a {kind:?} frame does not hold")]
    Checksum {
        /// What came.
        kind: Kind,
    },
    /// Another frame than the next one of the handshake.
    #[error("a {kind:?} frame came in place of {waiting_for}")]
    Unexpected {
        /// What came.
        kind: Kind,
        /// What was owed.
        waiting_for: &'static str,
    },
    /// The frame's body cannot be understood.
    #[error("the {kind:?} frame cannot be understood: {source}")]
    Body {
        /// What came.
        kind: Kind,
        /// Why not.
        source: BodyError,
    },
    /// The files that encryption takes cannot be used.
    #[error("{0}")]
    Credentials(#[from] Box<ConfigError>),
    /// TLS failed: the peer is not the one that is expected, or does not take this node for the one it expects, or is no peer.
    #[error(
        "the peer and this node do not accept each other: {0}; compare clocks, certificates and link.peer-identity"
    )]
    Tls(rustls::Error),
    /// The peer speaks without encryption, and this node does not.
    #[error("what came is not encrypted: set link.encryption to the same on both nodes")]
    NotEncrypted,
    /// The peer encrypts, and this node does not.
    #[error(
        "the peer encrypts the link and this node does not: set link.encryption to the same on both nodes"
    )]
    Encrypted,
    /// A peer with the right certificate, for something else.
    #[error("the peer does not speak the mirrors' protocol")]
    OtherProtocol,
    /// More came in the same record than the handshake.
    #[error("the peer sent more than the handshake with it")]
    Trailing,
    /// The peer does not want this node.
    #[error("the peer refuses this node: {}", .0.text)]
    RefusedByPeer(Refusal),
    /// This node does not want the peer; it was told why if it still listens.
    #[error("the peer is refused: {}", .0.text)]
    Refused(Refusal),
    /// No random bytes for a nonce.
    #[error("the system has no random bytes: {0}")]
    Random(getrandom::Error),
}

impl HandshakeError {
    /// What an error of the records means here.
    pub(super) fn of_tls(error: LinkError) -> HandshakeError {
        match error {
            LinkError::Tls(source) => HandshakeError::Tls(source),
            other => HandshakeError::Tls(rustls::Error::General(other.to_string())),
        }
    }
}

/// Why a cluster key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the cluster key {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner and group may read it.
    #[error("the cluster key {path} is readable by everybody; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Too little to be a secret.
    #[error(
        "the cluster key {path} has {length} bytes; at least {} are needed, for example from: head -c 32 /dev/urandom | base64",
        super::membership::KEY_BYTES_MIN
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Bytes without white space around them.
        length: usize,
    },
}
