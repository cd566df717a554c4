//! Inode flags of files and directories (chattr(1), ioctl_iflags(2)), by their numbers in linux/fs.h.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Neither bytes nor attributes nor names can be changed.
pub const IMMUTABLE: i32 = 0x10;
/// Only appended to.
pub const APPEND_ONLY: i32 = 0x20;
/// Left out by dump(8).
pub const NO_DUMP: i32 = 0x40;
/// The access time stays.
pub const NO_ACCESS_TIME: i32 = 0x80;
/// Those that are mirrored: these, `S` and `D`.
pub const MIRRORED: i32 = IMMUTABLE | APPEND_ONLY | NO_DUMP | NO_ACCESS_TIME | 0x8 | 0x1_0000;

/// The mirrored flags of an open file or directory.
///
/// # Errors
/// What ioctl(2) returns.
pub fn of(file: &File) -> io::Result<i32> {
    Ok(all(file)? & MIRRORED)
}

/// The mirrored flags of what a path stands for; none where it cannot have any.
///
/// # Errors
/// What open(2) or ioctl(2) returns.
pub fn of_path(path: &Path) -> io::Result<i32> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Ok(0);
    }
    match of(&File::open(path)?) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => Ok(0),
        flags => flags,
    }
}

/// Let exactly those of `among` be set that are in `flags`; the others stay.
///
/// # Errors
/// What ioctl(2) returns.
pub fn set(file: &File, among: i32, flags: i32) -> io::Result<()> {
    let bits = all(file)? & !among | flags & among;
    // SAFETY: the number outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const bits) })
}

/// The same of a path.
///
/// # Errors
/// What open(2) or ioctl(2) returns.
pub fn set_path(path: &Path, flags: i32) -> io::Result<()> {
    set(&File::open(path)?, MIRRORED, flags)
}

fn all(file: &File) -> io::Result<i32> {
    let mut bits = 0_i32;
    // SAFETY: the number outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut bits) })?;
    Ok(bits)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
