//! What is said over the control socket.

use serde::{Deserialize, Serialize};

use super::Order;
use crate::status::Status;
use crate::verification::VerifyReport;

/// What a client asks: `{"command":"status"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// The node's status.
    Status,
    /// An orderly stop.
    Stop,
    /// The same, and it starts next in the other role: nothing is looked at for a next run in this one, which takes time with the number of files.
    HandOver,
    /// Nothing: is a daemon there?
    Ping,
    /// Long work.
    Order {
        /// Which.
        order: Order,
    },
    /// What the last verification found.
    VerifyReport,
    /// Replace the peer's data by this primary's, though it was found that this must not be.
    OverwritePeer {
        /// Why, for the record.
        reason: String,
    },
    /// This primary may go on alone; answered when it is on record.
    GoAlone {
        /// As the primary of this term.
        term: u64,
        /// In this absence of its peer (see the status); none: whichever it is; 0: it does not ask, and is given a higher term.
        #[serde(default)]
        absence: Option<u64>,
    },
    /// The primary may go on without this secondary; answered when it is on record.
    Outdate {
        /// In this term.
        term: u64,
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
    /// The order is taken.
    Taken {
        /// Under which number the status tells of it.
        number: u64,
    },
    /// What the last verification found.
    VerifyReport {
        /// The report.
        report: VerifyReport,
    },
    /// It has begun.
    Begun,
    /// It is on record.
    Recorded,
    /// The request was not taken; nothing was changed.
    Refused {
        /// Why, for a person.
        message: String,
    },
}
