//! The daemon: joins the edges around the core.
//!
//! * [`engine`]: the data-plane thread, the same for both roles, and its end in order ([`ending`]); [`primary`] and [`secondary`] are what differs.
//! * [`start`]: brings a node up and takes it down, in an order in which no write can be missed.
//! * [`gatekeeper`], [`sessions`], [`state`], [`workers`]: what runs on other threads, and how it speaks to the data plane
//!   ([`mailbox`], [`message`]).
//! * [`checkpoint`]: what a node keeps of what it knows when it is stopped in order, and what it makes of it at the next start.
//! * [`nested`]: what is mounted inside the directories while the node runs.
//! * [`publish`]: what the node says of itself.

mod behind;
mod capture;
mod checkpoint;
mod ending;
mod engine;
mod gatekeeper;
mod mailbox;
mod message;
mod nested;
mod pace;
mod primary;
mod publish;
mod secondary;
mod sessions;
mod start;
mod state;
mod workers;
mod writeback;

pub use start::run;
