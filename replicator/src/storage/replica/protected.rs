//! Work on files whose flags forbid it.
//!
//! The copy has the primary's flags, and the immutable and append-only ones among them bind the replica as they bind everybody. It
//! may have to change such a file all the same: what is sent is the state of different moments, so bytes may come before the
//! attributes that take a flag away, names after those that set one, and a list of a resync meets whatever the copy was.
//!
//! So *flags change with attributes alone*, which are exact and follow every change. Any other work that is refused takes off what
//! is in its way, is done again, and puts it back before it returns: nothing is remembered, and the order of frames does not matter.
//! Whoever dies in between leaves a flag missing, which the comparison that follows sets again with the attributes of every file.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use replicator_core::wire::attributes::InodeFlags;

use crate::storage::flags::Flags;
use crate::storage::status::Status;

/// Held while flags are off that belong to a file, and while they are changed: what is put back must not be older than what
/// attributes have set meanwhile. Orphans are deleted beside the rest, and may be links to files that are not.
static CHANGING: Mutex<()> = Mutex::new(());

pub(super) fn lock() -> MutexGuard<'static, ()> {
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that a piece of work is about.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    /// By a descriptor, O_PATH included.
    Open(BorrowedFd<'a>),
    /// By its name in a directory, symlinks not followed. That there is none is no error.
    Named(BorrowedFd<'a>, &'a CStr),
}

/// An error of a system call.
pub(super) trait SystemError: Sized {
    /// Whether it is EPERM.
    fn is_refusal(&self) -> bool;
    /// The same as another error.
    fn of(error: io::Error) -> Self;
}

impl SystemError for Errno {
    fn is_refusal(&self) -> bool {
        *self == Errno::EPERM
    }

    fn of(error: io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}

impl SystemError for io::Error {
    fn is_refusal(&self) -> bool {
        self.raw_os_error() == Some(libc::EPERM)
    }

    fn of(error: io::Error) -> io::Error {
        error
    }
}

/// Do something that may be refused because one of these files is immutable or append-only. It is then done once more without these
/// flags, so it must not have changed anything when it is refused. Not to be called with [`lock`] held.
///
/// # Errors
/// What the work returns, or that flags could not be taken off or put back.
pub(super) fn unprotected<T, E: SystemError>(
    subjects: &[Subject<'_>],
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    match work() {
        Err(error) if error.is_refusal() => {}
        result => return result,
    }
    let _alone = lock();
    let open = subjects.iter().map(open_one).collect::<io::Result<Vec<_>>>().map_err(E::of)?;
    let mut lifted = Vec::new();
    let lifting = open.iter().flatten().try_for_each(|file| {
        lifted.extend(lift(file.as_fd())?);
        Ok(())
    });
    // If there was nothing to be lifted: attributes may have come meanwhile that say so.
    let result = lifting.map_err(E::of).and_then(|()| work());
    // In any case, and all of them.
    let put_back = lifted.into_iter().map(Lifted::put_back).fold(Ok(()), io::Result::and);
    match result {
        Ok(done) => put_back.map(|()| done).map_err(E::of),
        error => error,
    }
}

fn open_one(subject: &Subject<'_>) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match subject {
        Subject::Open(file) => file.try_clone_to_owned().map(Some),
        Subject::Named(directory, name) => match openat(*directory, *name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        },
    }
}

/// Flags that were taken off.
struct Lifted<'a> {
    flags: Flags<'a>,
    before: InodeFlags,
}

/// Take the protecting flags of a file off, if it has any.
fn lift(file: BorrowedFd<'_>) -> io::Result<Option<Lifted<'_>>> {
    let Some(kind) = Status::of(file)?.kind() else { return Ok(None) };
    let Some(mut flags) = Flags::of(file, kind)? else { return Ok(None) };
    let before = flags.mirrored();
    if before.and(InodeFlags::PROTECTING).is_empty() {
        return Ok(None);
    }
    flags.set(before.without(InodeFlags::PROTECTING))?;
    Ok(Some(Lifted { flags, before }))
}

impl Lifted<'_> {
    fn put_back(mut self) -> io::Result<()> {
        // What was deleted meanwhile needs none.
        if self.flags.has_name()? { self.flags.set(self.before) } else { Ok(()) }
    }
}
