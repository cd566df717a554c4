//! What holds for every arbiter, and what for each.

pub(crate) mod contract;
mod etcd;
mod key;
mod ping;
mod protocol;
mod register;
