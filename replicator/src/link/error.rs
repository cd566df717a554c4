//! Why a connection ends.

use std::io;

use replicator_core::wire::header::{HeaderError, Kind};

/// Why a connection ended. None of these is repaired on the connection: it is closed, and what was not confirmed is sent
/// again on the next one.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer sent a header that cannot be one.
    #[error("the peer sent a bad frame header: {0}")]
    Header(#[from] HeaderError),
    /// A frame that belongs to the handshake came after it.
    #[error("the peer sent a {kind:?} frame after the handshake")]
    UnexpectedKind {
        /// What came.
        kind: Kind,
    },
    /// The bytes of a payload are not those that were sent.
    #[error(
        "the payload of a {kind:?} frame has checksum {computed:#010x}, its header says {announced:#010x}"
    )]
    PayloadChecksum {
        /// The frame.
        kind: Kind,
        /// What the header says.
        announced: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The stream ended within a frame.
    #[error("the peer closed the connection within a frame, {missing} bytes before its end")]
    Truncated {
        /// Bytes of the frame (or at least of its header) that did not come.
        missing: usize,
    },
    /// The stream ended between two frames.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// An encrypted stream ended, and the peer had not said that it would.
    #[error("the connection was cut off, or the peer's daemon ended")]
    CutOff,
    /// What came is not of this encrypted connection, or the peer found that of what this node sent.
    #[error("the encrypted connection broke: {0}")]
    Tls(rustls::Error),
    /// A system call on the socket failed.
    #[error("cannot {operation} on the connection: {source}")]
    System {
        /// What was tried: "send" or "receive".
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl LinkError {
    /// The class of the error, for counters: "header", "kind", "payload-checksum", "truncated", "peer-closed", "cut-off", "tls",
    /// "system".
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            LinkError::Header(_) => "header",
            LinkError::UnexpectedKind { .. } => "kind",
            LinkError::PayloadChecksum { .. } => "payload-checksum",
            LinkError::Truncated { .. } => "truncated",
            LinkError::PeerClosed => "peer-closed",
            LinkError::CutOff => "cut-off",
            LinkError::Tls(_) => "tls",
            LinkError::System { .. } => "system",
        }
    }

    /// Whether the peer (or something on the way) sent what no correct peer sends. Operators want to hear of these; the
    /// others are what networks do.
    #[must_use]
    pub fn is_nonsense(&self) -> bool {
        match self {
            LinkError::Header(_)
            | LinkError::UnexpectedKind { .. }
            | LinkError::PayloadChecksum { .. }
            | LinkError::Tls(_) => true,
            LinkError::Truncated { .. }
            | LinkError::PeerClosed
            | LinkError::CutOff
            | LinkError::System { .. } => false,
        }
    }
}
