//! What is said over the control socket.

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// What a client asks: `{"command":"status"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// The node's status.
    Status,
    /// An orderly stop.
    Stop,
    /// Nothing: is a daemon there?
    Ping,
    /// Replace the peer's data by this primary's, though it was found that this must not be.
    OverwritePeer {
        /// Why, for the record.
        reason: String,
    },
    /// Delete what was kept aside under a name.
    DiscardDivergence {
        /// The name.
        id: String,
    },
}

/// What a node answers: `{"answer":"pong"}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// The node's status.
    Status {
        /// The status.
        status: Box<Status>,
    },
    /// The stop has begun.
    Stopping,
    /// A daemon is there.
    Pong,
    /// It has begun.
    Begun,
    /// The request was not taken; nothing was changed.
    Refused {
        /// Why, for a person.
        message: String,
    },
}
