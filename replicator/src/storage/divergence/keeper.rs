//! Keeps aside, in one volume, what is about to be overwritten or removed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use replicator_core::extent::{Extent, ExtentSet};

use super::index::{Attributes, Index, Kept, Line};
use super::{FILES, INDEX, Limit, PLACE, RANGES, discard, list, open_set};
use crate::storage::status::Status;
use crate::volume::FileHandle;

/// Why something cannot be kept: it must not be overwritten then.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The system refused.
    #[error("cannot keep aside what only this copy has: {0}")]
    System(#[from] io::Error),
    /// There is no more room for it.
    #[error(
        "what only this copy has needs more than {bytes} bytes (mirror.keep-diverged): nothing more is overwritten. Raise the limit, or \
         free room with \"replicator divergence discard\""
    )]
    Full {
        /// The limit.
        bytes: u64,
    },
}

/// A file of which ranges are kept.
#[derive(Debug)]
struct Ranges {
    number: u64,
    /// Its size when it was first touched: nothing behind it is this copy's own.
    size: u64,
    /// What is kept, or was not there to be kept, and may be overwritten.
    covered: ExtentSet,
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    /// A way to the volume's root that no mount covers.
    root: PathBuf,
    id: String,
    directory: PathBuf,
    limit: Limit,
    index: Index,
    next: u64,
    /// By inode number.
    files: HashMap<u64, Ranges>,
    /// Made by the resync itself: nothing of them is this copy's own.
    made: HashSet<u64>,
    /// What everything kept in this volume occupies.
    used: u64,
    incomplete: bool,
    /// Where names were that were taken away, by inode number.
    displaced: HashMap<u64, String>,
}

impl Keeper {
    /// Keep in the set of that name, which may be there already. `root` is the volume's root, open as long as this lives.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(root: BorrowedFd<'_>, id: &str, limit: Limit) -> io::Result<Keeper> {
        let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        let directory = root.join(PLACE).join(id);
        for place in [RANGES, FILES] {
            DirBuilder::new().recursive(true).mode(0o700).create(directory.join(place))?;
        }
        let index = Index::open(&directory.join(INDEX))?;
        for made in [directory.as_path(), &root.join(PLACE), &root.join(".replicator"), &root] {
            File::open(made)?.sync_all()?;
        }
        let set = open_set(directory.clone(), id.to_owned())?;
        let content = super::index::read(&directory.join(INDEX))?;
        let next = content.entries.iter().map(|entry| entry.number + 1).max().unwrap_or(1);
        // A number whose file was never moved is not used again.
        let next = next.max(highest(&directory.join(FILES))? + 1).max(highest(&directory.join(RANGES))? + 1);
        let ranges = |kept: &Kept| if let Kept::Ranges(ranges) = kept { Some(ranges.clone()) } else { None };
        let files = set.entries.iter().filter_map(|entry| {
            let (number, size) = (entry.number, entry.file.size);
            ranges(&entry.kept).map(|covered| (entry.file.inode, Ranges { number, size, covered }))
        });
        let files = files.collect();
        let used = list(&root)?.iter().flat_map(|set| &set.entries).map(|entry| entry.data).sum();
        Ok(Keeper {
            root,
            id: id.to_owned(),
            directory,
            limit,
            index,
            next,
            files,
            made: HashSet::new(),
            used,
            incomplete: set.incomplete,
            displaced: content.displaced,
        })
    }

    /// Which set this is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A file was made by the resync: it is empty, and nothing of it is worth to be kept.
    pub fn note_made(&mut self, inode: u64) {
        self.made.insert(inode);
        self.files.remove(&inode);
    }

    /// A name was taken away from what may be found again, or not: where it was, if that is not known yet. That it is not noted keeps
    /// nothing from being kept.
    pub fn note_displaced(&mut self, inode: u64, path: &[u8]) {
        self.displace(inode, escaped(path));
    }

    /// The same, of a name in a directory that was taken away itself.
    pub fn note_displaced_in(&mut self, directory: u64, name: &[u8], inode: u64) {
        if let Some(above) = self.displaced.get(&directory) {
            let path = format!("{above}/{}", escaped(name));
            self.displace(inode, path);
        }
    }

    fn displace(&mut self, inode: u64, path: String) {
        if self.made.contains(&inode) || self.displaced.contains_key(&inode) {
            return;
        }
        if let Err(error) = self.index.note(&[Line::Displaced { inode, path: path.clone() }]) {
            tracing::warn!(%error, path, "where a file was that is kept aside cannot be noted");
        }
        self.displaced.insert(inode, path);
    }

    /// A range of a file is about to be overwritten. When this returns, what was there is kept, durably.
    ///
    /// # Errors
    /// [`KeeperError`]: it must not be overwritten.
    pub fn keep_range(&mut self, file: BorrowedFd<'_>, range: Extent) -> Result<(), KeeperError> {
        let status = Status::of(file)?;
        if self.made.contains(&status.inode) {
            return Ok(());
        }
        let known = self.files.get(&status.inode);
        let known_number = known.map(|known| known.number);
        let size = known.map_or(status.size, |known| known.size.min(status.size));
        let mut wanted = ExtentSet::default();
        wanted.insert(Extent { start: range.start.min(size), end: range.end.min(size) });
        if let Some(known) = known {
            wanted.subtract_all(&known.covered);
        }
        let mut bytes = 0;
        for range in wanted.iter() {
            bytes += super::copy::data_within(&file, range)?;
        }
        if wanted.is_empty() || !self.has_room(bytes)? {
            return Ok(());
        }
        let mut lines = Vec::new();
        let number = match known_number {
            Some(number) => number,
            None => {
                let number = self.take_number();
                lines.push(Line::File { number, file: self.attributes(file, &status)? });
                self.files.insert(
                    status.inode,
                    Ranges { number, size: status.size, covered: ExtentSet::default() },
                );
                number
            }
        };
        let path = self.directory.join(RANGES).join(number.to_string());
        let target = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        for range in wanted.iter() {
            let data = super::copy::copy_range(&file, &target, range)?;
            self.used += data;
            lines.push(Line::Range { number, offset: range.start, length: range.length(), data });
        }
        target.sync_data()?;
        if matches!(lines.first(), Some(Line::File { .. })) {
            File::open(self.directory.join(RANGES))?.sync_all()?;
        }
        self.index.append(&lines)?;
        if let Some(known) = self.files.get_mut(&status.inode) {
            known.covered.insert_all(&wanted);
        }
        Ok(())
    }

    /// A file is about to lose its last name: whether it is to be moved to the path that is returned instead. `None`: nothing of it is
    /// this copy's own, or there is no room and it may go.
    ///
    /// # Errors
    /// [`KeeperError`]: it must not be removed.
    pub fn keep_removed(&mut self, file: BorrowedFd<'_>) -> Result<Option<PathBuf>, KeeperError> {
        let status = Status::of(file)?;
        if self.made.remove(&status.inode) {
            return Ok(None);
        }
        let bytes = status.size;
        if !self.has_room(bytes)? {
            return Ok(None);
        }
        self.used += bytes;
        let number = self.take_number();
        let file = self.attributes(file, &status)?;
        self.index.append(&[Line::Removed { number, file, bytes }])?;
        Ok(Some(self.directory.join(FILES).join(number.to_string())))
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Whether so many bytes more may be kept.
    fn has_room(&mut self, bytes: u64) -> Result<bool, KeeperError> {
        if self.used.saturating_add(bytes) <= self.limit.bytes {
            return Ok(true);
        }
        if !self.limit.drops {
            return Err(KeeperError::Full { bytes: self.limit.bytes });
        }
        for set in list(&self.root)?.into_iter().filter(|set| set.id != self.id) {
            tracing::warn!(set = set.id, "what was kept aside earlier is deleted, to make room");
            discard(&self.root, &set.id)?;
            self.used -= set.entries.iter().map(|entry| entry.data).sum::<u64>().min(self.used);
            if self.used.saturating_add(bytes) <= self.limit.bytes {
                return Ok(true);
            }
        }
        if !self.incomplete {
            self.incomplete = true;
            self.index.append(&[Line::Incomplete])?;
            tracing::error!(
                limit = self.limit.bytes,
                "there is no more room to keep aside what only this copy has: the rest of it is overwritten"
            );
        }
        Ok(false)
    }

    fn attributes(&self, file: BorrowedFd<'_>, status: &Status) -> io::Result<Attributes> {
        let handle = FileHandle::of(file, c"")?;
        let (kind, bytes) = handle.parts();
        let handle = (kind, bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        let path = match self.displaced.get(&status.inode) {
            Some(path) => path.clone(),
            None => self.path_of(file),
        };
        Ok(Attributes {
            path,
            inode: status.inode,
            handle,
            mode: status.mode,
            uid: status.uid,
            gid: status.gid,
            size: status.size,
            mtime: status.mtime.seconds,
        })
    }

    /// Where the kernel says that an open file is, from the root on.
    fn path_of(&self, file: BorrowedFd<'_>) -> String {
        let named = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let below = fs::read_link(&self.root).and_then(|root| {
            named.and_then(|path| path.strip_prefix(root).map(Path::to_owned).map_err(io::Error::other))
        });
        below.map_or_else(|_| "?".to_owned(), |path| escaped(path.as_os_str().as_encoded_bytes()))
    }
}

/// Bytes of a path for people.
fn escaped(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

/// The highest number among the names of a directory.
fn highest(directory: &Path) -> io::Result<u64> {
    let mut highest = 0;
    for found in fs::read_dir(directory)? {
        let number = found?.file_name().to_str().and_then(|name| name.parse().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest)
}
