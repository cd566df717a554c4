//! How often what was asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::opcode;
use super::request::Request;

/// Opcodes with a count and a name of their own; the kernel's numbers for the others are far above or reserved.
const OPCODES: usize = 64;

/// What the protocol calls the requests a gate gets (include/uapi/linux/fuse.h).
const NAMES: [(u32, &str); 36] = [
    (opcode::LOOKUP, "LOOKUP"),
    (opcode::FORGET, "FORGET"),
    (opcode::GETATTR, "GETATTR"),
    (opcode::SETATTR, "SETATTR"),
    (opcode::READLINK, "READLINK"),
    (opcode::SYMLINK, "SYMLINK"),
    (opcode::MKNOD, "MKNOD"),
    (opcode::MKDIR, "MKDIR"),
    (opcode::UNLINK, "UNLINK"),
    (opcode::RMDIR, "RMDIR"),
    (opcode::RENAME, "RENAME"),
    (opcode::LINK, "LINK"),
    (opcode::OPEN, "OPEN"),
    (opcode::READ, "READ"),
    (opcode::WRITE, "WRITE"),
    (opcode::STATFS, "STATFS"),
    (opcode::RELEASE, "RELEASE"),
    (opcode::FSYNC, "FSYNC"),
    (opcode::SETXATTR, "SETXATTR"),
    (opcode::GETXATTR, "GETXATTR"),
    (opcode::LISTXATTR, "LISTXATTR"),
    (opcode::REMOVEXATTR, "REMOVEXATTR"),
    (opcode::OPENDIR, "OPENDIR"),
    (opcode::READDIR, "READDIR"),
    (opcode::RELEASEDIR, "RELEASEDIR"),
    (opcode::FSYNCDIR, "FSYNCDIR"),
    (opcode::CREATE, "CREATE"),
    (opcode::IOCTL, "IOCTL"),
    (opcode::BATCH_FORGET, "BATCH_FORGET"),
    (opcode::FALLOCATE, "FALLOCATE"),
    (opcode::READDIRPLUS, "READDIRPLUS"),
    (opcode::RENAME2, "RENAME2"),
    (opcode::LSEEK, "LSEEK"),
    (opcode::TMPFILE, "TMPFILE"),
    (opcode::STATX, "STATX"),
    (opcode::COPY_FILE_RANGE_64, "COPY_FILE_RANGE_64"),
];

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
        #[derive(Debug)]
        pub struct Counters {
            $(#[allow(missing_docs)] pub $field: AtomicU64,)*
            by_opcode: [AtomicU64; OPCODES],
        }

        impl Default for Counters {
            fn default() -> Counters {
                Counters {
                    $($field: AtomicU64::new(0),)*
                    by_opcode: std::array::from_fn(|_| AtomicU64::new(0)),
                }
            }
        }

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

fn name(code: u32) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == code);
    known.map_or_else(|| format!("opcode {code}"), |(_, name)| (*name).to_owned())
}

/// One more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// Requests since the mount by the protocol's name for them, those that came; what has no name is called by its number.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        (0..)
            .zip(&self.by_opcode)
            .map(|(code, counter)| (code, counter.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .map(|(code, count)| (name(code), count))
            .collect()
    }

    /// Count a request by its opcode and in its group.
    pub fn request(&self, code: u32, request: &Request<'_>) {
        use Request as R;
        if let Some(counter) = self.by_opcode.get(code as usize) {
            count(counter);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_name() {
        let counters = Counters::default();
        counters.request(opcode::READLINK, &Request::Readlink);
        counters.request(opcode::READLINK, &Request::Readlink);
        counters.request(25, &Request::Unsupported);
        counters.request(4096, &Request::Unsupported);
        let expected = [("READLINK".to_owned(), 2), ("opcode 25".to_owned(), 1)];
        assert_eq!(counters.by_name(), BTreeMap::from(expected));
        assert_eq!((counters.snapshot().lookups, counters.snapshot().other), (2, 2));
    }
}
