//! The daemon of a node: joins the edges around the controllers, one of which there is for each module.
//!
//! * [`runner`]: a module: its controller, and what carries out its orders ([`edges`]).
//! * [`mirror`]: what is asked of a mirror, and how it is watched.
//! * `module`: one of them from its start to its end. [`catalogue`]: which there are, as the shelf has them.
//! * [`delivery`]: a module that the other node sends.
//! * [`rotation`]: the shared secret is changed while both nodes run. [`member`]: the membership, as the parts share it.
//! * [`gossip`]: what the nodes tell each other with every beat.
//! * [`history`]: what happened and why, kept for people.
//! * [`standing`]: what a controller remembers.
//! * [`logs`], [`bundle`]: what scripts logged, and what else helps who looks for a fault.
//! * [`words`]: causes and states for people.

pub mod arbiters;
pub mod bundle;
pub mod catalogue;
pub mod control;
pub mod delivery;
pub mod edges;
#[cfg(test)]
mod fuzz;
pub mod gossip;
pub mod history;
pub mod known;
pub mod local;
pub mod logs;
pub mod member;
pub mod mirror;
pub mod module;
pub mod node;
mod own_file;
pub mod rotation;
pub mod runner;
pub mod service;
pub mod socket;
pub mod standing;
pub mod status;
pub mod words;
