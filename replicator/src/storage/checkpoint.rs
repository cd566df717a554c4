//! The checkpoint of a node that was stopped in order: what the next run needs in order not to compare both trees.
//!
//! It says what the node knew ([`replicator_core::checkpoint`]), what every file looked like ([`super::survey`]), and, on a
//! secondary, which file is the copy of which. It is taken away, durably, before anything of the node changes: a node that
//! runs has none, so that a crash leaves none. What cannot be read or does not fit is worth nothing, and everything is compared.
//! `docs/on-disk.md` has the layout.

use std::ffi::CStr;

use nix::unistd::fsync;
use replicator_core::checkpoint::Checkpoint;

use super::own_files::{self, Taken};
use super::replica::Copies;
use super::sealed::{Kind, section, take_section};
use super::state::{StateDirectory, StateError};
use super::survey::Fingerprints;

const KIND: Kind = Kind { magic: *b"RPLCHECK", version: 1 };

const FILE: &CStr = c"checkpoint";
const ASIDE: &CStr = c"checkpoint.new";

/// What it says of one volume.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VolumeCheckpoint {
    /// What the files look like.
    pub fingerprints: Fingerprints,
    /// On a secondary: what they are copies of.
    pub copies: Copies,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeCheckpoint {
    /// Stands for all that must be the same when it is used: the node's state, role and volumes.
    pub identity: [u8; 32],
    /// What the core has to know.
    pub core: Checkpoint,
    /// The volumes, in the order of the configuration.
    pub volumes: Vec<VolumeCheckpoint>,
}

impl NodeCheckpoint {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        KIND.seal(|bytes| {
            bytes.extend_from_slice(&self.identity);
            section(bytes, |bytes| bytes.extend_from_slice(&self.core.encode()));
            for volume in &self.volumes {
                section(bytes, |bytes| volume.fingerprints.write(bytes));
                section(bytes, |bytes| {
                    put_numbers(bytes, volume.copies.files.iter().flat_map(|&(here, there)| [here, there]))
                });
                section(bytes, |bytes| put_numbers(bytes, volume.copies.deleted.iter().copied()));
            }
        })
    }

    /// The checkpoint in a file's bytes; `None` if it is none of this version, whole.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<NodeCheckpoint> {
        let (&identity, mut sections) = KIND.open(bytes)?.split_first_chunk()?;
        let core = Checkpoint::decode(take_section(&mut sections)?).ok()?;
        let mut volumes = Vec::new();
        while !sections.is_empty() {
            let fingerprints = Fingerprints::read(take_section(&mut sections)?)?;
            let (pairs, rest) = take_section(&mut sections)?.as_chunks::<16>();
            let pair = |pair: &[u8; 16]| Some((number(&pair[..8])?, number(&pair[8..])?));
            let files: Vec<(u64, u64)> = pairs.iter().map(pair).collect::<Option<_>>()?;
            if !rest.is_empty() || !files.is_sorted_by(|a, b| a.0 < b.0) {
                return None;
            }
            let (deleted, rest) = take_section(&mut sections)?.as_chunks::<8>();
            if !rest.is_empty() {
                return None;
            }
            let deleted = deleted.iter().map(|number| u64::from_le_bytes(*number)).collect();
            volumes.push(VolumeCheckpoint { fingerprints, copies: Copies { files, deleted } });
        }
        Some(NodeCheckpoint { identity, core, volumes })
    }
}

fn put_numbers(bytes: &mut Vec<u8>, numbers: impl Iterator<Item = u64>) {
    numbers.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

impl StateDirectory {
    /// Make a checkpoint durable.
    ///
    /// # Errors
    /// [`StateError::System`]; then it is there or not.
    pub fn store_checkpoint(&self, checkpoint: &NodeCheckpoint) -> Result<(), StateError> {
        self.replace(FILE, ASIDE, &checkpoint.encode())
    }

    /// Read the checkpoint, and take it away, durably, whatever it is. `None`: there is none, or it is worth nothing.
    ///
    /// # Errors
    /// [`StateError::System`]: it cannot be taken away. A node that went on would leave it for a later run, in which it is wrong.
    pub fn take_checkpoint(&self) -> Result<Option<NodeCheckpoint>, StateError> {
        let taken = own_files::take(self.descriptor(), FILE);
        let Taken { bytes, was_there } =
            taken.map_err(|error| self.error("remove the checkpoint in", error))?;
        if was_there {
            fsync(self.descriptor()).map_err(|errno| self.error("sync", errno.into()))?;
        }
        match bytes {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => {
                let checkpoint = NodeCheckpoint::decode(&bytes);
                if checkpoint.is_none() {
                    tracing::warn!("the checkpoint cannot be used: everything will be compared");
                }
                Ok(checkpoint)
            }
            Err(error) => {
                tracing::warn!(%error, "the checkpoint cannot be read: everything will be compared");
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use replicator_core::ids::Sequence;
    use replicator_core::resume::{Held, StreamId};

    use super::*;
    use crate::storage::survey::Fingerprint;

    fn example() -> NodeCheckpoint {
        let stream = StreamId { incarnation: [5; 16], number: 3 };
        let fingerprints = Fingerprints::new(vec![(7, Fingerprint::NONE), (2, Fingerprint::NONE)]);
        let copies = Copies { files: vec![(2, 20), (7, 70)], deleted: vec![9] };
        let first = VolumeCheckpoint { fingerprints, copies };
        NodeCheckpoint {
            identity: [1; 32],
            core: Checkpoint::Secondary(Held { stream, received: Sequence(6) }),
            volumes: vec![first, VolumeCheckpoint::default()],
        }
    }

    #[test]
    fn it_is_there_once() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        assert_eq!(directory.take_checkpoint().unwrap(), None);
        directory.store_checkpoint(&example()).unwrap();
        assert_eq!(directory.take_checkpoint().unwrap(), Some(example()));
        assert_eq!(directory.take_checkpoint().unwrap(), None);
        assert!(!place.path().join("checkpoint").exists());
    }

    #[test]
    fn what_is_not_whole_is_worth_nothing_and_is_taken_away() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        let file = place.path().join("checkpoint");
        let whole = example().encode();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            assert_eq!(NodeCheckpoint::decode(&flipped), None, "bit {at}");
            assert_eq!(NodeCheckpoint::decode(&whole[..at]), None, "{at} bytes");
        }
        for bytes in [&whole[..whole.len() - 1], b"", b"something else"] {
            fs::write(&file, bytes).unwrap();
            assert_eq!(directory.take_checkpoint().unwrap(), None);
            assert!(!file.exists());
        }
    }

    #[test]
    fn what_cannot_be_taken_away_keeps_the_node_from_going_on() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        fs::create_dir(place.path().join("checkpoint")).unwrap();
        assert!(directory.take_checkpoint().is_err());
    }
}
