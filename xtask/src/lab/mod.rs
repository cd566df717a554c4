//! The lab: two nodes on one machine, made of real parts.
//!
//! A [`place::Place`] is a directory that a later run can recognise and clear away if this one dies. In it stand
//! [`image::LoopImage`]s (file systems of the nodes), joined by a [`net::Pair`] of network namespaces, and the two
//! [`node::Node`]s run the daemon that is shipped. [`mirror::Mirror`] puts these together. Nothing here knows how the
//! daemon is built: it is started, asked for its status, killed, and its directories are looked at from outside.

pub mod aligned;
pub mod cluster;
pub mod compare;
pub mod config;
pub mod crash_disk;
pub mod exec;
pub mod flags;
pub mod image;
pub mod interrupt;
pub mod ledger;
pub mod log;
pub mod machine;
pub mod mapping;
pub mod mirror;
pub mod mount;
pub mod net;
pub mod node;
pub mod papers;
pub mod place;
pub mod postgresql;
pub mod power;
pub mod proxy;
pub mod records;
pub mod status;
pub mod wait;
pub mod watchdog;
pub mod writers;
pub mod xattr;
