//! Open descriptors kept for the next use, least recently used closed first.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use replicator_core::ids::FileId;

/// How many descriptors a cache keeps open unless told otherwise.
pub const DESCRIPTORS_MAX: usize = 512;

/// What a descriptor is good for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    /// Reading a regular file.
    Read,
    /// Reading, writing and syncing a regular file.
    ReadWrite,
    /// `*at` calls in a directory, and syncing it.
    Directory,
}

/// A bounded cache of descriptors by file and access.
///
/// A descriptor that was handed out stays open as long as somebody holds it, also after it left the cache.
#[derive(Debug)]
pub struct Descriptors {
    bound: usize,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    open: HashMap<(FileId, Access), (Arc<OwnedFd>, u64)>,
    /// By last use, oldest first.
    order: BTreeMap<u64, (FileId, Access)>,
    uses: u64,
    /// Rises with every invalidation: a descriptor that was being opened meanwhile is not kept.
    invalidations: u64,
}

impl Descriptors {
    /// An empty cache that keeps at most `bound` descriptors open.
    #[must_use]
    pub fn new(bound: usize) -> Descriptors {
        Descriptors { bound, cache: Mutex::default() }
    }

    /// The descriptor of a file; `open` is called if it is not in the cache.
    ///
    /// # Errors
    /// What `open` returns.
    pub fn get_or_open<E>(
        &self,
        file: FileId,
        access: Access,
        open: impl FnOnce() -> Result<OwnedFd, E>,
    ) -> Result<Arc<OwnedFd>, E> {
        let before = {
            let mut cache = self.lock();
            if let Some(descriptor) = cache.touch((file, access)) {
                return Ok(descriptor);
            }
            cache.invalidations
        };
        let descriptor = Arc::new(open()?);
        let mut cache = self.lock();
        if cache.invalidations == before {
            cache.insert((file, access), Arc::clone(&descriptor), self.bound);
        }
        Ok(descriptor)
    }

    /// The descriptor of a file, if it is kept.
    #[must_use]
    pub fn get(&self, file: FileId, access: Access) -> Option<Arc<OwnedFd>> {
        self.lock().touch((file, access))
    }

    /// Close what is kept of a file: it is gone, or the number means another file now.
    pub fn invalidate(&self, file: FileId) {
        let mut cache = self.lock();
        cache.invalidations += 1;
        for access in [Access::Read, Access::ReadWrite, Access::Directory] {
            cache.remove((file, access));
        }
    }

    /// Close everything that is kept.
    pub fn clear(&self) {
        let mut cache = self.lock();
        cache.invalidations += 1;
        cache.open.clear();
        cache.order.clear();
    }

    /// How many descriptors are kept open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Whether none is kept open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Descriptors {
    fn default() -> Descriptors {
        Descriptors::new(DESCRIPTORS_MAX)
    }
}

impl Cache {
    fn touch(&mut self, key: (FileId, Access)) -> Option<Arc<OwnedFd>> {
        let (descriptor, used) = self.open.get_mut(&key)?;
        self.order.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.order.insert(self.uses, key);
        Some(Arc::clone(descriptor))
    }

    fn insert(&mut self, key: (FileId, Access), descriptor: Arc<OwnedFd>, bound: usize) {
        self.remove(key);
        self.uses += 1;
        self.open.insert(key, (descriptor, self.uses));
        self.order.insert(self.uses, key);
        while self.open.len() > bound {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.open.remove(&oldest);
        }
    }

    fn remove(&mut self, key: (FileId, Access)) {
        if let Some((_, used)) = self.open.remove(&key) {
            self.order.remove(&used);
        }
    }
}

/// That a file is not what an access is for, as an error of the system.
pub(super) fn wrong_kind() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicator_core::ids::VolumeId;
    use std::convert::Infallible;

    fn file(inode: u64) -> FileId {
        FileId { volume: VolumeId(0), inode }
    }

    fn open() -> Result<OwnedFd, Infallible> {
        Ok(tempfile::tempfile().expect("a temporary file").into())
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        let cache = Descriptors::new(2);
        let first = cache.get_or_open(file(1), Access::Read, open).unwrap();
        cache.get_or_open(file(2), Access::Read, open).unwrap();
        let again = cache.get_or_open(file(1), Access::Read, open).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        cache.get_or_open(file(3), Access::Read, open).unwrap();
        assert_eq!(cache.len(), 2);
        assert!(Arc::ptr_eq(&first, &cache.get_or_open(file(1), Access::Read, open).unwrap()));
    }

    #[test]
    fn an_open_that_raced_with_an_invalidation_is_not_kept() {
        let cache = Descriptors::default();
        cache
            .get_or_open(file(1), Access::Read, || {
                cache.invalidate(file(1));
                open()
            })
            .unwrap();
        assert!(cache.is_empty());
    }

    #[test]
    fn each_access_has_its_own_and_all_go_together() {
        let cache = Descriptors::default();
        let read = cache.get_or_open(file(1), Access::Read, open).unwrap();
        let write = cache.get_or_open(file(1), Access::ReadWrite, open).unwrap();
        assert!(!Arc::ptr_eq(&read, &write));
        cache.invalidate(file(1));
        assert!(cache.is_empty());
    }
}
