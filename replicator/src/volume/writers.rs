//! Whether anybody can write to a file.

use std::os::fd::{AsRawFd, BorrowedFd};

/// fcntl(2): which signal tells that a lease is broken.
const F_SETSIG: libc::c_int = 10;

/// Whether a regular file is surely not open for writing by anybody, and so has no writable shared mapping (a mapping keeps its file
/// open). The descriptor is for reading, and the caller has none for writing.
///
/// The kernel grants a read lease only on such a file (fcntl(2), `F_SETLEASE`; `check_conflicting_open`, fs/locks.c).
/// What cannot be told counts as "no".
#[must_use]
pub fn is_free_of(file: BorrowedFd<'_>) -> bool {
    let descriptor = file.as_raw_fd();
    // SAFETY: these calls take integers; the descriptor is open. Whoever opens the file for writing in between breaks the
    // lease, which sends this process a signal: SIGURG, which is ignored by default, instead of SIGIO, which kills.
    unsafe {
        if libc::fcntl(descriptor, F_SETSIG, libc::SIGURG) < 0
            || libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_RDLCK) < 0
        {
            return false;
        }
        libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_UNLCK);
    }
    true
}
