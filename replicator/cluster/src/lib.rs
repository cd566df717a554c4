//! The cluster around the mirror: what makes two nodes that hold the same into one service that goes on.
//!
//! Decisions are the core's (`replicator_core::cluster`); here is what carries them out, one edge each, none of which knows another. Beneath them lie
//! `held`, `icmp`, `nearest` and `tls`. `supervisor` is how any of its programs speaks to the service manager that started it.

pub mod address;
pub mod arbiter;
pub mod daemon;
pub mod health;
pub mod heartbeat;
mod held;
mod icmp;
pub mod membership;
pub mod module;
pub mod nearest;
pub mod remote;
pub mod supervisor;
pub mod tls;
pub mod witness;
