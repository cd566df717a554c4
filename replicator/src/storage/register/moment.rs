//! How late a node may have changed its files itself, as long as the kernel runs: written again and again, and never synced.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::super::own_files;
use crate::boot::boot_id;

const NAME: &std::ffi::CStr = c"register.moment";
const BYTES: usize = 24;

/// See the module.
#[derive(Debug)]
pub struct Moment {
    file: File,
}

impl Moment {
    /// A new one, which says nothing yet.
    ///
    /// # Errors
    /// What the system returns.
    pub(super) fn begin(directory: BorrowedFd<'_>) -> io::Result<Moment> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file: OwnedFd = openat(directory, NAME, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let file = File::from(file);
        file.write_all_at(&boot_id()?, 0)?;
        Ok(Moment { file })
    }

    /// Up to here, in nanoseconds since 1970.
    ///
    /// # Errors
    /// What the system returns: it says what it said before.
    pub fn note(&self, until: i64) -> io::Result<()> {
        self.file.write_all_at(&until.to_le_bytes(), 16)
    }
}

/// What was said last, if the kernel still runs that ran then.
pub(super) fn read(directory: BorrowedFd<'_>) -> io::Result<Option<i64>> {
    let Some(bytes) = own_files::read(directory, NAME, BYTES as u64)? else { return Ok(None) };
    let Some((boot, until)) = bytes.split_first_chunk::<16>() else { return Ok(None) };
    let until = until.first_chunk().map(|until| i64::from_le_bytes(*until));
    Ok(until.filter(|_| boot_id().is_ok_and(|now| now == *boot)))
}
