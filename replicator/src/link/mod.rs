//! The link: frames over TCP, from the first byte of the handshake to the last acknowledgement.
//!
//! * [`handshake`]: two nodes prove to each other that they belong together; blocking, on threads of its own.
//! * `connection`: frames over an established stream, on the data plane's ring. Inside it, `outgoing` and `incoming`
//!   turn frames into bytes and back, `channel` lays them into the `records` of TLS where the link is encrypted; they do no I/O.
//! * `error`: why a connection ends.
//!
//! Invariants: this module knows the header of a frame and not the meaning of a payload. Whatever a peer sends is a value: a
//! frame or a [`LinkError`].

mod channel;
mod connection;
mod error;
pub mod handshake;
mod incoming;
mod outgoing;
#[cfg(test)]
mod papers;
mod records;
#[cfg(test)]
mod tests;

pub use connection::{Connection, LinkEvent, Statistics};
pub use error::LinkError;
pub use outgoing::Payload;
pub use records::Records;
