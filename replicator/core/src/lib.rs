//! The replication protocol and the cluster as pure state machines.
//!
//! Invariants of this crate: `no_std + alloc`, no dependencies, no unsafe, no clock, no I/O, no
//! randomness. It meets the world in one place, [`node::Node::handle`]: an [`event::Event`] goes in,
//! [`action::Action`]s come out, and [`node::Node::next_deadline`] tells when to call again if
//! nothing happens. Payload bytes never enter it: it decides on headers, extents and positions.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod action;
pub mod activity;
pub mod begin;
pub mod checkpoint;
pub mod cluster;
pub mod config;
mod dirty;
pub mod event;
pub mod extent;
mod file_set;
pub mod ids;
pub mod lineage;
pub mod node;
mod primary;
mod record;
pub mod recovery;
pub mod resume;
pub mod reunion;
mod secondary;
pub mod snapshot;
pub mod succession;
pub mod verify;
pub mod wire;
