//! Each hook, proved by making the operation and seeing the event, on real file systems in disk images.
//!
//! Needs root and BPF; what a machine cannot run says so. `REPLICATOR_TEST_ROW` (`tracepoints`, `fentry`) forces a row, and
//! `REPLICATOR_TEST_EXT4` names a mounted ext4 to use instead of an image, for machines without loop devices.

#[path = "tracer/fixture.rs"]
mod fixture;
#[path = "tracer/operations.rs"]
mod operations;

#[path = "tracer/btrfs.rs"]
mod btrfs;
#[path = "tracer/dirty_mappings.rs"]
mod dirty_mappings;
#[path = "tracer/ext4.rs"]
mod ext4;
#[path = "tracer/filters.rs"]
mod filters;
#[path = "tracer/names.rs"]
mod names;
#[path = "tracer/overflow.rs"]
mod overflow;
#[path = "tracer/prepared.rs"]
mod prepared;
#[path = "tracer/start.rs"]
mod start;
#[path = "tracer/xfs.rs"]
mod xfs;
