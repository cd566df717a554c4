//! What is on disk of the activity log ([`replicator_core::activity`]): a base, and one log or two behind it ([`super::records`]). `docs/on-disk.md` has
//! the layout.

use std::io;

use replicator_core::activity::{Activity, RECORD_BYTES_MAX, Record};
use replicator_core::wire::BodyError;

use super::log::{self, ENTRY_BYTES_MAX, Entry};
use super::records::{Records, damaged};
use super::sealed::{Kind, section, take_section};
use super::survey::{Fingerprint, Fingerprints};

const KIND: Kind = Kind { magic: *b"RPLABASE", version: 1 };

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

/// The place of a node's activity log.
pub type ActivityDirectory = Records<Record>;

impl ActivityDirectory {
    /// What a run left that was not stopped in order.
    #[must_use]
    pub fn recover(&self) -> Found {
        match self.read() {
            Ok(Some(base)) => Found::Base(Box::new(base)),
            Ok(None) => Found::Nothing,
            Err(error) => Found::Unusable(error),
        }
    }

    fn read(&self) -> io::Result<Option<Base>> {
        let Some(bytes) = self.read_base()? else { return Ok(None) };
        let mut base = Base::decode(&bytes).ok_or_else(|| damaged("the base is damaged"))?;
        self.replay(base.number, |record| base.activity.apply(record))?;
        base.take_looks();
        base.number += 2;
        Ok(Some(base))
    }

    /// Put a base in the place of the one before, durably. Its log must be there; those before it are taken away. `voided`: as it was when the base
    /// was begun.
    ///
    /// # Errors
    /// What the system returns, the base before or this one is there; or it was made void meanwhile, and none is.
    pub fn store_base(&self, base: &Base, voided: u64) -> io::Result<()> {
        self.replace_base(base.number, &base.encode(), voided)
    }

    /// Take the log before the one with this number into a base for this one.
    ///
    /// # Errors
    /// What the system returns, or that base or log are not what was written.
    pub fn take_in(&self, number: u64, voided: u64) -> io::Result<()> {
        let lost = || damaged("the base is not what was written");
        let mut base = self.read_base()?.and_then(|bytes| Base::decode(&bytes)).ok_or_else(lost)?;
        if base.number + 1 != number {
            return Err(lost());
        }
        let records = log::read::<Record>(self.at(), base.number)?.ok_or_else(lost)?;
        records.into_iter().for_each(|record| base.activity.apply(record));
        base.take_looks();
        base.number = number;
        self.store_base(&base, voided)
    }
}

#[cfg(test)]
mod tests;
