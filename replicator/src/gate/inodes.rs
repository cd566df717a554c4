//! The files the kernel knows: node id to file handle, lookup count, what is open.
//!
//! An idle file costs a handle, not a descriptor. Node id and generation follow from the inode number and the handle alone, so
//! another process that serves the same mount arrives at the same ones.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use replicator_core::ids::FileKind;

use super::abi::ROOT_NODE;
use super::strict::KnownName;
use crate::volume::{FileHandle, Volume};

const SHARDS: usize = 64;
/// Directories that keep a descriptor, so that names in them are found without opening them again.
const OPEN_DIRECTORIES_MAX: usize = 1024;

/// How the opens of an inode are answered, from its first to its last open (the kernel refuses to mix them).
///
/// ```text
/// Closed --first open--> Passthrough(id) | Direct | Cached --last release--> Closed
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Nothing is open.
    Closed,
    /// The kernel reads and writes the backing file with this id.
    Passthrough(i32),
    /// All data goes through the daemon: registering a backing file failed.
    Direct,
    /// All data goes through the daemon, the kernel caches it: passthrough is off, or the file is strict.
    Cached,
}

/// What is open of a file.
#[derive(Debug)]
pub struct Opens {
    /// Handle numbers with their descriptors.
    pub handles: Vec<(u64, Arc<OwnedFd>)>,
    /// Opens that have begun and have no number yet.
    pub beginning: usize,
    /// How they are answered.
    pub mode: OpenMode,
    /// Handles whose holder can store into a shared mapping, unseen by the kernel's attribute cache.
    pub mappable: usize,
    /// The file was reported as forgotten.
    pub forgotten: bool,
}

impl Opens {
    /// Whether nothing is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.handles.is_empty() && self.beginning == 0
    }
}

/// One file.
#[derive(Debug)]
pub struct Inode {
    /// Its number on the covered file system.
    pub number: u64,
    /// Its number in the protocol.
    pub node: u64,
    /// Tells it from an earlier file with the same number.
    pub generation: u32,
    /// What it is.
    pub kind: FileKind,
    /// Where it was found, for the patterns of strict files.
    pub name: KnownName,
    handle: FileHandle,
    lookups: AtomicU64,
    /// Set-id bits were seen on it: then its mode can change by a write, and is not to be cached.
    privileged: AtomicBool,
    /// What is known of the file's capabilities (capabilities(7), "File capabilities"): twice the number of changes, and one more if none
    /// were found after the last.
    capability: AtomicU32,
    directory: Mutex<Option<Arc<OwnedFd>>>,
    /// O_PATH, taken before the last name went: what the kernel opens without asking (pipes, sockets, devices, working
    /// directories) lives on until it is forgotten, and a handle leads to nothing any more.
    nameless: OnceLock<Arc<OwnedFd>>,
    opens: Mutex<Opens>,
}

impl Inode {
    fn new(number: u64, node: u64, kind: FileKind, handle: FileHandle, lookups: u64) -> Inode {
        Inode {
            number,
            node,
            generation: if node == ROOT_NODE { 0 } else { fingerprint(&handle) },
            kind,
            name: KnownName::default(),
            handle,
            lookups: AtomicU64::new(lookups),
            privileged: AtomicBool::new(false),
            capability: AtomicU32::new(0),
            directory: Mutex::new(None),
            nameless: OnceLock::new(),
            opens: Mutex::new(Opens {
                handles: Vec::new(),
                beginning: 0,
                mode: OpenMode::Closed,
                mappable: 0,
                forgotten: false,
            }),
        }
    }

    /// What is open of it. Taken after the volume's namespace lock, never before.
    pub fn opens(&self) -> MutexGuard<'_, Opens> {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Note the set-id bits of a mode that was just read.
    pub fn note_mode(&self, mode: u32) {
        let privileged = self.kind == FileKind::Regular && mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        if self.privileged.load(Ordering::Relaxed) != privileged {
            self.privileged.store(privileged, Ordering::Relaxed);
        }
    }

    /// Whether set-id bits were there when it was last looked at.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.privileged.load(Ordering::Relaxed)
    }

    /// Whether it is known to have no file capabilities: every way to give it some leads through the gate, or is told by
    /// [`super::KernelCache`].
    #[must_use]
    pub fn has_no_capability(&self) -> bool {
        self.capability.load(Ordering::Acquire) & 1 != 0
    }

    /// How often capabilities were changed: to be asked for before looking for them.
    #[must_use]
    pub fn capability_changes(&self) -> u32 {
        self.capability.load(Ordering::Acquire) & !1
    }

    /// None were found. Counts only if none were changed since `changes` was asked for.
    pub fn note_no_capability(&self, changes: u32) {
        let _ = self.capability.compare_exchange(changes, changes | 1, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The file was just made, and so has none. Counts only if none were changed since.
    pub fn note_made(&self) {
        self.note_no_capability(0);
    }

    /// They are being changed: to be told before and after the system call.
    pub fn capability_changes_now(&self) {
        let next = |state: u32| Some((state & !1).wrapping_add(2));
        let _ = self.capability.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Open it anew with open(2) flags.
    ///
    /// # Errors
    /// ESTALE where it is gone; else what the file system says.
    pub fn open(&self, volume: &Volume, flags: OFlag) -> io::Result<OwnedFd> {
        if self.node == ROOT_NODE {
            return Ok(nix::fcntl::openat(volume.root(), c".", flags | OFlag::O_CLOEXEC, Mode::empty())?);
        }
        self.handle.open(volume.root(), flags.bits())
    }

    /// Keep it reachable although its last name is gone.
    pub fn keep(&self, descriptor: OwnedFd) {
        let _ = self.nameless.set(Arc::new(descriptor));
    }

    /// Any descriptor of it, possibly O_PATH: good for fstat, for linkat and, through /proc/self/fd, for the rest.
    ///
    /// # Errors
    /// As [`Inode::open`].
    pub fn any_descriptor(&self, volume: &Volume) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = self.nameless.get() {
            return Ok(Arc::clone(fd));
        }
        if self.kind == FileKind::Directory
            && let Some(fd) = self.directory.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            return Ok(Arc::clone(fd));
        }
        if let Some((_, fd)) = self.opens().handles.first() {
            return Ok(Arc::clone(fd));
        }
        Ok(Arc::new(self.open(volume, OFlag::O_PATH | OFlag::O_NOFOLLOW)?))
    }
}

/// All files the kernel knows.
#[derive(Debug)]
pub struct Inodes {
    shards: [RwLock<HashMap<u64, Arc<Inode>>>; SHARDS],
    root: Arc<Inode>,
    recent: Mutex<VecDeque<Weak<Inode>>>,
}

impl Inodes {
    /// The table of a volume: its root only.
    ///
    /// # Errors
    /// What asking for the root's handle returns.
    pub fn new(volume: &Volume) -> io::Result<Inodes> {
        let handle = FileHandle::of(volume.root(), c"")?;
        let root = Inode::new(volume.root_inode, ROOT_NODE, FileKind::Directory, handle, 1);
        *root.directory.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::new(volume.root().try_clone_to_owned()?));
        let root = Arc::new(root);
        let inodes = Inodes {
            shards: std::array::from_fn(|_| RwLock::default()),
            root: Arc::clone(&root),
            recent: Mutex::default(),
        };
        inodes.write(ROOT_NODE).insert(ROOT_NODE, root);
        Ok(inodes)
    }

    /// The node id of an inode number.
    #[must_use]
    pub fn node_of(&self, number: u64) -> u64 {
        match number {
            number if number == self.root.number => ROOT_NODE,
            // The kernel takes 0 for "none" and 1 for the root.
            0 => u64::MAX - 1,
            ROOT_NODE => u64::MAX,
            number => number,
        }
    }

    /// The file the kernel means.
    ///
    /// # Errors
    /// ESTALE for a node that was never announced: the kernel then looks its name up again.
    pub fn get(&self, node: u64) -> io::Result<Arc<Inode>> {
        self.read(node).get(&node).cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// Announce a file to the kernel once more: its lookup count rises. The second value tells whether it was not known.
    pub fn admit(&self, number: u64, kind: FileKind, handle: FileHandle) -> (Arc<Inode>, bool) {
        let node = self.node_of(number);
        if let Some(known) = self.read(node).get(&node)
            && known.handle == handle
        {
            known.lookups.fetch_add(1, Ordering::Relaxed);
            return (Arc::clone(known), false);
        }
        let mut shard = self.write(node);
        let inherited = match shard.get(&node) {
            Some(known) if known.handle == handle => {
                known.lookups.fetch_add(1, Ordering::Relaxed);
                return (Arc::clone(known), false);
            }
            // The number was given to a new file; the kernel will also forget what it looked up of the old one.
            Some(old) => old.lookups.load(Ordering::Relaxed),
            None => 0,
        };
        let inode = Arc::new(Inode::new(number, node, kind, handle, inherited + 1));
        shard.insert(node, Arc::clone(&inode));
        (inode, true)
    }

    /// The kernel has dropped `count` lookups of a node.
    pub fn forget(&self, node: u64, count: u64) {
        if node == ROOT_NODE {
            return;
        }
        let mut shard = self.write(node);
        let Some(inode) = shard.get(&node) else { return };
        let before = inode.lookups.load(Ordering::Relaxed);
        let after = before.saturating_sub(count);
        inode.lookups.store(after, Ordering::Relaxed);
        if after == 0 {
            shard.remove(&node);
        }
    }

    /// A descriptor of a directory for `*at` calls, kept for the next time.
    ///
    /// # Errors
    /// ENOTDIR where it is none; else as [`Inode::open`].
    pub fn directory(&self, inode: &Arc<Inode>, volume: &Volume) -> io::Result<Arc<OwnedFd>> {
        if inode.kind != FileKind::Directory {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        if let Some(fd) = inode.nameless.get() {
            return Ok(Arc::clone(fd));
        }
        if let Some(fd) = inode.directory.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(inode.open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY)?);
        let before = inode.directory.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&fd));
        if before.is_none() {
            self.note_recent(inode);
        }
        Ok(fd)
    }

    /// The nodes of all files known.
    #[must_use]
    pub fn nodes(&self) -> Vec<u64> {
        let nodes = |shard: &RwLock<HashMap<u64, Arc<Inode>>>| -> Vec<u64> {
            shard.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
        };
        self.shards.iter().flat_map(nodes).collect()
    }

    /// Files known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn note_recent(&self, inode: &Arc<Inode>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(Arc::downgrade(inode));
        if recent.len() > OPEN_DIRECTORIES_MAX
            && let Some(oldest) = recent.pop_front().and_then(|weak| weak.upgrade())
        {
            oldest.directory.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    fn shard(&self, node: u64) -> &RwLock<HashMap<u64, Arc<Inode>>> {
        // Fibonacci hashing: inode numbers come in rows.
        let index = (node.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize;
        &self.shards[index % SHARDS]
    }

    fn read(&self, node: u64) -> std::sync::RwLockReadGuard<'_, HashMap<u64, Arc<Inode>>> {
        self.shard(node).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, node: u64) -> std::sync::RwLockWriteGuard<'_, HashMap<u64, Arc<Inode>>> {
        self.shard(node).write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells files apart that had the same inode number one after the other. On ext4 and xfs the handle holds the number and
/// 32 bits of generation, and a checksum of 32 bits differs for any two of those (the kernel keeps 32 bits, too).
fn fingerprint(handle: &FileHandle) -> u32 {
    let (kind, bytes) = handle.parts();
    crc32c::crc32c_append(crc32c::crc32c(&kind.to_le_bytes()), bytes)
}

/// The handle of what a descriptor (also O_PATH) refers to.
///
/// # Errors
/// What name_to_handle_at(2) returns.
pub fn handle_of(fd: &impl AsFd) -> io::Result<FileHandle> {
    FileHandle::of(fd.as_fd(), c"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicator_core::ids::VolumeId;

    fn table() -> (tempfile::TempDir, Volume, Inodes) {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::open(VolumeId(0), directory.path()).unwrap();
        let inodes = Inodes::new(&volume).unwrap();
        (directory, volume, inodes)
    }

    fn handle(generation: u8) -> FileHandle {
        FileHandle::from_parts(1, &[9, 0, 0, 0, generation, 0, 0, 0])
    }

    #[test]
    fn numbers_the_kernel_has_a_meaning_for_are_mapped() {
        let (_directory, volume, inodes) = table();
        assert_eq!(inodes.node_of(volume.root_inode), ROOT_NODE);
        let mapped = [inodes.node_of(0), inodes.node_of(1), inodes.node_of(77)];
        assert_eq!(mapped, [u64::MAX - 1, u64::MAX, 77]);
    }

    #[test]
    fn a_file_stays_until_all_lookups_are_forgotten() {
        let (_directory, _volume, inodes) = table();
        let (first, new) = inodes.admit(77, FileKind::Regular, handle(1));
        assert!(new);
        let (second, new) = inodes.admit(77, FileKind::Regular, handle(1));
        assert!(!new && Arc::ptr_eq(&first, &second));
        inodes.forget(77, 1);
        assert!(inodes.get(77).is_ok());
        inodes.forget(77, 1);
        assert_eq!(inodes.get(77).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        // More than there were is no reason to break.
        inodes.forget(77, 5);
        inodes.forget(ROOT_NODE, u64::MAX);
        assert!(inodes.get(ROOT_NODE).is_ok());
    }

    /// What was looked for before a change says nothing after it.
    #[test]
    fn capabilities_are_looked_for_again_after_each_change() {
        let (_directory, _volume, inodes) = table();
        let (file, _) = inodes.admit(77, FileKind::Regular, handle(1));
        assert!(!file.has_no_capability());
        file.note_made();
        assert!(file.has_no_capability());
        file.capability_changes_now();
        file.note_made();
        assert!(!file.has_no_capability());
        let before = file.capability_changes();
        file.note_no_capability(before);
        assert!(file.has_no_capability());
        file.capability_changes_now();
        assert!(!file.has_no_capability());
        file.note_no_capability(before);
        assert!(!file.has_no_capability());
        file.note_no_capability(file.capability_changes());
        assert!(file.has_no_capability());
    }

    /// The kernel forgets old and new lookups under one number, and tells files apart by the generation.
    #[test]
    fn a_reused_number_is_another_file_that_inherits_the_lookups() {
        let (_directory, _volume, inodes) = table();
        let (old, _) = inodes.admit(77, FileKind::Regular, handle(1));
        inodes.admit(77, FileKind::Regular, handle(1));
        let (new, is_new) = inodes.admit(77, FileKind::Directory, handle(2));
        assert!(is_new);
        assert_ne!(old.generation, new.generation);
        inodes.forget(77, 2);
        assert!(Arc::ptr_eq(&inodes.get(77).unwrap(), &new));
        inodes.forget(77, 1);
        assert!(inodes.get(77).is_err());
    }
}
