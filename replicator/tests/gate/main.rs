//! The gate as its users see it, over real file systems. Needs root and /dev/fuse; what needs more says so.

mod concurrency;
mod directories;
mod durability;
mod extended;
mod files;
mod image;
mod lifecycle;
mod limits;
mod namespace;
mod queues;
mod quiet;
mod random;
mod strict;
mod support;
