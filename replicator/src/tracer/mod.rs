//! The tracer: kernel programs that see each write which bypasses the daemon.
//!
//! Only this module knows aya and BTF. It does not know the gate, the link or the daemon: it is polled, and hands out
//! [`TraceEvent`]s.

use replicator_core::extent::Extent;
use replicator_core::ids::FileId;

/// One thing a kernel program saw. Ranges are upper bounds where the kernel gives no exact one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceEvent {
    /// These bytes were written, punched, zeroed or cut off.
    Write {
        /// The file.
        file: FileId,
        /// The bytes.
        extent: Extent,
    },
    /// A page of a shared mapping went from clean to dirty (or, where a file system has no better hook, any page did): to be
    /// read only after a local sync that begins later.
    Store {
        /// The file.
        file: FileId,
        /// The folio's bytes.
        extent: Extent,
    },
    /// Mode, owner, times or extended attributes changed.
    Attributes {
        /// The file.
        file: FileId,
    },
    /// Names in this directory changed.
    Directory {
        /// The directory.
        directory: FileId,
    },
    /// A sync the gate cannot hold was done by a foreign process (msync, RWF_DSYNC).
    UnguardedSync {
        /// The file.
        file: FileId,
    },
}
