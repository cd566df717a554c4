//! What can go wrong with a heartbeat.

use std::io;
use std::net::SocketAddr;

/// Why a heartbeat does not start, or does not take what it is given.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HeartbeatError {
    /// It is told what cannot work.
    #[error(
        "the heartbeat cannot work like this: {why}; correct the configuration of the nodes' addresses or times"
    )]
    Config { why: String },
    /// A socket is not to be had.
    #[error(
        "cannot {operation} for heartbeats at {local}: {source}; is the address this node's, and its UDP port free?"
    )]
    Socket { operation: &'static str, local: SocketAddr, source: io::Error },
    /// The system has no room for a thread or a descriptor, or no random numbers.
    #[error("cannot {operation} for heartbeats: {source}; raise the limits of this service")]
    System { operation: &'static str, source: io::Error },
    /// What is to be published is too long.
    #[error("{length} bytes are too many for a heartbeat, which carries {limit}; publish less")]
    TooLong { length: usize, limit: usize },
}
