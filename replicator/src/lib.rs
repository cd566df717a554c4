//! The node: edges that touch the system, the daemon that joins them, the command line.
//!
//! Edges (`gate`, `link`, `notify`, `storage`, `tracer`, `control`) do not know each other; only `daemon` joins them. Beneath them lie
//! `volume`, `uring`, `mounts`, `idle`, `status`, `telemetry` and `config`. Only `tracer` knows aya, only `uring` knows io-uring, only `gate` knows FUSE,
//! only `notify` knows fanotify. `cargo xtask check` holds these boundaries.

mod boot;
pub mod cli;
mod clock;
pub mod cluster;
pub mod config;
pub mod control;
pub mod daemon;
mod exposure;
pub mod gate;
pub mod idle;
pub mod link;
pub mod mounts;
pub mod notify;
pub mod patterns;
pub mod status;
pub mod storage;
pub mod telemetry;
pub mod tracer;
pub mod uring;
pub mod verification;
pub mod volume;
