//! Two nodes in one thread: the real state machines, joined by toy edges, driven by one seed.
//!
//! Fault model: a session may end at any moment, seen by the two ends at different moments; what is under way is then lost from some
//! point on, or arrives late, under the number of the old session. Answers of edges come in any order and as late as the order of orders
//! allows. Captured writes arrive late (but before a caller's sync request, as the daemon promises); names change behind the gate's back;
//! events are lost, and that is told. Either daemon is killed at any step, or stopped in order; files change while the primary is stopped. Either
//! machine loses its power, or both do: what was not synced of files, of names, and of the node's own files is lost, torn or kept
//! ([`disk`], `files/durable.rs`). Disks are slow, syncs and reads fail, machines are paused. `docs/simulation.md` has all of it.
//!
//! Every other world is a harsher one, of a shape drawn from the seed (`world/shape.rs`), with faults where they hurt.
//!
//! In some worlds both copies are verified again and again while all this goes on: no difference may be found. At their end
//! somebody else changes the copy, which must be found and healed. The primary is also started from an older copy of its state: it
//! must not replace what it does not know of, but by an operator's word, and then it is kept aside.
//!
//! In worlds of another kind ([`Setting::Roles`]) nodes take turns as the primary: the primary is killed, loses its power, is cut off or stopped, and
//! a controller promotes the secondary, or tells the primary that it may go on alone (`world/roles.rs`).
//!
//! The checkers (`world/checks/`, a promise in each file) know nothing of the machines but what they promise. Saboteurs ([`saboteur`])
//! show that they see what they are made for.
//!
//! `cargo xtask sim --seeds <n>` runs n seeds, `cargo xtask sim --seed <seed>` replays one.

pub mod cluster;
pub mod disk;
mod files;
pub mod random;
mod replica;
pub mod saboteur;
pub mod seeds;
mod world;

pub use saboteur::Sabotage;
pub use world::{Setting, Stats, World};
