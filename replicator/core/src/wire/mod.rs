//! The wire format: fixed header, small bodies, encoded and decoded by hand, little-endian.

pub mod attributes;
pub mod header;
pub mod namespace;
