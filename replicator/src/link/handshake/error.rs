//! Why a handshake fails.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use replicator_core::wire::BodyError;
use replicator_core::wire::header::{HeaderError, Kind};
use replicator_core::wire::hello::Refusal;

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
