//! Control: the local socket through which the command line and the console speak to a node.
//!
//! Newline-delimited JSON over a unix socket that only its owner may open. A client sends a [`Request`] per line and gets a
//! [`Response`] per line. Control knows neither the daemon nor the command line: it asks a [`NodeView`].

mod client;
mod message;
mod order;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Duration;

pub use client::{REQUEST_LIMIT, request, request_within};
pub use message::{Request, Response};
pub use order::{Order, ResyncScope};
pub use server::{CLIENTS_MAX, ControlServer, IDLE_LIMIT, serve};

use crate::status::Status;
use crate::verification::VerifyReport;

/// Longest request in bytes, its newline included.
pub const REQUEST_BYTES_MAX: usize = 4096;
/// Longest response in bytes, its newline included.
pub const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// What control can ask of a node. Called from the server's thread: must not block on peer or disk.
pub trait NodeView: Send + Sync {
    /// The node as it is now.
    fn status(&self) -> Status;

    /// Begin an orderly stop. Returns at once; a second call changes nothing.
    fn request_stop(&self);

    /// The stop that is requested next is followed by a start in the other role: nothing need be kept for one in this.
    fn hand_over(&self) {}

    /// Begin long work. Returns at once, with the number under which the status tells of it.
    ///
    /// # Errors
    /// Why the order is not taken, for a person.
    fn order(&self, order: &Order) -> Result<u64, String>;

    /// What the verification that was asked for last has found.
    fn verify_report(&self) -> VerifyReport;
    /// Replace what the peer had when the nodes met last by this primary's data, though it was found that this must not be. Returns at
    /// once; what follows is seen in the status.
    ///
    /// # Errors
    /// Why that is not done, for a person.
    fn overwrite_peer(&self, _reason: &str) -> Result<(), String> {
        Err("this node has no peer to be overwritten".to_owned())
    }

    /// This primary may go on alone, as the primary of this term, in this absence of its peer (none: whichever it is). Returns at once; what
    /// is returned is answered when that is on record, or passed over, with a word why.
    ///
    /// # Errors
    /// Why that is not done, for a person.
    fn go_alone(&self, _term: u64, _absence: Option<u64>) -> Result<Receiver<Result<(), String>>, String> {
        Err("this node does not go on alone".to_owned())
    }

    /// The primary may go on without this secondary, in this term. As [`NodeView::go_alone`].
    ///
    /// # Errors
    /// Why that is not done, for a person.
    fn outdate(&self, _term: u64) -> Result<Receiver<Result<(), String>>, String> {
        Err("this node has no copy".to_owned())
    }

    /// Delete what was kept aside under a name. Returns at once.
    ///
    /// # Errors
    /// Why that is not done, for a person.
    fn discard_divergence(&self, _id: &str) -> Result<(), String> {
        Err("this node keeps nothing aside".to_owned())
    }
}

/// What can go wrong between a node and those who ask it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ControlError {
    /// Nobody answers at the socket.
    #[error("no daemon answers at {path}; start one with \"replicator run\", or name its socket with --socket", path = path.display())]
    NoDaemon { path: PathBuf },
    /// Another daemon has the socket.
    #[error("another daemon answers at {path}; stop it first, or give this node another node.control-socket", path = path.display())]
    InUse { path: PathBuf },
    /// There is something else with the socket's name.
    #[error("{path} exists and is not a socket; remove it, or set another node.control-socket", path = path.display())]
    NotASocket { path: PathBuf },
    /// The system refused.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    System { operation: &'static str, path: PathBuf, source: io::Error },
    /// The daemon did not answer in time.
    #[error("the daemon at {path} did not answer within {limit:?}; it may be overloaded or stopped by a signal", path = path.display())]
    Late { path: PathBuf, limit: Duration },
    /// The answer is too long, cut off, or no answer at all.
    #[error("the daemon at {path} answered something that is no answer ({why}); are both of the same version?", path = path.display())]
    Garbage { path: PathBuf, why: String },
    /// The daemon did not take the request.
    #[error("the daemon at {path} refuses the request: {message}", path = path.display())]
    Refused { path: PathBuf, message: String },
}
