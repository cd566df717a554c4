//! Frames of a peer that does not mean well: `cargo xtask fuzz frames` runs this with many inputs.

mod bodies;
mod encoded;
mod primary;
mod secondary;

/// Counts what decoders allocate.
#[global_allocator]
static ALLOCATOR: replicator_fuzz::Counting = replicator_fuzz::Counting;
