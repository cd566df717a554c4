//! How often what was asked.

use std::sync::atomic::{AtomicU64, Ordering};

use super::request::Request;

/// Requests by group, since the mount.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RequestCounts {
    /// Names looked up, nodes forgotten, symlinks read.
    pub lookups: u64,
    /// Attributes and extended attributes, read or changed; statfs, ioctl.
    pub attributes: u64,
    /// Names made, removed, changed.
    pub namespace: u64,
    /// Files and directories opened and released.
    pub opens: u64,
    /// Directory listings.
    pub listings: u64,
    /// READ, lseek.
    pub reads: u64,
    /// WRITE, fallocate, copy_file_range.
    pub writes: u64,
    /// fsync, fdatasync, fsyncdir, syncfs.
    pub syncs: u64,
    /// WRITEs held until they were durable.
    pub synchronous_writes: u64,
    /// Anything else.
    pub other: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Made no sense.
    pub malformed: u64,
    /// Answers nobody waited for any more.
    pub unwanted: u64,
}

macro_rules! counters {
    ($($field:ident),*) => {
        /// The running counts.
        #[derive(Default, Debug)]
        pub struct Counters { $(pub $field: AtomicU64,)* }

        impl Counters {
            /// The counts now.
            #[must_use]
            pub fn snapshot(&self) -> RequestCounts {
                RequestCounts { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters!(
    lookups,
    attributes,
    namespace,
    opens,
    listings,
    reads,
    writes,
    syncs,
    synchronous_writes,
    other,
    refused,
    malformed,
    unwanted
);

/// One more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// Count a request in its group.
    pub fn request(&self, request: &Request<'_>) {
        use Request as R;
        count(match request {
            R::Lookup { .. } | R::Forget { .. } | R::BatchForget { .. } | R::Readlink => &self.lookups,
            R::Getattr { .. }
            | R::Statx { .. }
            | R::Setattr { .. }
            | R::Statfs
            | R::Setxattr { .. }
            | R::Getxattr { .. }
            | R::Listxattr { .. }
            | R::Removexattr { .. }
            | R::Ioctl { .. } => &self.attributes,
            R::Symlink { .. }
            | R::Mknod { .. }
            | R::Mkdir { .. }
            | R::Unlink { .. }
            | R::Rmdir { .. }
            | R::Rename { .. }
            | R::Link { .. }
            | R::Create { .. }
            | R::Tmpfile { .. } => &self.namespace,
            R::Open { .. } | R::Release { .. } | R::Opendir { .. } | R::Releasedir { .. } => &self.opens,
            R::Readdir { .. } => &self.listings,
            R::Read { .. } | R::Lseek { .. } => &self.reads,
            R::Write { .. } | R::Fallocate { .. } | R::CopyFileRange { .. } => &self.writes,
            R::Fsync { .. } | R::Fsyncdir { .. } | R::Syncfs => &self.syncs,
            R::Interrupt | R::Destroy | R::Unsupported => &self.other,
        });
    }
}
