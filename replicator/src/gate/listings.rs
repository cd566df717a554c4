//! Directories being listed. The kernel opens no directory at the gate (OPENDIR is answered ENOSYS once, after which it keeps listings
//! itself), so a listing is known by its directory and the place it has come to.
//!
//! What is kept here only saves work: the descriptor and the entries that getdents64(2) gave beyond those that were handed out. Where
//! nothing is kept, the directory is opened anew and wound to the place asked for.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::server::Refusal;

/// Listings kept between two requests.
const KEPT_MAX: usize = 32;
/// Bytes asked of getdents64(2) at once.
const READ_AHEAD_BYTES: usize = 32 * 1024;

/// Which directory: node and generation, since a number is given to another one in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Directory {
    /// Its node.
    pub node: u64,
    /// Which of those that had the number.
    pub generation: u32,
}

/// A directory, opened for reading, and where its reader stands.
#[derive(Debug)]
pub struct Listing {
    directory: Directory,
    /// Opened for reading.
    pub file: OwnedFd,
    /// Records of the last read, as getdents64(2) gave them.
    records: Vec<u8>,
    /// First byte not handed out yet.
    position: usize,
    /// Offset cookie of the entry at `position`.
    offset: u64,
    /// The directory has no more.
    ended: bool,
}

/// One `struct linux_dirent64`.
pub struct Record<'a> {
    length: usize,
    /// Inode number.
    pub ino: u64,
    /// `DT_` number.
    pub kind: u8,
    /// Cookie of the entry after it.
    pub next: u64,
    /// The name.
    pub name: &'a CStr,
}

impl Record<'_> {
    fn parse(bytes: &[u8]) -> Option<Record<'_>> {
        let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
        let name = CStr::from_bytes_until_nul(bytes.get(19..length)?).ok()?;
        Some(Record { length, ino: word(0)?, kind: *bytes.get(18)?, next: word(8)?, name })
    }

    /// How the reader goes on behind this entry: for [`Listing::advance`].
    #[must_use]
    pub fn step(&self) -> Step {
        Step { length: self.length, offset: self.next }
    }
}

/// From one entry to the next.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    length: usize,
    offset: u64,
}

impl Listing {
    /// A listing that begins at a cookie.
    ///
    /// # Errors
    /// What lseek(2) returns.
    pub fn begin(directory: Directory, file: OwnedFd, offset: u64) -> Result<Listing, Refusal> {
        if offset != 0 {
            nix::unistd::lseek(&file, offset as i64, nix::unistd::Whence::SeekSet)?;
        }
        Ok(Listing { directory, file, records: Vec::new(), position: 0, offset, ended: false })
    }

    /// The entry the reader stands at, reading on if needed; `None` at the end.
    ///
    /// # Errors
    /// What getdents64(2) returns; EIO for a record that makes no sense.
    pub fn current(&mut self) -> Result<Option<Record<'_>>, Refusal> {
        if self.position >= self.records.len() && !self.ended {
            self.read_on()?;
        }
        if self.ended {
            return Ok(None);
        }
        let rest = self.records.get(self.position..).unwrap_or_default();
        Ok(Some(Record::parse(rest).ok_or(Refusal::errno(libc::EIO))?))
    }

    /// Go on behind the current entry.
    pub fn advance(&mut self, step: Step) {
        self.position += step.length;
        self.offset = step.offset;
    }

    fn read_on(&mut self) -> Result<(), Refusal> {
        self.records.resize(READ_AHEAD_BYTES, 0);
        self.position = 0;
        // SAFETY: `records` is writable for its length.
        let length = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                self.file.as_raw_fd(),
                self.records.as_mut_ptr(),
                self.records.len(),
            )
        };
        let length = usize::try_from(length).map_err(|_| {
            let error = std::io::Error::last_os_error();
            self.records.clear();
            error
        })?;
        self.records.truncate(length);
        self.ended = length == 0;
        Ok(())
    }
}

/// Listings on their way.
#[derive(Default, Debug)]
pub struct Listings {
    kept: Mutex<Kept>,
}

#[derive(Default, Debug)]
struct Kept {
    listings: VecDeque<Listing>,
    /// Rises with every change of a directory.
    changes: u64,
}

/// How many changes of directories there had been: what was read before is not kept after another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changes(u64);

impl Listings {
    /// The listing that stands at this place of a directory, if it was kept. Whoever begins at the start sees the directory as it is.
    pub fn take(&self, directory: Directory, offset: u64) -> (Option<Listing>, Changes) {
        let mut kept = self.lock();
        let changes = Changes(kept.changes);
        if offset == 0 {
            return (None, changes);
        }
        let found = kept
            .listings
            .iter()
            .position(|listing| listing.directory == directory && listing.offset == offset);
        (found.and_then(|index| kept.listings.remove(index)), changes)
    }

    /// Keep a listing for the request that goes on with it, unless a directory changed since `changes` was told: what was read ahead
    /// might lack a name that another reader, who begins later, has to see.
    pub fn keep(&self, listing: Listing, changes: Changes) {
        let mut kept = self.lock();
        if Changes(kept.changes) != changes {
            return;
        }
        if kept.listings.len() >= KEPT_MAX {
            kept.listings.pop_front();
        }
        kept.listings.push_back(listing);
    }

    /// Names in these directories have changed. Called before whoever changed them is answered.
    pub fn changed(&self, nodes: [u64; 2]) {
        let mut kept = self.lock();
        kept.changes = kept.changes.wrapping_add(1);
        kept.listings.retain(|listing| !nodes.contains(&listing.directory.node));
    }

    /// Names may have changed anywhere.
    pub fn clear(&self) {
        let mut kept = self.lock();
        kept.changes = kept.changes.wrapping_add(1);
        kept.listings.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn number(node: u64) -> Directory {
        Directory { node, generation: 1 }
    }

    fn listing(node: u64, directory: &std::path::Path) -> Listing {
        Listing::begin(number(node), File::open(directory).unwrap().into(), 0).unwrap()
    }

    fn names(listing: &mut Listing, most: usize) -> Vec<String> {
        let mut names = Vec::new();
        while names.len() < most
            && let Some(record) = listing.current().unwrap()
        {
            names.push(record.name.to_str().unwrap().to_owned());
            let step = record.step();
            listing.advance(step);
        }
        names
    }

    #[test]
    fn a_listing_goes_on_where_it_was() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..10 {
            File::create(place.path().join(format!("{number}"))).unwrap();
        }
        let listings = Listings::default();
        let mut first = listing(7, place.path());
        let mut all = names(&mut first, 5);
        let (offset, changes) = (first.offset, listings.take(number(7), 0).1);
        listings.keep(first, changes);
        assert!(listings.take(number(8), offset).0.is_none(), "another directory");
        let later = Directory { generation: 2, ..number(7) };
        assert!(listings.take(later, offset).0.is_none(), "a later directory with the same number");
        let mut second = listings.take(number(7), offset).0.unwrap();
        assert!(listings.take(number(7), offset).0.is_none(), "only once");
        all.extend(names(&mut second, usize::MAX));
        let mut anew = Listing::begin(number(7), File::open(place.path()).unwrap().into(), offset).unwrap();
        assert_eq!(all[5..], names(&mut anew, usize::MAX));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 12);
    }

    /// What was read before a change is not shown to whoever comes after it.
    #[test]
    fn nothing_read_before_a_change_is_kept_after_it() {
        let place = tempfile::tempdir().unwrap();
        let listings = Listings::default();
        let (_, before) = listings.take(number(7), 0);
        let mut kept = listing(7, place.path());
        names(&mut kept, 1);
        let offset = kept.offset;
        listings.keep(kept, before);
        listings.changed([7, 7]);
        assert!(listings.take(number(7), offset).0.is_none());
        let mut late = listing(9, place.path());
        names(&mut late, 1);
        listings.keep(late, before);
        assert!(listings.take(number(9), offset).0.is_none());
    }

    #[test]
    fn few_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let listings = Listings::default();
        for node in 1..100 {
            let mut one = listing(node, place.path());
            names(&mut one, 1);
            let (_, changes) = listings.take(number(node), 0);
            listings.keep(one, changes);
        }
        assert_eq!(listings.lock().listings.len(), KEPT_MAX);
    }
}
