//! Tests of reader and replica together, on real file systems.
//!
//! `mirror` plays the core and the link between a reader and a replica, in one thread; `random_tree` changes trees at random;
//! [`super::compare_trees`] judges.

mod fixture;
mod flags;
mod mirror;
mod operations;
mod oracle;
mod random_tree;
mod reading;
mod resync;
mod succession;
mod traps;
mod verify;

/// The data plane shares these between its threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<super::replica::Replica>();
    shared::<super::descriptors::Descriptors>();
    shared::<super::state::StateDirectory>();
};
