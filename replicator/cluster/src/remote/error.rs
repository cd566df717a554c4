//! What can go wrong on the control channel. Every message names the remedy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why the channel cannot be offered.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RemoteError {
    /// The address is not there or is taken.
    #[error(
        "cannot listen for the peer at {address}: {source}; the address must be one of this node's and its port free"
    )]
    Listen { address: SocketAddr, source: io::Error },
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AskError {
    /// No TCP connection.
    #[error("the peer cannot be reached at {address}: {source}; is its daemon running, and the network up?")]
    Unreachable { address: SocketAddr, source: io::Error },
    /// Who is there is not the peer, or does not take this node for its own.
    #[error(
        "who answers at {address} and this node do not accept each other ({why}); compare the clocks, the certificates' expiry \
         and the cluster's description on both nodes"
    )]
    NotAccepted { address: SocketAddr, why: String },
    /// No answer in time. The peer may have taken the request.
    #[error(
        "no answer from {address} within {within:?}; the peer may still act on the request: look at its status before asking again"
    )]
    Late { address: SocketAddr, within: Duration },
    /// The connection broke after the request was sent. The peer may have taken it.
    #[error(
        "the connection to {address} broke before the answer ({why}); the peer may have acted: look at its status before asking again"
    )]
    Lost { address: SocketAddr, why: String },
    /// The peer sent what is no answer.
    #[error("{address} answered something that is no answer ({why}); are both nodes of the same version?")]
    Garbage { address: SocketAddr, why: String },
    /// The request is larger than the channel takes.
    #[error("the request has {bytes} bytes, the control channel takes {limit}; ask for less at a time", limit = super::REQUEST_BYTES_MAX)]
    TooLong { bytes: usize },
    /// The request cannot be written as JSON.
    #[error("the request cannot be written ({0}); this is a defect of this program")]
    Unwritable(serde_json::Error),
    /// The peer did not take the request, or did not finish it.
    #[error("the peer at {address} refuses: {message}")]
    Refused { address: SocketAddr, message: String },
}

impl AskError {
    /// Whether the peer may have acted on the request all the same.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        matches!(
            self,
            AskError::Late { .. }
                | AskError::Lost { .. }
                | AskError::Garbage { .. }
                | AskError::Refused { .. }
        )
    }
}
