//! The secondary's side: frames become files.
//!
//! The replica keeps a map from the primary's files to its own. The map is built by a resync in which the primary lists every
//! directory; it outlives a session if the next one goes on where it ended, and an orderly stop ([`kept`]).
//!
//! * Every function is idempotent and converges: after it, the name is that file, the file has those attributes. A state
//!   other than expected is set right and counted, not refused.
//! * Peer data never reaches a file outside the tree. A directory is opened by handle and must lie beneath the root;
//!   names are single components, checked, and never followed if they are symlinks; nothing is opened for I/O but
//!   regular files and directories; what is on another file system or mounted inside the tree is not touched.
//! * What a list of names makes superfluous is not deleted at once but moved into the *orphanage* (see [`orphanage`]),
//!   because the list of another directory may claim it.
//! * Namespace operations run one at a time, in the order of the stream. The rest may run beside them.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::readlink;
use replicator_core::event::AppliedOutcome;
use replicator_core::ids::{FileId, FileKind, VolumeId};
use replicator_core::wire::namespace::{NewNode, Operation};

use self::aside::Aside;
use self::detached::Detached;
use self::listing::Listing;
use self::map::{FileMap, Local};
use self::protected::Subject;
use self::recorded::Recovery;
use super::descriptors::{Access, Descriptors};
use super::status::{Status, magic_path, open_path};
use crate::volume::{FileHandle, RESERVED_NAME, Volume};

mod aside;
mod content;
mod detached;
mod error;
mod kept;
mod listing;
mod map;
mod nodes;
mod operations;
pub mod orphanage;
mod protected;
mod recorded;
mod succession;
mod verify;

pub use self::content::{Applied, SyncTarget};
pub use self::error::ReplicaError;
pub use self::kept::{CopiedFile, Copies};
pub use self::succession::Former;

/// Longest name in bytes (NAME_MAX, linux/limits.h).
const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target in bytes (PATH_MAX without the NUL).
const TARGET_BYTES_MAX: usize = 4095;

/// The replicated directories of this node as the copy of the primary's.
#[derive(Debug)]
pub struct Replica {
    volumes: HashMap<VolumeId, Arc<Volume>>,
    map: Mutex<FileMap>,
    /// Held while a namespace operation is applied.
    namespace: Mutex<Namespace>,
    /// Between `begin_resync` and `end_resync`: not all directories of the primary are known yet.
    resyncing: AtomicBool,
    /// Changed with `namespace` held.
    detached: Mutex<Vec<Detached>>,
    /// Of a node that was the primary.
    former: Mutex<Option<Former>>,
    /// After a crash, until a resync has ended.
    recovery: Mutex<Option<Recovery>>,
    descriptors: Descriptors,
    aside: Aside,
    counters: CounterCells,
}

/// Where the order of namespace operations stands.
#[derive(Debug, Default)]
struct Namespace {
    /// The directory whose list is arriving.
    listing: Option<Listing>,
    /// The directory of a list that is being passed over.
    passed_over: Option<FileId>,
}

#[derive(Debug, Default)]
struct CounterCells {
    ignored: AtomicU64,
    deviations: AtomicU64,
    unsupported_xattrs: AtomicU64,
    unsupported_flags: AtomicU64,
    orphaned: AtomicU64,
}

/// What happened that an operator may want to know; all only rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Frames about files that have no copy here (they were removed, or are yet to be listed).
    pub ignored: u64,
    /// Names that did not stand for the file that the primary said, outside of a resync.
    pub deviations: u64,
    /// Extended attributes that this file system or kernel does not take.
    pub unsupported_xattrs: u64,
    /// Inode flags that this file system does not take.
    pub unsupported_flags: u64,
    /// Names that were moved into the orphanage.
    pub orphaned: u64,
}

/// A directory of the tree, open for `*at` calls.
struct Directory {
    /// Its number on the primary.
    file: FileId,
    volume: Arc<Volume>,
    descriptor: Arc<OwnedFd>,
    is_root: bool,
}

impl Directory {
    /// What a change of a name in it is about: the directory, and what the name stands for.
    fn subjects<'a>(&'a self, name: &'a CStr) -> [Subject<'a>; 2] {
        [Subject::Open(self.as_fd()), Subject::Named(self.as_fd(), name)]
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Replica {
    /// The copy in these volumes. Nothing is mapped yet: see [`Replica::set_root`].
    #[must_use]
    pub fn new(volumes: Vec<Arc<Volume>>) -> Replica {
        Replica {
            volumes: volumes.into_iter().map(|volume| (volume.id, volume)).collect(),
            map: Mutex::default(),
            namespace: Mutex::default(),
            resyncing: AtomicBool::new(false),
            detached: Mutex::default(),
            former: Mutex::default(),
            recovery: Mutex::default(),
            descriptors: Descriptors::default(),
            aside: Aside::default(),
            counters: CounterCells::default(),
        }
    }

    /// Say which file of the primary is the root of a volume. It stays mapped until told otherwise, also over
    /// [`Replica::begin_resync`].
    ///
    /// # Errors
    /// [`ReplicaError::Malformed`] where this node has no such volume.
    pub fn set_root(&self, file: FileId) -> Result<(), ReplicaError> {
        let volume = self.volume(file)?;
        let handle = FileHandle::of(volume.root(), c"").map_err(ReplicaError::system("find", file))?;
        self.descriptors.invalidate(file);
        let root = Local::new(volume.root_inode, FileKind::Directory, handle);
        self.map().bind_root(file, root);
        Ok(())
    }

    /// The primary begins to describe its whole tree: forget what is known of it, but the roots. The directories that were
    /// known are kept as hints, so that one that was renamed while the peer was away is found and not copied again.
    pub fn begin_resync(&self) {
        self.prepare();
        *self.former() = None;
        *self.recovery() = None;
        let mut namespace = self.lock_namespace();
        namespace.listing = None;
        self.resyncing.store(true, Ordering::Relaxed);
        self.detached().clear();
        self.map().begin_session();
        self.descriptors.clear();
    }

    /// The primary goes on where its last stream ended: what is mapped stays mapped. Some directories are listed again, until
    /// [`Replica::end_resync`]; a list that was cut off is one of them.
    pub fn resume(&self) {
        self.prepare();
        let mut namespace = self.lock_namespace();
        namespace.listing = None;
        self.resyncing.store(true, Ordering::Relaxed);
    }

    /// The whole tree was described: what nobody claimed is deleted. Takes time with the number of deleted files.
    ///
    /// # Errors
    /// [`ReplicaError`]: the tree is the primary's all the same, but something is left in the orphanage; or a list is not
    /// complete.
    pub fn end_resync(&self) -> Result<(), ReplicaError> {
        let namespace = self.lock_namespace();
        if let Some(listing) = &namespace.listing {
            let file = listing.directory();
            return Err(ReplicaError::Malformed { file, what: "the resync ends within a list" });
        }
        self.end_recovery()?;
        self.resyncing.store(false, Ordering::Relaxed);
        self.map().forget_hints();
        self.put_back(None)?;
        drop(namespace);
        self.delete_orphans().map(drop)
    }

    /// Delete what waits in the orphanage. In steady state something is left there too, whenever a directory is listed again. Who
    /// runs the replica calls this now and then, when no list came for a while.
    ///
    /// Nobody claims anything once all lists that the primary owes were applied. Before, it deletes what a list would have
    /// claimed: that is made anew then and reported as created, or an operation about it ends the session. Either is
    /// repaired by sending it again; nothing is lost.
    ///
    /// Returns `false` if it cannot be done now: a list is arriving, or a directory waits to be put back.
    ///
    /// # Errors
    /// [`ReplicaError`]: something is left in the orphanage.
    pub fn delete_orphans(&self) -> Result<bool, ReplicaError> {
        let namespace = self.lock_namespace();
        if namespace.listing.is_some() || !self.detached().is_empty() {
            return Ok(false);
        }
        for volume in self.volumes.values() {
            self.empty_orphanage(volume)?;
        }
        Ok(true)
    }

    /// Apply a namespace operation, in the order of the stream. [`AppliedOutcome::Created`] names the files, of any kind, that
    /// this part of a list (or a link) made here: they are empty, and all of their state is to be sent.
    ///
    /// # Errors
    /// [`ReplicaError`]; the operation is then done in part or not at all, and the map may not know what is there: only
    /// a resync sets it right.
    pub fn apply_namespace(&self, operation: &Operation) -> Result<AppliedOutcome, ReplicaError> {
        let mut namespace = self.lock_namespace();
        if let Some(listing) = &namespace.listing
            && !listing.continues_with(operation)
        {
            let file = listing.directory();
            return Err(ReplicaError::Malformed { file, what: "another operation within a list" });
        }
        match operation {
            Operation::Create { parent, name, node } => self.create(*parent, name, node),
            Operation::Link { parent, name, node } => self.link(*parent, name, node),
            Operation::Unlink { parent, name, file, last, .. } => self.unlink(*parent, name, *file, *last),
            Operation::Rename {
                old_parent,
                old_name,
                new_parent,
                new_name,
                file,
                other,
                other_last,
                exchange,
            } => {
                let (from, to) = ((*old_parent, old_name.as_slice()), (*new_parent, new_name.as_slice()));
                if *exchange {
                    self.exchange(from, to, *file, *other)
                } else {
                    self.rename(from, to, *file, other.map(|other| (other, *other_last)))
                }
            }
            Operation::List { directory, first, last, entries } => {
                self.list(&mut namespace, *directory, *first, *last, entries)
            }
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            ignored: self.counters.ignored.load(Ordering::Relaxed),
            deviations: self.counters.deviations.load(Ordering::Relaxed),
            unsupported_xattrs: self.counters.unsupported_xattrs.load(Ordering::Relaxed),
            unsupported_flags: self.counters.unsupported_flags.load(Ordering::Relaxed),
            orphaned: self.counters.orphaned.load(Ordering::Relaxed),
        }
    }

    /// How many files of the primary are known here.
    #[must_use]
    pub fn known_files(&self) -> usize {
        self.map().len()
    }

    fn prepare(&self) {
        for volume in self.volumes.values() {
            if let Err(error) = orphanage::prepare(volume) {
                // If it is needed, that shows as an error of the operation that needs it.
                tracing::warn!(volume = %volume.path.display(), %error, "cannot make replicator's own directory");
            }
        }
    }

    fn is_resyncing(&self) -> bool {
        self.resyncing.load(Ordering::Relaxed)
    }

    /// Whether the map has all files: no comparison of the trees is under way, nor a move of directories.
    fn is_whole(&self) -> bool {
        !self.is_resyncing() && self.detached().is_empty()
    }

    fn map(&self) -> MutexGuard<'_, FileMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_namespace(&self) -> MutexGuard<'_, Namespace> {
        self.namespace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detached(&self) -> MutexGuard<'_, Vec<Detached>> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn former(&self) -> MutexGuard<'_, Option<Former>> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recovery(&self) -> MutexGuard<'_, Option<Recovery>> {
        self.recovery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volume(&self, file: FileId) -> Result<Arc<Volume>, ReplicaError> {
        self.volumes
            .get(&file.volume)
            .cloned()
            .ok_or(ReplicaError::Malformed { file, what: "no such volume on this node" })
    }

    fn local(&self, file: FileId) -> Option<Local> {
        self.map().get(file).cloned()
    }

    fn bind(&self, file: FileId, local: Local) {
        self.found(file);
        let changed = self.map().bind(file, local);
        for file in changed.into_iter().flatten() {
            self.descriptors.invalidate(file);
        }
    }

    fn unbind(&self, file: FileId) {
        self.found(file);
        self.map().unbind(file);
        self.descriptors.invalidate(file);
    }

    /// As `unbind`, where the primary may hold the file for known.
    fn unbind_deleted(&self, file: FileId) {
        self.map().unbind_deleted(file);
        self.descriptors.invalidate(file);
    }

    /// The copy was not as the primary says. Within a resync that is nothing special: not all is known yet.
    fn deviation(&self, file: FileId, what: &'static str) {
        if self.is_resyncing() {
            tracing::debug!(%file, what, "the copy is not there yet");
            return;
        }
        self.counters.deviations.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%file, what, "the copy was not as the primary says; set right");
    }

    /// Open a directory of the tree for `*at` calls, and make sure that it still is in the tree.
    fn directory(&self, file: FileId) -> Result<Directory, ReplicaError> {
        let volume = self.volume(file)?;
        let local = self.local(file).ok_or(ReplicaError::Unknown { file })?;
        if local.kind != FileKind::Directory {
            return Err(ReplicaError::Malformed { file, what: "a name in what is not a directory" });
        }
        let descriptor = self
            .descriptors
            .get_or_open(file, Access::Directory, || open_directory(&local, &volume))
            .map_err(|source| lost_or("open", file, source))?;
        // One that somebody else deleted is in no tree, though it can still be open.
        if Status::links_of(descriptor.as_fd()).map_err(ReplicaError::system("stat", file))? == 0 {
            return Err(ReplicaError::Lost { file });
        }
        let is_root = local.inode == volume.root_inode;
        if !is_root && !is_beneath(descriptor.as_fd(), &volume).map_err(ReplicaError::system("find", file))? {
            return Err(ReplicaError::Lost { file });
        }
        Ok(Directory { file, volume, descriptor, is_root })
    }

    /// The copy of a file, open for anything but I/O; `None` if it is not mapped.
    fn open_copy(&self, file: FileId) -> Result<Option<Copy>, ReplicaError> {
        let volume = self.volume(file)?;
        let Some(local) = self.local(file) else {
            self.pass_over(file);
            return Ok(None);
        };
        // One that is open for its bytes does as well.
        let descriptor = match self.descriptors.get(file, Access::ReadWrite) {
            Some(open) => open,
            None => Arc::new(
                open_path(&local.handle, volume.root()).map_err(|source| lost_or("open", file, source))?,
            ),
        };
        let status = Status::of(descriptor.as_fd()).map_err(ReplicaError::system("stat", file))?;
        if status.links == 0 {
            return Err(ReplicaError::Lost { file });
        }
        Ok(Some(Copy { local, descriptor, status }))
    }
}

/// A file here that is mapped.
struct Copy {
    local: Local,
    /// Possibly O_PATH.
    descriptor: Arc<OwnedFd>,
    status: Status,
}

fn open_directory(local: &Local, volume: &Volume) -> std::io::Result<OwnedFd> {
    local.handle.open(volume.root(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME)
}

/// A mapped file whose handle is stale was deleted by somebody else: what replicator deletes, it unmaps.
fn lost_or(operation: &'static str, file: FileId, source: std::io::Error) -> ReplicaError {
    if source.raw_os_error() == Some(libc::ESTALE) {
        ReplicaError::Lost { file }
    } else {
        ReplicaError::System { operation, file, source }
    }
}

/// Whether a directory lies beneath the root, wherever it was renamed to.
///
/// The kernel tells its path; only where that is too long for it, the way up is walked. A path is compared with the root's
/// as it is now, because the root too may have been renamed.
fn is_beneath(directory: BorrowedFd<'_>, volume: &Volume) -> std::io::Result<bool> {
    let root = readlink(magic_path(volume.root()).as_c_str());
    let path = readlink(magic_path(directory).as_c_str());
    if let (Ok(root), Ok(path)) = (root, path) {
        let (root, path) = (root.into_vec(), path.into_vec());
        let root = if root == b"/" { b"" } else { root.as_slice() };
        return Ok(path.strip_prefix(root).is_some_and(|rest| rest.first() == Some(&b'/')));
    }
    let mut at = parent_of(directory)?;
    let mut inode = Status::of(directory)?.inode;
    loop {
        let status = Status::of(at.as_fd())?;
        if status.device != volume.device || status.inode == inode {
            return Ok(false);
        }
        if status.inode == volume.root_inode {
            return Ok(true);
        }
        inode = status.inode;
        at = parent_of(at.as_fd())?;
    }
}

/// The directory above.
fn parent_of(directory: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    use nix::fcntl::{OFlag, openat};
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(directory, c"..", flags, nix::sys::stat::Mode::empty())?)
}

/// Check a name that the peer sent: one component that stands for nothing but itself.
fn checked_name(directory: &Directory, name: &[u8]) -> Result<CString, ReplicaError> {
    let refuse = |what| ReplicaError::Malformed { file: directory.file, what };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(refuse("a name is empty or longer than 255 bytes"));
    }
    if name == b"." || name == b".." || name.contains(&b'/') {
        return Err(refuse("a name leads out of its directory"));
    }
    if directory.is_root && name == RESERVED_NAME {
        return Err(refuse("a name that belongs to replicator itself"));
    }
    CString::new(name).map_err(|_| refuse("a name has a NUL in it"))
}

/// Check the description of a file to be made or adopted.
fn checked_node(map: &FileMap, volume: VolumeId, node: &NewNode) -> Result<(), ReplicaError> {
    let refuse = |what| Err(ReplicaError::Malformed { file: node.file, what });
    if node.file.volume != volume {
        return refuse("a file in a directory of another volume");
    }
    if map.is_root(node.file) {
        return refuse("the root has no name");
    }
    if node.mode & !0o7777 != 0 || node.uid == u32::MAX || node.gid == u32::MAX {
        return refuse("no such mode or owner");
    }
    let symlink = node.kind == FileKind::Symlink;
    if symlink && (node.target.is_empty() || node.target.len() > TARGET_BYTES_MAX || node.target.contains(&0))
    {
        return refuse("no such symlink target");
    }
    Ok(())
}
