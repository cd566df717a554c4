//! Which files of a volume lie outside of its replicated tree, because all their names are left out by patterns: what changes
//! in them concerns nobody.
//!
//! The kernel tells one name of a file, and not always. So what was found out is kept: a file that lies outside stays there,
//! whatever happens to its names, until one of them is seen to be of the tree; every operation of the gate and every list of
//! a directory says so of those it brings ([`Volume::readmit`]). Whatever is in doubt is inside: its changes are marked, and
//! come to nothing where the peer knows no name of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::PoisonError;

use nix::errno::Errno;
use nix::fcntl::readlink;

use super::Volume;
use crate::patterns::Patterns;

/// Behind the path of what has lost the name that the kernel knows it by (d_path, fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// Where a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// A name of it is of the tree, or may be.
    Inside,
    /// The same, and until now its changes were passed over: what happened to it in between was not told.
    Readmitted,
    /// All its names are left out: its changes are to be passed over.
    Outside,
}

impl Volume {
    /// The same volume with names that are left out of its tree.
    #[must_use]
    pub fn with_patterns(self, patterns: Option<Patterns>) -> Volume {
        Volume { patterns, ..self }
    }

    /// Which names are left out of the tree; `None`: none.
    #[must_use]
    pub fn patterns(&self) -> Option<&Patterns> {
        self.patterns.as_ref()
    }

    /// Find out where a file is, and keep it in mind. The caller holds the namespace lock.
    pub fn judge(&self, inode: u64) -> Side {
        match self.open_file(inode, libc::O_PATH).ok().and_then(|file| self.shows_outside(file.as_fd())) {
            Some(true) => {
                self.expel(inode);
                Side::Outside
            }
            Some(false) if self.readmit(inode) => Side::Readmitted,
            None if self.is_outside(inode) => Side::Outside,
            _ => Side::Inside,
        }
    }

    /// No name of a file is of the tree any more. The caller holds the namespace lock.
    pub fn expel(&self, inode: u64) {
        self.outside.write().unwrap_or_else(PoisonError::into_inner).insert(inode);
    }

    /// A file has a name in the tree, or is another one than before. Returns whether its changes were passed over until now. The
    /// caller holds the namespace lock, or the number is one of which nothing is to be told.
    pub fn readmit(&self, inode: u64) -> bool {
        // Nearly always it is not there, and the data plane reads the set for each event.
        self.is_outside(inode) && self.outside.write().unwrap_or_else(PoisonError::into_inner).remove(&inode)
    }

    /// Whether changes of a file are to be passed over.
    #[must_use]
    pub fn is_outside(&self, inode: u64) -> bool {
        self.patterns.is_some()
            && self.outside.read().unwrap_or_else(PoisonError::into_inner).contains(&inode)
    }

    /// The same of a file, or a directory, that nobody may have judged: what is seen of it at this moment need not be told. If it
    /// comes into the tree later, all of it is.
    #[must_use]
    pub fn is_outside_now(&self, inode: u64) -> bool {
        self.patterns.is_some()
            && (self.is_outside(inode)
                || self.open_file(inode, libc::O_PATH).is_ok_and(|file| self.is_open_outside(file.as_fd())))
    }

    /// The same of one that is open.
    #[must_use]
    pub fn is_open_outside(&self, file: BorrowedFd<'_>) -> bool {
        self.shows_outside(file) == Some(true)
    }

    /// Whether a file's only name is left out. `None`: it has several, or none, or the kernel does not tell.
    fn shows_outside(&self, file: BorrowedFd<'_>) -> Option<bool> {
        let patterns = self.patterns.as_ref()?;
        let path = self.path_below(file).ok()??;
        let stat = nix::sys::stat::fstat(file).ok()?;
        let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if (stat.st_nlink != 1 && !directory) || path.ends_with(DELETED) {
            return None;
        }
        Some(!path.is_empty() && patterns.excludes(&path, directory))
    }

    /// The path of an open directory or file below the root, empty for the root. `None` where it is not below it, or where the
    /// kernel does not tell (it is longer than PATH_MAX).
    ///
    /// # Errors
    /// What readlink(2) returns.
    pub fn path_below(&self, file: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
        let path = |file: BorrowedFd<'_>| readlink(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str());
        let (root, path) = match (path(self.root()), path(file)) {
            (Ok(root), Ok(path)) => (root.into_vec(), path.into_vec()),
            (Err(Errno::ENAMETOOLONG), _) | (_, Err(Errno::ENAMETOOLONG)) => return Ok(None),
            (Err(errno), _) | (_, Err(errno)) => return Err(errno.into()),
        };
        let root = if root == b"/" { b"" } else { root.as_slice() };
        Ok(match path.strip_prefix(root) {
            Some([]) => Some(Vec::new()),
            Some([b'/', below @ ..]) => Some(below.to_vec()),
            _ => None,
        })
    }
}
