//! The gate: a FUSE file system mounted over the replicated directory itself.
//!
//! Only this module knows FUSE. It does not know the tracer, the link or the daemon: what it sees it reports to a
//! [`sink::Sink`].

pub mod sink;
