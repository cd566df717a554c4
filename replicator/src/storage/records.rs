//! What outlives a crash of a node: a base, which has all that was known at a moment, and one log or two behind it with what came since.
//!
//! ```text
//!  name.base (n) + name.n                at work
//!  name.base (n) + name.n + name.n+1     a next log was begun, the base that takes in the one before is being written
//!  name.base (n+1) + name.n+1            it is there: name.n is taken away
//! ```
//!
//! Each step is durable before the next. Without a base nothing is known, and both trees are compared; that is also how a base is made
//! void. A base or log that is damaged counts as none. What a base is, is for its owner to say ([`super::activity`], [`super::register`]).

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::unistd::fsync;

use super::log::{self, Entry, Log};
use super::own_files;
use super::status::entries;

/// The place of a base and logs with such entries: a node's state directory. A handle; all that were cloned of one are of one.
#[derive(Debug)]
pub struct Records<E> {
    directory: Arc<OwnedFd>,
    /// How often what is here was made void. Held while a log is made, a base put in its place, or either taken away.
    voided: Arc<Mutex<u64>>,
    entries: PhantomData<fn(E)>,
}

impl<E> Clone for Records<E> {
    fn clone(&self) -> Records<E> {
        let (directory, voided) = (Arc::clone(&self.directory), Arc::clone(&self.voided));
        Records { directory, voided, entries: PhantomData }
    }
}

/// The error of what is not as it was written.
pub(super) fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn base_of<E: Entry>(suffix: &str) -> CString {
    CString::new(format!("{}.base{suffix}", E::NAME)).unwrap_or_default()
}

impl<E: Entry> Records<E> {
    /// In this directory, which is locked by its owner.
    #[must_use]
    pub fn new(directory: OwnedFd) -> Records<E> {
        Records { directory: Arc::new(directory), voided: Arc::default(), entries: PhantomData }
    }

    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The bytes of the base, if there is one.
    pub(super) fn read_base(&self) -> io::Result<Option<Vec<u8>>> {
        own_files::read(self.at(), &base_of::<E>(""), u64::MAX)
    }

    /// What the logs behind a base have, whose first has that number, in order.
    ///
    /// # Errors
    /// What the system returns; [`io::ErrorKind::InvalidData`] where a log is missing or damaged.
    pub(super) fn replay(&self, number: u64, mut take: impl FnMut(E)) -> io::Result<()> {
        for next in [number, number + 1] {
            match log::read::<E>(self.at(), next)? {
                Some(entries) => entries.into_iter().for_each(&mut take),
                None if next > number => {}
                None => return Err(damaged("the log behind the base is missing")),
            }
        }
        Ok(())
    }

    /// Make the empty log with that number.
    ///
    /// # Errors
    /// What the system returns.
    pub fn begin_log(&self, number: u64) -> io::Result<Log<E>> {
        let _whole = self.lock();
        Log::create(self.at(), number)
    }

    /// How often what is here was made void: a base that was begun before is not to be put in its place after.
    #[must_use]
    pub fn voided(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.voided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Put a base with these bytes in the place of the one before, durably. The log with its number must be there; those before it are taken away.
    pub(super) fn replace_base(&self, number: u64, bytes: &[u8], voided: u64) -> io::Result<()> {
        let now = self.lock();
        if *now != voided {
            return Err(io::Error::other("the base was made void while it was being written"));
        }
        own_files::replace(self.at(), &base_of::<E>(""), &base_of::<E>(".new"), bytes)
            .map_err(|(_, error)| error)?;
        (number.saturating_sub(4)..number).try_for_each(|former| log::remove::<E>(self.at(), former))
    }

    /// Whether there is a base.
    ///
    /// # Errors
    /// What the system returns.
    pub fn has_base(&self) -> io::Result<bool> {
        match fstatat(self.at(), base_of::<E>("").as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Nothing is to be gone on from: take the base away, durably, then whatever else is there of it.
    ///
    /// # Errors
    /// What the system returns: it may still be there.
    pub fn make_void(&self) -> io::Result<()> {
        let mut voided = self.lock();
        *voided += 1;
        if own_files::remove(self.at(), &base_of::<E>(""))? {
            fsync(self.at())?;
        }
        let prefix = format!("{}.", E::NAME);
        for (name, _) in entries(self.at())? {
            if name.to_bytes().starts_with(prefix.as_bytes()) {
                own_files::remove(self.at(), &name)?;
            }
        }
        Ok(())
    }
}
