//! The wire format: fixed header, small bodies, encoded and decoded by hand, little-endian.
//!
//! Decoding is total: any bytes give a value or an error, never a panic, and never more memory than arrived.

pub mod account;
pub mod attributes;
pub mod body;
pub mod checksum;
pub(crate) mod cursor;
pub mod header;
pub mod hello;
pub mod namespace;
pub mod seen;
#[cfg(test)]
mod tests;
pub mod verdict;

pub use cursor::BodyError;
