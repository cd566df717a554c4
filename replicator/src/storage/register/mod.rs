//! The register: which file of a secondary is the copy of which of the primary's, on record so that it outlives a crash
//! ([`replicator_core::recovery`]).
//!
//! A base has all files as they were at a moment, and one log or two behind it have what changed since, as with the activity log ([`super::activity`]):
//!
//! ```text
//!  register.base (n) + register.n                   at work
//!  register.base (n) + register.n + register.n+1    a next log was begun, the base that takes in the one before is being written
//!  register.base (n+1) + register.n+1               it is there: register.n is taken away
//! ```
//!
//! Entries say what is so from then on; to read one again that a base has taken in already changes nothing. Without a base nothing is known.
//! Beside them lies a moment that is not synced ([`Moment`]). `docs/on-disk.md` has the layout.

mod entry;
mod moment;
mod recorded;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::fsync;

pub use entry::{Entry, Tag};
pub use moment::Moment;
pub use recorded::{Copy, Recorded};

use super::log;
use super::own_files;
use super::sealed::Kind;
use super::status::entries;

/// A log of what changed since a base.
pub type Log = log::Log<Entry>;

const KIND: Kind = Kind { magic: *b"RPLRGSTR", version: 1 };

const BASE: &CStr = c"register.base";
const ASIDE: &CStr = c"register.base.new";

/// All that was known at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// The log that follows it.
    pub number: u64,
    /// Stands for all that must be the same when it is used: the node and its volumes.
    pub identity: [u8; 32],
    /// What is so.
    pub entries: Vec<Entry>,
}

impl Base {
    fn encode(&self) -> Vec<u8> {
        KIND.seal(|bytes| {
            bytes.extend_from_slice(&self.number.to_le_bytes());
            bytes.extend_from_slice(&self.identity);
            self.entries.iter().for_each(|entry| log::Entry::encode(entry, bytes));
        })
    }

    fn decode(bytes: &[u8]) -> Option<Base> {
        let (number, rest) = KIND.open(bytes)?.split_first_chunk()?;
        let (&identity, rest) = rest.split_first_chunk()?;
        let entries = log::Entry::decode_all(rest).ok()?;
        Some(Base { number: u64::from_le_bytes(*number), identity, entries })
    }
}

/// The place of a node's register: its state directory. A handle; all of them are of one.
#[derive(Clone, Debug)]
pub struct RegisterDirectory {
    directory: Arc<OwnedFd>,
    /// How often what is here was made void. Held while a log is made, a base put in its place, or either taken away.
    voided: Arc<Mutex<u64>>,
}

impl RegisterDirectory {
    /// In this directory, which is locked by its owner.
    #[must_use]
    pub fn new(directory: OwnedFd) -> RegisterDirectory {
        RegisterDirectory { directory: Arc::new(directory), voided: Arc::default() }
    }

    /// What a run left under that identity. It is taken away, durably, whatever it is: a node that goes on makes it wrong. `None`: nothing, or nothing that
    /// can be used.
    ///
    /// # Errors
    /// It cannot be taken away.
    pub fn take(&self, identity: [u8; 32]) -> io::Result<Option<Recorded>> {
        let found = self.read(identity).unwrap_or_else(|error| {
            tracing::warn!(%error, "what is on record of the copy cannot be used");
            None
        });
        self.make_void()?;
        Ok(found)
    }

    fn read(&self, identity: [u8; 32]) -> io::Result<Option<Recorded>> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let Some(bytes) = own_files::read(self.directory.as_fd(), BASE, u64::MAX)? else { return Ok(None) };
        let base = Base::decode(&bytes).ok_or_else(|| invalid("the base is damaged"))?;
        if base.identity != identity {
            return Ok(None);
        }
        let mut recorded = Recorded::default();
        base.entries.into_iter().for_each(|entry| recorded.apply(entry));
        for number in [base.number, base.number + 1] {
            match log::read::<Entry>(self.directory.as_fd(), number)? {
                Some(entries) => entries.into_iter().for_each(|entry| recorded.apply(entry)),
                None if number > base.number => {}
                None => return Err(invalid("the log behind the base is missing")),
            }
        }
        // While the kernel runs, what was not synced is there, too.
        if let Some(moment) = moment::read(self.directory.as_fd())? {
            recorded.until = recorded.until.min(moment);
        }
        Ok(Some(recorded))
    }

    /// Begin to say how late the node may have changed its files.
    ///
    /// # Errors
    /// What the system returns.
    pub fn begin_moment(&self) -> io::Result<Moment> {
        Moment::begin(self.directory.as_fd())
    }

    /// Make the empty log with that number.
    ///
    /// # Errors
    /// What the system returns.
    pub fn begin_log(&self, number: u64) -> io::Result<Log> {
        let _whole = self.lock();
        Log::create(self.directory.as_fd(), number)
    }

    /// How often what is here was made void: a base that was begun before is not to be put in its place after.
    #[must_use]
    pub fn voided(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.voided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Put a base in the place of the one before, durably. Its log must be there; the one before is taken away. `voided`: as it was when the base
    /// was begun.
    ///
    /// # Errors
    /// What the system returns, the base before or this one is there; or it was made void meanwhile, and none is.
    pub fn store_base(&self, base: &Base, voided: u64) -> io::Result<()> {
        let now = self.lock();
        if *now != voided {
            return Err(io::Error::other("the register was made void while its base was being written"));
        }
        let at = self.directory.as_fd();
        own_files::replace(at, BASE, ASIDE, &base.encode()).map_err(|(_, error)| error)?;
        log::remove::<Entry>(at, base.number.wrapping_sub(1))
    }

    /// Nothing is to be gone on from: take the base away, durably, then whatever else is there of it.
    ///
    /// # Errors
    /// What the system returns: it may still be there.
    pub fn make_void(&self) -> io::Result<()> {
        let mut voided = self.lock();
        *voided += 1;
        let at = self.directory.as_fd();
        if own_files::remove(at, BASE)? {
            fsync(at)?;
        }
        for (name, _) in entries(at)? {
            if name.to_bytes().starts_with(b"register.") {
                own_files::remove(at, &name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
