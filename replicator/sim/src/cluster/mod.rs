//! The cluster in one thread from one seed: two controllers as they are, and around them a world that breaks.
//!
//! Fault model: heartbeats are lost, late, one-way, on each of several paths by itself; the mirror's link breaks by itself, seen by both ends at
//! different moments, and what is under way is lost from some point on. The arbiter is unreachable from either node, answers late, or its
//! answer is lost after it has granted. Scripts take their time, fail, or hang until they are forced; addresses cannot be taken or given up; the mirror's
//! process ends by itself. The daemon is killed, between any two orders, and what it had started runs on; machines lose their power, and a
//! record that was being written is the old or the new one. A record cannot be written, and may be there all the same. A node is paused, with
//! its clock or without, and finds old messages when it goes on. Operators order this and that.
//!
//! The mirror is a model ([`mirror`]) of what `replicator-core`'s primary and secondary do with their records and their callers; the rest of
//! the daemon is one of what it owes to the controller ([`daemon`]). A world has a phase with faults and one without, at whose end one node
//! has to be active, and the other its mirror.
//!
//! The checkers ([`checks`]) each hold one promise. Saboteurs ([`Sabotage`]) show that they see what they are made for.

mod arbiter;
mod checks;
mod clients;
mod daemon;
mod faults;
mod heartbeat;
mod mirror;
pub mod model;
mod node;
mod operators;
mod saboteur;
pub mod seeds;
mod session;
mod shape;
mod steps;
mod world;

pub use saboteur::{ALL as SABOTEURS, Sabotage, caught};
pub use world::{Stats, World};
