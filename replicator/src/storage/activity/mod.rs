//! What is on disk of the activity log ([`replicator_core::activity`]): a base, and one log or two behind it.
//!
//! ```text
//!  activity.base (n) + activity.n                   at work
//!  activity.base (n) + activity.n + activity.n+1    a next log was begun, the base that takes in the one before is being written
//!  activity.base (n+1) + activity.n+1               it is there: activity.n is taken away
//! ```
//!
//! Each step is durable before the next. Without a base nothing is known, and both trees are compared; that is also how a base is made
//! void. A base or log that is damaged counts as none. `docs/on-disk.md` has the layout.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::unistd::fsync;
use replicator_core::activity::{Activity, RECORD_BYTES_MAX, Record};
use replicator_core::wire::BodyError;

use super::log::{self, ENTRY_BYTES_MAX, Entry};
use super::own_files;
use super::sealed::{Kind, section, take_section};
use super::status::entries;
use super::survey::{Fingerprint, Fingerprints};

const KIND: Kind = Kind { magic: *b"RPLABASE", version: 1 };

const BASE: &CStr = c"activity.base";
const ASIDE: &CStr = c"activity.base.new";

/// A log of what happened since a base.
pub type Log = log::Log<Record>;

const _: () = assert!(ENTRY_BYTES_MAX >= RECORD_BYTES_MAX);

impl Entry for Record {
    const MAGIC: [u8; 8] = *b"RPLACTIV";
    const NAME: &'static str = "activity";

    fn encode(&self, bytes: &mut Vec<u8>) {
        Record::encode(self, bytes);
    }

    fn decode_all(bytes: &[u8]) -> Result<Vec<Record>, BodyError> {
        Record::decode_all(bytes)
    }
}

/// What was known at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// The log that follows it.
    pub number: u64,
    /// Stands for all that must be the same when it is used: the node's role and volumes.
    pub identity: [u8; 32],
    /// What the peer has, and what is in doubt of it.
    pub activity: Activity,
    /// What files look like that are not in doubt, in the order of the configuration's volumes.
    pub fingerprints: Vec<Fingerprints>,
}

impl Base {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        KIND.seal(|bytes| {
            bytes.extend_from_slice(&self.number.to_le_bytes());
            bytes.extend_from_slice(&self.identity);
            section(bytes, |bytes| bytes.extend_from_slice(&self.activity.encode()));
            for fingerprints in &self.fingerprints {
                section(bytes, |bytes| fingerprints.write(bytes));
            }
        })
    }

    /// The base in a file's bytes; `None` if it is none of this version, whole.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Base> {
        let (number, rest) = KIND.open(bytes)?.split_first_chunk()?;
        let (&identity, mut sections) = rest.split_first_chunk()?;
        let number = u64::from_le_bytes(*number);
        let activity = Activity::decode(take_section(&mut sections)?).ok()?;
        let mut fingerprints = Vec::new();
        while !sections.is_empty() {
            fingerprints.push(Fingerprints::read(take_section(&mut sections)?)?);
        }
        Some(Base { number, identity, activity, fingerprints })
    }

    /// Take in what files looked like when they were settled.
    fn take_looks(&mut self) {
        let looks = self.activity.take_looks();
        for (volume, fingerprints) in (0..).zip(&mut self.fingerprints) {
            let of_volume = looks.iter().filter(|(file, _)| file.volume.0 == volume);
            fingerprints.replace(of_volume.map(|(file, look)| (file.inode, Fingerprint::from_number(*look))));
        }
    }
}

/// What was found at a start.
#[derive(Debug)]
pub enum Found {
    /// No base.
    Nothing,
    /// A base or a log that cannot be used.
    Unusable(io::Error),
    /// All that was recorded, as a base for a log with a number that was not used yet.
    Base(Box<Base>),
}

/// The place of a node's activity log: its state directory. A handle; all of them are of one.
#[derive(Clone, Debug)]
pub struct ActivityDirectory {
    directory: Arc<OwnedFd>,
    /// How often what is here was made void. Held while a base is put in its place or taken away.
    voided: Arc<Mutex<u64>>,
}

impl ActivityDirectory {
    /// In this directory, which is locked by its owner.
    #[must_use]
    pub fn new(directory: OwnedFd) -> ActivityDirectory {
        ActivityDirectory { directory: Arc::new(directory), voided: Arc::default() }
    }

    /// What a run left that was not stopped in order.
    #[must_use]
    pub fn recover(&self) -> Found {
        let unusable =
            |why: &str| Found::Unusable(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
        let bytes = match self.read_base() {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Found::Nothing,
            Err(error) => return Found::Unusable(error),
        };
        let Some(mut base) = Base::decode(&bytes) else { return unusable("the base is damaged") };
        for number in [base.number, base.number + 1] {
            match log::read::<Record>(self.directory.as_fd(), number) {
                Ok(Some(records)) => records.into_iter().for_each(|record| base.activity.apply(record)),
                Ok(None) if number > base.number => {}
                Ok(None) => return unusable("the log behind the base is missing"),
                Err(error) => return Found::Unusable(error),
            }
        }
        base.take_looks();
        base.number += 2;
        Found::Base(Box::new(base))
    }

    fn read_base(&self) -> io::Result<Option<Vec<u8>>> {
        own_files::read(self.directory.as_fd(), BASE, u64::MAX)
    }

    /// Make the empty log with that number.
    ///
    /// # Errors
    /// What the system returns.
    pub fn begin_log(&self, number: u64) -> io::Result<Log> {
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

    /// Put a base in the place of the one before, durably. Its log must be there; those before it are taken away. `voided`: as it was when the base
    /// was begun.
    ///
    /// # Errors
    /// What the system returns, the base before or this one is there; or it was made void meanwhile, and none is.
    pub fn store_base(&self, base: &Base, voided: u64) -> io::Result<()> {
        let now = self.lock();
        if *now != voided {
            return Err(io::Error::other("the base was made void while it was being written"));
        }
        let at = self.directory.as_fd();
        own_files::replace(at, BASE, ASIDE, &base.encode()).map_err(|(_, error)| error)?;
        for number in base.number.saturating_sub(4)..base.number {
            log::remove::<Record>(at, number)?;
        }
        Ok(())
    }

    /// Take the log before the one with this number into a base for this one.
    ///
    /// # Errors
    /// What the system returns, or that base or log are not what was written.
    pub fn take_in(&self, number: u64, voided: u64) -> io::Result<()> {
        let lost = || io::Error::new(io::ErrorKind::InvalidData, "the base is not what was written");
        let mut base = self.read_base()?.and_then(|bytes| Base::decode(&bytes)).ok_or_else(lost)?;
        if base.number + 1 != number {
            return Err(lost());
        }
        let records = log::read::<Record>(self.directory.as_fd(), base.number)?.ok_or_else(lost)?;
        records.into_iter().for_each(|record| base.activity.apply(record));
        base.take_looks();
        base.number = number;
        self.store_base(&base, voided)
    }

    /// Whether there is a base.
    ///
    /// # Errors
    /// What the system returns.
    pub fn has_base(&self) -> io::Result<bool> {
        match fstatat(self.directory.as_fd(), BASE, AtFlags::AT_SYMLINK_NOFOLLOW) {
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
        let at = self.directory.as_fd();
        if own_files::remove(at, BASE)? {
            fsync(at)?;
        }
        for (name, _) in entries(at)? {
            if name.to_bytes().starts_with(b"activity.") {
                own_files::remove(at, &name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
