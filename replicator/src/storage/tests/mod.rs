//! Tests of reader and replica together, on real file systems.
//!
//! `mirror` plays the core and the link between a reader and a replica, in one thread; `random_tree` changes trees at random;
//! [`super::compare_trees`] judges.

mod fixture;
mod mirror;
mod operations;
mod oracle;
mod random_tree;
mod reading;
mod resync;
mod traps;
