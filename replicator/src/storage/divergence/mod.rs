//! What only this copy had, kept aside before a resync overwrites or removes it.
//!
//! Each generation that is replaced has a directory of its own below `.replicator/diverged/` in the root of the volume: an index, the
//! overwritten ranges of files (at their offsets, with holes between), and whole files that were removed. Nothing is overwritten or
//! removed before it is there, durably. `docs/on-disk.md` has the layout.

mod copy;
mod index;
mod keeper;
mod restore;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use index::{Attributes, Entry, Kept};
pub use keeper::{Keeper, KeeperError};
pub use restore::{Restored, restore};

/// Below a volume's root.
const PLACE: &str = ".replicator/diverged";
const INDEX: &str = "index";
const RANGES: &str = "ranges";
const FILES: &str = "files";

/// How much may be kept aside in a volume, and what happens when there is no more room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// Older sets are deleted to make room, and what then finds none is not kept; else the resync stops.
    pub drops: bool,
}

/// What of one generation is kept aside in one volume.
#[derive(Debug)]
pub struct Set {
    /// The generation, which is its name.
    pub id: String,
    /// Where it is.
    pub directory: PathBuf,
    /// When something was last kept.
    pub changed: SystemTime,
    /// What is kept, by number.
    pub entries: Vec<Entry>,
    /// Something was not kept for want of room.
    pub incomplete: bool,
}

impl Set {
    /// Bytes that were overwritten or removed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum()
    }
}

/// The sets of a volume, the oldest first.
///
/// # Errors
/// What the system says.
pub fn list(root: &Path) -> io::Result<Vec<Set>> {
    let mut sets = Vec::new();
    let place = match fs::read_dir(root.join(PLACE)) {
        Ok(place) => place,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sets),
        Err(error) => return Err(error),
    };
    for found in place {
        let found = found?;
        if found.file_type()?.is_dir() {
            sets.push(open_set(found.path(), found.file_name().to_string_lossy().into_owned())?);
        }
    }
    sets.sort_by(|one, other| (one.changed, &one.id).cmp(&(other.changed, &other.id)));
    Ok(sets)
}

fn open_set(directory: PathBuf, id: String) -> io::Result<Set> {
    let index = directory.join(INDEX);
    let index::Content { entries, incomplete, .. } = index::read(&index)?;
    let changed = fs::metadata(&index).or_else(|_| fs::metadata(&directory))?.modified()?;
    // What was to be moved when the power went is where it was, and will be moved under another number.
    let there = |entry: &Entry| {
        !matches!(entry.kept, Kept::Removed)
            || directory.join(FILES).join(entry.number.to_string()).symlink_metadata().is_ok()
    };
    let entries = entries.into_iter().filter(there).collect();
    Ok(Set { id, directory, changed, entries, incomplete })
}

/// Whether a name can be that of a set: a generation's number and tag.
#[must_use]
pub fn is_id(id: &str) -> bool {
    let hexadecimal = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    id.split_once('-').is_some_and(|(number, tag)| number.parse::<u64>().is_ok() && hexadecimal(tag))
}

/// Delete a set. Returns whether there was one.
///
/// # Errors
/// What the system says; a part may be deleted.
pub fn discard(root: &Path, id: &str) -> io::Result<bool> {
    if !is_id(id) {
        return Ok(false);
    }
    match fs::remove_dir_all(root.join(PLACE).join(id)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    // Gone with the last one.
    match fs::remove_dir(root.join(PLACE)) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(true),
    }
}
