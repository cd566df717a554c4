//! Two nodes in one thread: the real state machines, joined by toy edges, driven by one seed.
//!
//! Fault model: a session may end at any moment, seen by the two ends at different moments; what is under way is then lost
//! from some point on. Answers of edges come in any order and as late as the order of orders allows. Captured writes arrive
//! late (but before a caller's sync request, as the daemon promises); names change behind the gate's back. The secondary's
//! machine crashes: each of its files and directories then has its durable or its volatile state. The primary's daemon is killed and started anew: its dirty
//! set and its callers are gone. Reads, local syncs and state records fail now and then.
//!
//! Every other world is a harsher one, of a shape drawn from the seed (`world/shape.rs`): two volumes, larger trees, links in
//! many directories, exchanges of directories, a file that is moved again and again, directories moved while they are listed,
//! numbers that are used again at once,
//! events lost of files and directories, and faults where they hurt, a restart of the secondary's daemon among them.
//!
//! The checkers know nothing of the machines but their promises: acknowledged-is-durable, nothing-forgotten, same-tree, one
//! answer for each ticket, positions in order, names-in-order (while all changes pass the gate, every name is what the
//! operation says). Sabotaged edges show that they see what they are made for.
//!
//! Either node is stopped in order, too, and goes on from what it kept; files change while the primary is stopped.
//!
//! In some worlds both copies are verified again and again while all this goes on: no difference may be found. At their end
//! somebody else changes the copy, which must be found and healed.
//!
//! The primary is also started from an older copy of its state: it must not replace what it does not know of, but by an operator's word,
//! and then it is kept aside.
//!
//! Half of the sessions go on where the one before ended, also where that had not come far itself.
//!
//! `cargo xtask sim --seeds <n>` runs n seeds, `cargo xtask sim --seed <seed>` replays one.

pub mod disk;
mod files;
pub mod random;
mod replica;
pub mod saboteur;
pub mod seeds;
mod world;

pub use saboteur::Sabotage;
pub use world::{Stats, World};
