//! The register: which file of a secondary is the copy of which of the primary's, on record so that it outlives a crash
//! ([`replicator_core::recovery`]): a base, and one log or two behind it ([`super::records`]).
//!
//! Entries say what is so from then on; to read one again that a base has taken in already changes nothing. Beside them lies a moment that is not synced
//! ([`Moment`]). `docs/on-disk.md` has the layout.

mod entry;
mod moment;
mod recorded;

use std::io;

pub use entry::{Entry, Tag};
pub use moment::Moment;
pub use recorded::{Copy, Recorded};

use super::log;
use super::records::{Records, damaged};
use super::sealed::Kind;

/// A log of what changed since a base.
pub type Log = log::Log<Entry>;

const KIND: Kind = Kind { magic: *b"RPLRGSTR", version: 1 };

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

/// The place of a node's register.
pub type RegisterDirectory = Records<Entry>;

impl RegisterDirectory {
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
        let Some(bytes) = self.read_base()? else { return Ok(None) };
        let base = Base::decode(&bytes).ok_or_else(|| damaged("the base is damaged"))?;
        if base.identity != identity {
            return Ok(None);
        }
        let mut recorded = Recorded::default();
        base.entries.into_iter().for_each(|entry| recorded.apply(entry));
        self.replay(base.number, |entry| recorded.apply(entry))?;
        // While the kernel runs, what was not synced is there, too.
        if let Some(moment) = moment::read(self.at())? {
            recorded.until = recorded.until.min(moment);
        }
        Ok(Some(recorded))
    }

    /// Begin to say how late the node may have changed its files.
    ///
    /// # Errors
    /// What the system returns.
    pub fn begin_moment(&self) -> io::Result<Moment> {
        Moment::begin(self.at())
    }

    /// Put a base in the place of the one before, durably. Its log must be there; those before it are taken away. `voided`: as it was when the base
    /// was begun.
    ///
    /// # Errors
    /// What the system returns, the base before or this one is there; or it was made void meanwhile, and none is.
    pub fn store_base(&self, base: &Base, voided: u64) -> io::Result<()> {
        self.replace_base(base.number, &base.encode(), voided)
    }
}

#[cfg(test)]
mod tests;
