//! The daemon: joins the edges around the core.
//!
//! * [`engine`]: the data-plane thread, the same for both roles, and its end in order ([`ending`]); [`primary`] and [`secondary`] are what differs.
//! * [`start`]: brings a node up and takes it down, in an order in which no write can be missed.
//! * [`settings`]: what core and handshake are told of the configuration.
//! * [`gatekeeper`], [`sessions`], [`state`], [`workers`]: what runs on other threads, and how it speaks to the data plane
//!   ([`mailbox`], [`message`]).
//! * [`checkpoint`]: what a node keeps of what it knows when it is stopped in order, and what it makes of it at the next start.
//! * [`safe_set`]: which files may differ from the peer's, on record before they do; [`settling`]: how they leave it.
//! * [`register`]: which file of a secondary is the copy of which, on record before anything is confirmed.
//! * [`nested`]: what is mounted inside the directories while the node runs.
//! * [`publish`]: what the node says of itself; [`progress`]: how fast long work goes on.
//! * [`orders`]: what an operator asks for; [`report`]: what a verification finds.

mod behind;
mod capture;
mod checkpoint;
mod ending;
mod engine;
mod gatekeeper;
mod handle;
mod instructions;
mod left;
mod mailbox;
mod meeting;
mod message;
mod nested;
mod orders;
mod primary;
mod progress;
mod publish;
mod recovered;
mod register;
mod report;
mod safe_set;
mod scheduling;
mod secondary;
mod sessions;
mod settings;
mod settling;
mod stages;
mod start;
mod state;
mod told;
mod workers;
mod writeback;

pub use capture::Prepared;
pub use instructions::{Instructions, Refused};
pub use left::name_id;
pub use start::run;
