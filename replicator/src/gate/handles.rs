//! Open files: handle number to descriptor.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::inodes::Inode;
use super::sink::Intent;

const SHARDS: usize = 16;

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub inode: Arc<Inode>,
    /// The daemon's own descriptor, opened with the caller's access mode: it carries this open's writeback errors (fsync(2), "EIO").
    pub file: Arc<OwnedFd>,
    /// Reads and writes come to the daemon: a synchronous WRITE is held until it is durable.
    pub direct: bool,
    /// Each write is a promise of durability, because the file or its file system says so (`chattr +S`, `mount -o sync`).
    pub synchronous: bool,
    /// The descriptor appends wherever it is told to write (append-only file).
    pub appends: bool,
    /// Its holder can store into a shared mapping.
    pub mappable: bool,
    /// If it is open for writing.
    pub _intent: Option<Intent>,
}

/// All open files of a gate. Numbers are never used again.
#[derive(Debug)]
pub struct Handles {
    next: AtomicU64,
    files: [RwLock<HashMap<u64, Arc<OpenFile>>>; SHARDS],
}

impl Handles {
    /// An empty table.
    #[must_use]
    pub fn new() -> Handles {
        Handles { next: AtomicU64::new(1), files: std::array::from_fn(|_| RwLock::default()) }
    }

    /// A number for a file about to be inserted.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Enter an open file under its number.
    pub fn insert_file(&self, number: u64, file: Arc<OpenFile>) {
        self.shard(number).write().unwrap_or_else(PoisonError::into_inner).insert(number, file);
    }

    /// An open file.
    ///
    /// # Errors
    /// EBADF for an unknown number.
    pub fn file(&self, number: u64) -> io::Result<Arc<OpenFile>> {
        self.shard(number)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Take an open file out.
    pub fn remove_file(&self, number: u64) -> Option<Arc<OpenFile>> {
        self.shard(number).write().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }

    /// Numbers of all open files.
    #[must_use]
    pub fn files(&self) -> Vec<u64> {
        self.files
            .iter()
            .flat_map(|shard| {
                shard.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect::<Vec<_>>()
            })
            .collect()
    }

    /// How many files are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Arc<OpenFile>>> {
        &self.files[number as usize % SHARDS]
    }
}
