//! The daemon: joins the edges around the core.
//!
//! * [`engine`]: the data-plane thread, the same for both roles; [`primary`] and [`secondary`] are what differs.
//! * [`start`]: brings a node up and takes it down, in an order in which no write can be missed.
//! * [`gatekeeper`], [`sessions`], [`state`], [`workers`]: what runs on other threads, and how it speaks to the data plane
//!   ([`mailbox`], [`message`]).
//! * [`nested`]: what is mounted inside the directories while the node runs.
//! * [`publish`]: what the node says of itself.

mod behind;
mod capture;
mod engine;
mod gatekeeper;
mod mailbox;
mod message;
mod nested;
mod primary;
mod publish;
mod secondary;
mod sessions;
mod start;
mod state;
mod workers;

pub use start::run;
