//! What statx(2) tells of a file, the names of a directory, and paths that stand for a descriptor.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use replicator_core::ids::FileKind;
use replicator_core::wire::attributes::Timestamp;

use crate::volume::FileHandle;

/// A file's inode as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status {
    pub(super) inode: u64,
    /// `st_dev` of its file system.
    pub(super) device: u64,
    /// Type and permission bits.
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// `st_rdev` of a device file.
    pub(super) rdev: u64,
    pub(super) size: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    /// Something is mounted there, and this is its root.
    pub(super) mount_root: bool,
}

impl Status {
    /// The status of an open file, O_PATH descriptors included.
    pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Status> {
        statx(file, c"", libc::AT_EMPTY_PATH)
    }

    /// How many names an open file has. To ask for its times, as [`Status::of`] does, would make the next write dirty the inode
    /// (fine-grained timestamps, Linux 6.13), and so the next sync write the journal.
    pub(super) fn links_of(file: BorrowedFd<'_>) -> io::Result<u32> {
        Ok(raw_statx(file, c"", libc::AT_EMPTY_PATH, libc::STATX_NLINK)?.stx_nlink)
    }

    /// The size of an open file, in bytes; without its times, as for [`Status::links_of`].
    pub(super) fn size_of(file: BorrowedFd<'_>) -> io::Result<u64> {
        Ok(raw_statx(file, c"", libc::AT_EMPTY_PATH, libc::STATX_SIZE)?.stx_size)
    }

    /// The size of an open file and of its file system's blocks, in bytes; the latter not more than `most`.
    pub(super) fn size_and_block_of(file: BorrowedFd<'_>, most: u64) -> io::Result<(u64, u64)> {
        let raw = raw_statx(file, c"", libc::AT_EMPTY_PATH, libc::STATX_SIZE)?;
        Ok((raw.stx_size, u64::from(raw.stx_blksize).clamp(1, most)))
    }

    /// The status of a name in a directory, not following a symlink; `None` if there is no such name.
    pub(super) fn at(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Status>> {
        match statx(directory, name, libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT) {
            Ok(status) => Ok(Some(status)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn kind(&self) -> Option<FileKind> {
        FileKind::from_mode(self.mode)
    }

    /// Permission bits with setuid, setgid and sticky.
    pub(super) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

pub(super) fn raw_statx(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: i32,
    mask: u32,
) -> io::Result<libc::statx> {
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `name` is NUL-terminated, `raw` has room for a struct statx, and both outlive the call.
    let result = unsafe { libc::statx(directory.as_raw_fd(), name.as_ptr(), flags, mask, raw.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a struct statx consists of integers, for which zeroes are valid; the kernel wrote over them.
    Ok(unsafe { raw.assume_init() })
}

fn statx(directory: BorrowedFd<'_>, name: &CStr, flags: i32) -> io::Result<Status> {
    let raw = raw_statx(directory, name, flags, libc::STATX_BASIC_STATS)?;
    let time = |t: libc::statx_timestamp| Timestamp { seconds: t.tv_sec, nanoseconds: t.tv_nsec };
    Ok(Status {
        inode: raw.stx_ino,
        device: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor),
        mode: u32::from(raw.stx_mode),
        links: raw.stx_nlink,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        rdev: libc::makedev(raw.stx_rdev_major, raw.stx_rdev_minor),
        size: raw.stx_size,
        atime: time(raw.stx_atime),
        mtime: time(raw.stx_mtime),
        ctime: time(raw.stx_ctime),
        mount_root: raw.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0,
    })
}

/// A path that stands for the very inode of `file`, for calls that take no O_PATH descriptor (chmod, setxattr, ...).
/// The link in /proc leads to the inode without a look at names, also to a symlink's own (proc(5)).
pub(super) fn magic_path(file: BorrowedFd<'_>) -> CString {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    CString::new(path).unwrap_or_default()
}

/// Open a file of any kind by handle without opening it for I/O.
pub(super) fn open_path(handle: &FileHandle, mount: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    handle.open(mount, libc::O_PATH | libc::O_NOFOLLOW)
}

/// All names of a directory but `.` and `..`, in the file system's order.
pub(super) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    Ok(entries(directory)?.into_iter().map(|(name, _)| name).collect())
}

/// The same with the inode numbers that the directory has for them; where something is mounted, the covered one.
pub(super) fn entries(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, u64)>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOATIME;
    let mut stream = Dir::openat(directory.as_fd(), c".", flags, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in stream.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            entries.push((name.to_owned(), entry.ino()));
        }
    }
    Ok(entries)
}

/// The name under which `directory` has the inode; `None` if it has none. Takes time with the directory's size.
pub(super) fn name_of(directory: BorrowedFd<'_>, inode: u64) -> io::Result<Option<CString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOATIME;
    let mut stream = Dir::openat(directory.as_fd(), c".", flags, Mode::empty())?;
    for entry in stream.iter() {
        let entry = entry?;
        if entry.ino() == inode && entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(Some(entry.file_name().to_owned()));
        }
    }
    Ok(None)
}
