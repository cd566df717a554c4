//! io_uring: the rings of the data plane. Only this module knows the io-uring crate.
