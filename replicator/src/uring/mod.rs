//! io_uring: the rings of the data plane. Only this module knows the io-uring crate.
//!
//! A [`Ring`] belongs to one thread. What the kernel may touch (buffers, iovecs, open files) moves *into* the ring with
//! an operation and comes out with its [`Completion`]; nothing that the kernel may still use can be reached, moved or
//! freed from outside, whatever the caller drops. So the interface is safe: there is no borrow that could end early.
//!
//! * `buffer`: memory. [`Buffer`] has one owner, [`Shared`] is an immutable view with many, [`AppendBuffer`] is filled
//!   at its end while views of what is already there are in use.
//! * `ring`: operations, waiting, and what happens to operations under way when the ring goes.
//! * `commands`: a second kind of ring, of commands to a driver that fills memory when it has something to say.
//! * `probe`: what the running kernel offers.
//!
//! Invariant: this module knows nothing of frames, sessions or volumes, and of no driver.

mod buffer;
mod commands;
mod operation;
mod probe;
mod ring;
#[cfg(test)]
mod tests;
mod waker;

pub use buffer::{AppendBuffer, Buffer, Pool, Shared};
pub use commands::{ARGUMENT_BYTES, Commands, Seat};
pub use probe::{Feature, Features, UringError, probe};
pub use ring::{Completion, Full, Ring, Token};
pub use waker::Waker;
