//! How the second node becomes a member.
//!
//! ```text
//!   joining node                                       issuing node (its address is in the token)
//!     TLS 1.3, ALPN "replicator-join/1"           <-->  certificates: node, authority
//!     checks: the authority's fingerprint is the token's, the node's certificate is the authority's and of the token's cluster
//!     token id (16 bytes), proof (32 bytes)        -->  keyed blake3 of the channel's exported key, with the token's key
//!     {"version":1,"node":…,"request":…}\n         -->  checks the proof first; then the request, at most 16 KiB
//!                                                       removes the token, durably; then makes the certificate;
//!                                                       the description with the new node is durable
//!                                                  <--  {"joined":{…}}\n, at most 256 KiB, or {"refused":"why"}\n
//!     checks everything, writes the directory whole
//! ```
//!
//! The proof is bound to the channel (RFC 8446, 7.5: an exporter that only the two ends know), so who is in between can
//! neither make one nor pass one on. Nothing secret is sent before the issuing node has shown that it is the token's.
//!
//! If one of the two dies after the token was removed, the joining node has nothing but a directory aside (which its next attempt
//! removes) or is a member; the issuing node may name a member that never came to be. The remedy is the same always: a new
//! token, made with the name of the node to be replaced, and on the joining node another attempt.
//!
//! Strangers: connections are few at a time and short, one that fails keeps its place for a pause, wrong proofs under the token's
//! id are counted on the disk and withdraw it, and all are logged with their address.

mod channel;
mod guest;
mod host;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use guest::join;
pub use host::{Joined, host_join};

/// Version of the conversation.
const VERSION: u32 = 1;
/// The conversation's name inside TLS.
const ALPN: &[u8] = b"replicator-join/1";
/// Longest request in bytes, its newline included.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Longest answer in bytes, its newline included.
const RESPONSE_BYTES_MAX: usize = 256 << 10;
/// Token id and proof.
const PROOF_BYTES: usize = 48;

/// What strangers can make the issuing node spend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinLimits {
    /// Connections at a time; others are closed at once.
    pub connections: usize,
    /// For a whole conversation.
    pub conversation: Duration,
    /// How long the place of a connection stays taken that made no member.
    pub pause: Duration,
}

impl Default for JoinLimits {
    fn default() -> JoinLimits {
        JoinLimits { connections: 16, conversation: Duration::from_secs(10), pause: Duration::from_secs(1) }
    }
}

/// What the joining node sends after its proof.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct JoinRequest {
    version: u32,
    node: Newcomer,
    /// PEM of a PKCS #10 request; only the key in it counts.
    request: String,
}

/// The joining node as it describes itself.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Newcomer {
    name: String,
    id: String,
    control: SocketAddr,
    mirror: Vec<IpAddr>,
    heartbeat: std::collections::BTreeMap<String, SocketAddr>,
}

/// What it gets.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum JoinResponse {
    Joined(Box<Welcome>),
    Refused(String),
}

/// Everything a member has.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Welcome {
    /// TOML.
    description: String,
    /// PEM.
    authority: String,
    /// PEM.
    authority_key: String,
    /// PEM.
    certificate: String,
    /// The file in hexadecimal digits, like the two keys.
    secrets: String,
    mirror_key: String,
    witness_key: String,
}

impl Drop for Welcome {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        let Welcome { authority_key, secrets, mirror_key, witness_key, .. } = self;
        for secret in [authority_key, secrets, mirror_key, witness_key] {
            secret.zeroize();
        }
    }
}
