//! Storage: the state of files, read on the primary and applied on the secondary.
//!
//! Everything here is synchronous and knows neither the link nor the core's scheduling. Plain bytes are read and
//! written by the data plane on the descriptors that [`reader`] and [`replica`] hand out; all that is not plain bytes
//! (names, holes, attributes, digests, the state record) is done here.
//!
//! Files are reached by handle and names by `*at` calls of one component that follow no symlink: no byte that a
//! peer sends is ever used as a path.

pub mod activity;
pub mod boundary;
pub mod checkpoint;
pub mod compare_trees;
pub mod descriptors;
pub mod digest;
pub mod divergence;
pub mod protection;
pub mod reader;
pub mod register;
pub mod replica;
pub mod state;
pub mod succession;
pub mod survey;
pub mod verify;

mod flags;
mod holes;
mod log;
mod own_files;
mod records;
mod sealed;
mod status;
mod xattr;

#[cfg(test)]
mod tests;
