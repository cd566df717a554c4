//! The small files of a node's own: read whole, put in the place of those before, taken away.
//!
//! What is put in place is durable when the call returns, and after a crash at any moment the old file is there or the new one, whole.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

/// A step of [`replace`] that failed, with its name.
pub(super) type Failed = (&'static str, io::Error);

/// At most so many bytes of a file; `None` if there is none.
///
/// # Errors
/// What the system returns.
pub(super) fn read(directory: BorrowedFd<'_>, name: &CStr, most: u64) -> io::Result<Option<Vec<u8>>> {
    // A FIFO in its place must not block.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Write a file aside and put it in the place of the one that has the name, if any. It stays open for writing.
///
/// # Errors
/// The step that failed: the old file is there, or, if it was the last one ("sync the directory of"), one of both.
pub(super) fn replace(
    directory: BorrowedFd<'_>,
    name: &CStr,
    aside: &CStr,
    bytes: &[u8],
) -> Result<File, Failed> {
    let failed = |step| move |error: io::Error| (step, error);
    let refused = |step| move |errno: Errno| (step, errno.into());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = openat(directory, aside, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(refused("open"))?;
    let mut file = File::from(file);
    file.write_all(bytes).map_err(failed("write"))?;
    file.sync_all().map_err(failed("sync"))?;
    renameat(directory, aside, directory, name).map_err(refused("rename"))?;
    fsync(directory).map_err(refused("sync the directory of"))?;
    Ok(file)
}

/// Write a file, in the place of the one that has the name, if any. It is durable no sooner than the kernel wants, and until this returns it is not whole.
///
/// # Errors
/// What the system returns.
pub(super) fn write(directory: BorrowedFd<'_>, name: &CStr, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    File::from(file).write_all(bytes)
}

/// Take a file away, if it is there; whether it was. That it is gone is durable only after a sync of the directory.
///
/// # Errors
/// What the system returns.
pub(super) fn remove(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// A file that was taken away.
pub(super) struct Taken {
    /// What was in it, if it could be read.
    pub bytes: io::Result<Option<Vec<u8>>>,
    /// It was there.
    pub was_there: bool,
}

/// Read a file and [`remove`] it, whatever it is.
///
/// # Errors
/// It cannot be taken away.
pub(super) fn take(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Taken> {
    let bytes = read(directory, name, u64::MAX);
    Ok(Taken { bytes, was_there: remove(directory, name)? })
}
