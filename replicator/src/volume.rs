//! A replicated directory as this node's system shows it: its descriptors, its files by handle, the lock that
//! orders its namespace.
//!
//! Foundation of the edges: `gate`, `tracer`, `storage` and `daemon` all work on files of a volume, and only through
//! the descriptors here, never through the path, which the gate covers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::{fs, io};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use replicator_core::ids::{FileId, VolumeId};

use crate::patterns::Patterns;

mod outside;
pub mod writers;

pub use outside::Side;

/// Name in the root directory that belongs to replicator itself; no volume may use it, no user sees it.
pub const RESERVED_NAME: &[u8] = b".replicator";

/// Largest file handle in bytes (`MAX_HANDLE_SZ`, linux/exportfs.h).
const HANDLE_BYTES_MAX: usize = 128;

/// What keeps a directory from being a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A system call on the directory failed.
    #[error("cannot {operation} {path}: {source}")]
    System {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file system cannot name files by handle.
    #[error(
        "{path}: its file system ({filesystem}) gives no file handles; put the directory on ext4, xfs, btrfs or tmpfs"
    )]
    NoHandles {
        /// The directory.
        path: PathBuf,
        /// Its file system's name.
        filesystem: String,
    },
    /// Another daemon has the directory.
    #[error("{path} is already replicated by another daemon on this machine")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// A file's name that outlives renames: what name_to_handle_at(2) gives.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; HANDLE_BYTES_MAX],
}

impl FileHandle {
    /// A handle from its parts, as the kernel defines them (`struct file_handle`).
    #[must_use]
    pub fn from_parts(kind: i32, bytes: &[u8]) -> FileHandle {
        FileHandle { kind, bytes: bytes.into() }
    }

    /// Its parts, as the kernel defines them (`struct file_handle`).
    #[must_use]
    pub fn parts(&self) -> (i32, &[u8]) {
        (self.kind, &self.bytes)
    }

    /// The handle of `name` in `directory` (not following a symlink), or of `directory` itself if `name` is empty.
    ///
    /// # Errors
    /// What name_to_handle_at(2) returns; EOPNOTSUPP where the file system has none.
    pub fn of(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<FileHandle> {
        Ok(FileHandle::with_mount(directory, name)?.0)
    }

    /// The same with the number of the mount it was found on.
    ///
    /// # Errors
    /// As [`FileHandle::of`].
    pub fn with_mount(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<(FileHandle, i32)> {
        let mut raw = RawHandle { bytes: HANDLE_BYTES_MAX as u32, kind: 0, data: [0; HANDLE_BYTES_MAX] };
        let mut mount: libc::c_int = 0;
        let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
        // SAFETY: `name` is NUL-terminated, `raw` is a file_handle with room for the `bytes` it announces, and both
        // it and `mount` outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                directory.as_raw_fd(),
                name.as_ptr(),
                &raw mut raw,
                &raw mut mount,
                flags,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let length = (raw.bytes as usize).min(HANDLE_BYTES_MAX);
        Ok((FileHandle { kind: raw.kind, bytes: raw.data[..length].into() }, mount))
    }

    /// Open the file with open(2) flags; `mount` is any descriptor on its file system (not O_PATH).
    ///
    /// # Errors
    /// What open_by_handle_at(2) returns; ESTALE where the file is gone.
    pub fn open(&self, mount: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
        let mut raw =
            RawHandle { bytes: self.bytes.len() as u32, kind: self.kind, data: [0; HANDLE_BYTES_MAX] };
        raw.data[..self.bytes.len()].copy_from_slice(&self.bytes);
        // SAFETY: `raw` is a file_handle of the length it announces and outlives the call; the descriptor that is
        // returned belongs to nobody else.
        unsafe {
            let fd = libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw mut raw,
                flags | libc::O_CLOEXEC,
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(OwnedFd::from_raw_fd(fd as i32))
        }
    }
}

/// What [`Volume::learn`] finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquaintance {
    /// The file was known.
    Old,
    /// The number was not known.
    New,
    /// The number belonged to another file, of which nobody said that it is gone: it was removed behind the gate.
    Other,
}

/// Whether something has that relative path below a directory, on whatever it is mounted. A symlink in the last place is
/// itself something; none leads out of the directory.
///
/// # Errors
/// What openat2(2) returns, but for a path that leads to nothing.
pub fn exists_below(directory: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(directory, path, how) {
        Ok(_) => Ok(true),
        // The last is for a symlink that leads out.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// A replicated directory.
#[derive(Debug)]
pub struct Volume {
    /// Its number, the same on both nodes.
    pub id: VolumeId,
    /// The path the operator gave, absolute and without symlinks. Never opened again after [`Volume::open`].
    pub path: PathBuf,
    /// The file system's name as in /proc/filesystems ("ext4").
    pub filesystem: String,
    /// `st_dev` of the root.
    pub device: u64,
    /// The superblock's device as the kernel's own code sees it (`s_dev`, new encoding: major << 20 | minor), from mountinfo.
    /// Differs from `device` on btrfs.
    pub kernel_device: u32,
    /// Inode number of the root.
    pub root_inode: u64,
    /// Whether the root is the root of its file system: then every file of the device is a file of the tree.
    pub whole_filesystem: bool,
    root: OwnedFd,
    handles: RwLock<HashMap<u64, FileHandle>>,
    /// The file system's handles begin with the inode number in a form that [`numbers_in`] reads.
    is_number_in_handle: bool,
    /// Numbers of files that were learnt, if somebody asked for them.
    learnt: Mutex<Option<Vec<u64>>>,
    writers: Mutex<HashSet<u64>>,
    namespace: Mutex<()>,
    patterns: Option<Patterns>,
    /// Bytes of the regular files that lists have named.
    listed_bytes: AtomicU64,
    /// Files that are known to have no name in the tree (see [`outside`]).
    outside: RwLock<HashSet<u64>>,
}

impl Volume {
    /// Open the directory, before anything is mounted over it, and lock it against another daemon.
    ///
    /// # Errors
    /// [`VolumeError`]: missing, not a directory, in use, or on a file system without handles.
    pub fn open(id: VolumeId, path: &Path) -> Result<Volume, VolumeError> {
        let volume = Volume::look(id, path)?;
        // SAFETY: flock takes no memory and the descriptor is open.
        if unsafe { libc::flock(volume.root.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Err(VolumeError::InUse { path: volume.path });
            }
            return Err(VolumeError::System { path: volume.path, operation: "lock", source: error });
        }
        Ok(volume)
    }

    /// Open the directory to see what it is, whoever uses it.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn look(id: VolumeId, path: &Path) -> Result<Volume, VolumeError> {
        let system = |operation| {
            let path = path.to_owned();
            move |source| VolumeError::System { path, operation, source }
        };
        let path = fs::canonicalize(path).map_err(system("find"))?;
        let root: OwnedFd = nix::fcntl::open(
            &path,
            nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .map_err(io::Error::from)
        .map_err(system("open"))?;
        let stat = nix::sys::stat::fstat(&root).map_err(io::Error::from).map_err(system("stat"))?;
        let mount = mount_of(&root).map_err(system("find the mount of"))?;
        let handle = FileHandle::of(root.as_fd(), c"").map_err(|_| VolumeError::NoHandles {
            path: path.clone(),
            filesystem: mount.filesystem.clone(),
        })?;
        let whole_filesystem = is_filesystem_root(&mount, &path);
        let is_number_in_handle = numbers_in(&handle.bytes).contains(&Some(stat.st_ino));
        Ok(Volume {
            id,
            is_number_in_handle,
            learnt: Mutex::default(),
            filesystem: mount.filesystem,
            device: stat.st_dev,
            kernel_device: mount.major << 20 | mount.minor,
            root_inode: stat.st_ino,
            whole_filesystem,
            path,
            root,
            handles: RwLock::new(HashMap::from([(stat.st_ino, handle)])),
            writers: Mutex::new(HashSet::new()),
            namespace: Mutex::new(()),
            patterns: None,
            listed_bytes: AtomicU64::new(0),
            outside: RwLock::default(),
        })
    }

    /// The covered directory itself (O_RDONLY), for `*at` calls and as the mount of `open_by_handle_at`.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Make everything of the volume's file system durable (syncfs(2)).
    ///
    /// # Errors
    /// What syncfs(2) returns, also for a write that failed since the last call; such a failure is final.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: syncfs takes no memory and the descriptor is open.
        if unsafe { libc::syncfs(self.root.as_raw_fd()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The file with that inode number.
    #[must_use]
    pub fn file(&self, inode: u64) -> FileId {
        FileId { volume: self.id, inode }
    }

    /// The root directory as a file.
    #[must_use]
    pub fn root_file(&self) -> FileId {
        self.file(self.root_inode)
    }

    /// Remember the handle of a file that was there before.
    pub fn learn(&self, inode: u64, handle: FileHandle) -> Acquaintance {
        let acquaintance = self.learn_made(inode, handle);
        if acquaintance != Acquaintance::Old
            && let Some(learnt) = self.learnt.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            learnt.push(inode);
        }
        acquaintance
    }

    /// Remember the handle of a file that was just made.
    pub fn learn_made(&self, inode: u64, handle: FileHandle) -> Acquaintance {
        match self.handles.write().unwrap_or_else(PoisonError::into_inner).entry(inode) {
            Entry::Vacant(place) => {
                place.insert(handle);
                return Acquaintance::New;
            }
            Entry::Occupied(known) if *known.get() == handle => return Acquaintance::Old,
            Entry::Occupied(mut known) => known.insert(handle),
        };
        // What was known of its names was about the former one.
        self.readmit(inode);
        Acquaintance::Other
    }

    /// From now on collect the numbers of files that become known by [`Volume::learn`], for [`Volume::take_learnt`].
    pub fn collect_learnt(&self) {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    }

    /// The numbers of files that became known since the last call. Whoever learns of a file and then tells of it finds the number
    /// in here by the time it is heard.
    #[must_use]
    pub fn take_learnt(&self) -> Vec<u64> {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        learnt.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Take the handle of `name` in `directory` and remember it under `inode`.
    ///
    /// # Errors
    /// What name_to_handle_at(2) returns.
    pub fn learn_at(&self, directory: BorrowedFd<'_>, name: &[u8], inode: u64) -> io::Result<()> {
        let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        self.learn(inode, FileHandle::of(directory, &name)?);
        Ok(())
    }

    /// Forget a file that does not exist any more.
    pub fn forget(&self, inode: u64) {
        self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&inode);
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(&inode);
        self.readmit(inode);
    }

    /// The remembered handle.
    #[must_use]
    pub fn handle(&self, inode: u64) -> Option<FileHandle> {
        self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&inode).cloned()
    }

    /// The number of the file with that handle ([`FileHandle::parts`]), if it is remembered.
    #[must_use]
    pub fn number_of(&self, kind: i32, bytes: &[u8]) -> Option<u64> {
        let is_this = |number: &u64| {
            let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
            handles.get(number).is_some_and(|known| known.parts() == (kind, bytes))
        };
        if self.is_number_in_handle {
            return numbers_in(bytes).into_iter().flatten().find(is_this);
        }
        let file = FileHandle::from_parts(kind, bytes).open(self.root(), libc::O_PATH).ok()?;
        Some(nix::sys::stat::fstat(&file).ok()?.st_ino).filter(is_this)
    }

    /// Whether an open file (also O_PATH) may lie in the tree. Its path is compared with what the root's is now: directories above the
    /// root may have been renamed. Of what is no directory the kernel may know no name, or not all of them: it lies outside only
    /// if its one name is found there.
    #[must_use]
    pub fn may_hold(&self, file: BorrowedFd<'_>) -> bool {
        if self.whole_filesystem {
            return true;
        }
        let (Ok(path), Ok(root), Ok(stat)) =
            (path_of(file), path_of(self.root()), nix::sys::stat::fstat(file))
        else {
            return true;
        };
        if path.starts_with(root) {
            return true;
        }
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let is_there = || {
            nix::sys::stat::lstat(&path)
                .is_ok_and(|found| found.st_ino == stat.st_ino && found.st_dev == stat.st_dev)
        };
        !(is_directory || (stat.st_nlink == 1 && is_there()))
    }

    /// Where an open file lies, from the root on; `None` outside or where it cannot be told.
    #[must_use]
    pub fn path_from_root(&self, file: BorrowedFd<'_>) -> Option<PathBuf> {
        Some(PathBuf::from(OsString::from_vec(self.path_below(file).ok()??)))
    }

    /// Open a file by its remembered handle with open(2) flags.
    ///
    /// # Errors
    /// ESTALE where the file is unknown or gone; else what open_by_handle_at(2) returns.
    pub fn open_file(&self, inode: u64, flags: i32) -> io::Result<OwnedFd> {
        let handle = self.handle(inode).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
        handle.open(self.root(), flags)
    }

    /// Whether an inode that is not known lies in the tree, as far as the kernel can still tell its name. A file that was
    /// deleted meanwhile, or that has a name inside and is asked for by one outside, is not found: the gate makes every file
    /// known that it opens, and a resync every file there is.
    #[must_use]
    pub fn contains(&self, inode: u64, generation: u32) -> bool {
        if self.whole_filesystem {
            return true;
        }
        let Ok(inode) = u32::try_from(inode) else { return false };
        // FILEID_INO32_GEN (linux/exportfs.h), which ext4 and xfs understand.
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&inode.to_ne_bytes());
        bytes[4..].copy_from_slice(&generation.to_ne_bytes());
        let Ok(file) = FileHandle::from_parts(1, &bytes).open(self.root(), libc::O_PATH) else {
            return false;
        };
        self.path_below(file.as_fd()).is_ok_and(|path| path.is_some_and(|path| !path.is_empty()))
    }

    /// Note that a file was opened for writing: if events are lost, it is one of those that may have changed.
    /// A shared mapping outlives its descriptor, so a file stays in this set.
    pub fn note_writer(&self, inode: u64) {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(inode);
    }

    /// All files that were ever opened for writing.
    #[must_use]
    pub fn writers(&self) -> Vec<u64> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// A list has named a file of so many bytes.
    pub fn note_listed(&self, bytes: u64) {
        self.listed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of the regular files that lists have named since the volume was opened, a file as often as it was named.
    #[must_use]
    pub fn listed_bytes(&self) -> u64 {
        self.listed_bytes.load(Ordering::Relaxed)
    }

    /// The lock under which a namespace system call and its log entry are one step.
    pub fn lock_namespace(&self) -> MutexGuard<'_, ()> {
        self.namespace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an open file lies now, as far as the kernel can tell.
fn path_of(file: BorrowedFd<'_>) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// What may be the inode number in a file handle: that of ext4 and most others (`FILEID_INO32_GEN`), of xfs with large numbers
/// and btrfs, of tmpfs. To be checked against what is known of that number.
fn numbers_in(handle: &[u8]) -> [Option<u64>; 3] {
    let long = |at: usize| {
        let bytes = handle.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_ne_bytes(bytes))
    };
    let short =
        handle.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes).map(u64::from);
    [short, long(0), long(4)]
}

/// A line of /proc/self/mountinfo (proc(5)).
struct Mount {
    major: u32,
    minor: u32,
    /// The part of the file system that is mounted.
    root: String,
    point: String,
    filesystem: String,
}

/// The mount a descriptor is on, by the mount id in its fdinfo.
fn mount_of(fd: &OwnedFd) -> io::Result<Mount> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    table
        .lines()
        .find_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ');
            if front.next() != id {
                return None;
            }
            let (major, minor) = front.nth(1)?.split_once(':')?;
            Some(Mount {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                root: front.next()?.to_owned(),
                point: front.next()?.to_owned(),
                filesystem: back.split(' ').next()?.to_owned(),
            })
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its mount is not in /proc/self/mountinfo"))
}

fn is_filesystem_root(mount: &Mount, path: &Path) -> bool {
    // mountinfo writes space, tab, newline and backslash as octal escapes; a path with one of them is then taken
    // for "not the root", which costs a filter and loses nothing.
    mount.root == "/" && Path::new(&mount.point) == path
}
