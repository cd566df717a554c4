//! Remote: the control channel between the two nodes. One node asks, the other answers.
//!
//! TCP, and on it TLS 1.3 in which both sides show a certificate (`crate::tls`). Everything but the expected peer (another cluster, an
//! expired certificate, this node's own one, an older TLS, no TLS) ends before the first byte of a request is read.
//!
//! ```text
//!   asker                                        answerer
//!     TLS 1.3, ALPN "replicator-control/1"  <-->
//!                                           <--  {"replicator-control":1}\n       the answerer has accepted the asker
//!     {"id":7,"within-ms":3000,"request":R}\n -->                                  at most 64 KiB
//!                                           <--  {"id":7,"answer":A}\n            at most 4 MiB
//!                                            or  {"id":7,"refused":"why"}\n       nobody looked at the request, or it took too long
//! ```
//!
//! One request at a time on a connection, as many in a row as the asker likes; [`Remote`] opens another connection for one that
//! must not wait. The answerer ends a connection only between an answer and the next request, with a TLS close, so that a close
//! without an answer means: not taken. Sessions are never resumed and no early data is taken, so nothing can be replayed.
//!
//! Both sides take their keys from a [`Keyring`]. Replacing its content makes new connections use the new keys at once; what
//! runs goes on, unless another peer is expected from then on.
//!
//! Invariants: this module knows neither what is asked nor where the keys come from. What a peer or a stranger sends is a value;
//! each of them is bounded in bytes, time and number.

mod client;
mod credentials;
mod error;
mod frame;
mod places;
mod refusals;
mod server;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

pub use client::{Options, Remote};
pub use credentials::Keyring;
pub use error::{AskError, RemoteError};
pub use refusals::Refusal;
pub use server::{Limits, Server, Statistics};

pub use crate::tls::{Credentials, CredentialsError, PeerName};

/// Longest request in bytes, with its envelope and newline.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest answer in bytes, with its envelope and newline.
pub const RESPONSE_BYTES_MAX: usize = 4 << 20;
/// Version of this protocol. A part of [`ALPN`].
pub const VERSION: u32 = 1;
/// The protocol's name inside TLS (RFC 7301), so that no other use of the same certificates can be taken for this one.
pub const ALPN: &[u8] = b"replicator-control/1";

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// The node's name.
    pub name: String,
    /// The URI in its certificate.
    pub uri: String,
    /// When its certificate expires.
    pub not_after: SystemTime,
}
