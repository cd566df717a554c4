//! A secondary that crashed: what of its copy is as it is on record.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use replicator_core::ids::FileId;
use replicator_core::recovery::{ODD_MAX, Recovered};
use tracing::info;

use super::register;
use crate::storage::register::{Recorded, Tag};
use crate::storage::replica::{CopiedFile, Replica};
use crate::storage::survey::{Sight, survey};
use crate::volume::Volume;

/// Have the replica go on from what is on record, if nobody else changed the copy since.
///
/// # Errors
/// What the system returns, or why it does not hold.
pub fn recovered(
    volumes: &[Arc<Volume>],
    recorded: &Recorded,
    replica: &Replica,
    cancelled: &AtomicBool,
) -> io::Result<Recovered> {
    let stream = recorded.stream.ok_or_else(|| io::Error::other("no stream is on record"))?;
    if register::was_set_back(recorded.until) {
        return Err(io::Error::other("the clock was set back"));
    }
    let mut missing: HashSet<FileId> = recorded.copies.keys().copied().collect();
    let mut strange = HashSet::new();
    for volume in volumes {
        let look = copies_on_record(volume, recorded, cancelled)?;
        look.files.iter().for_each(|copy| {
            missing.remove(&FileId { volume: volume.id, inode: copy.original });
        });
        let original = |directory: &u64| recorded.original(volume.id, *directory);
        strange.extend(look.strange.iter().filter_map(original));
        let deleted = recorded.deleted.iter().filter(|file| file.volume == volume.id);
        replica.restore(volume, look.files, deleted.map(|file| file.inode).collect());
    }
    let odd: Vec<FileId> = missing.iter().copied().chain(strange).collect();
    if odd.len() > ODD_MAX {
        return Err(io::Error::other("too much is not as it is on record"));
    }
    info!(
        files = recorded.copies.len(),
        odd = odd.len(),
        "this node crashed: what it has on record of its copy is gone on from"
    );
    replica.recover(missing.into_iter().collect());
    Ok(Recovered { stream, odd })
}

/// What is found of the copies that are on record.
#[derive(Default)]
struct OnRecord {
    files: Vec<CopiedFile>,
    /// Directories with names of what is not on record.
    strange: HashSet<u64>,
}

fn copies_on_record(volume: &Volume, recorded: &Recorded, cancelled: &AtomicBool) -> io::Result<OnRecord> {
    let mut found = OnRecord::default();
    let mut seen_before = HashSet::new();
    let mut changed = None;
    survey(volume, cancelled, &mut |sight| {
        let seen = match sight {
            Sight::File(seen) => seen,
            // Covered by something else: what is under it is missed.
            Sight::Foreign(directory) => {
                found.strange.insert(directory);
                return;
            }
        };
        if seen.changed > i128::from(recorded.until) {
            changed = Some(seen.inode);
        }
        let copy = recorded.original(volume.id, seen.inode).filter(|original| {
            let copy = recorded.copies.get(original);
            copy.is_some_and(|copy| copy.kind == seen.kind && copy.tag == Tag::of(&seen.handle))
        });
        let Some(original) = copy else {
            found.strange.insert(seen.directory);
            return;
        };
        if seen_before.insert(seen.inode) {
            let (inode, kind, handle) = (seen.inode, seen.kind, seen.handle);
            found.files.push(CopiedFile { original: original.inode, inode, kind, handle });
        }
    })?;
    match changed {
        Some(inode) => {
            Err(io::Error::other(format!("the copy was changed since the node crashed (inode {inode})")))
        }
        None => Ok(found),
    }
}
