//! Where the copy keeps aside what only it has, before the primary's frames replace it.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, readlink, renameat2};
use nix::sys::stat::Mode;
use replicator_core::extent::Extent;
use replicator_core::ids::{FileId, VolumeId};

use super::protected::{Subject, unprotected};
use super::{Directory, Replica, ReplicaError, orphanage};
use crate::storage::divergence::{Keeper, Limit};
use crate::storage::status::{Status, magic_path};
use crate::volume::Volume;

/// What is kept, volume by volume; nothing most of the time.
#[derive(Debug, Default)]
pub(super) struct Aside {
    keeps: AtomicBool,
    keepers: Mutex<HashMap<VolumeId, Keeper>>,
}

impl Replica {
    /// From now on keep aside what is overwritten or removed, under that name; `None`: no more.
    ///
    /// # Errors
    /// [`ReplicaError`]: nothing may be overwritten.
    pub fn keep_aside(&self, id: Option<&str>, limit: Limit) -> Result<(), ReplicaError> {
        let mut keepers = self.keepers();
        let Some(id) = id else {
            keepers.clear();
            self.aside.keeps.store(false, Ordering::Relaxed);
            return Ok(());
        };
        for (number, volume) in &self.volumes {
            if keepers.get(number).is_some_and(|keeper| keeper.id() == id) {
                continue;
            }
            let fail = ReplicaError::system("keep aside a part of", volume.root_file());
            orphanage::prepare(volume)
                .and_then(|()| Keeper::open(volume.root(), id, limit))
                .map(|keeper| keepers.insert(*number, keeper))
                .map_err(fail)?;
        }
        self.aside.keeps.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether what is overwritten is kept.
    #[must_use]
    pub fn keeps_aside(&self) -> bool {
        self.aside.keeps.load(Ordering::Relaxed)
    }

    fn keepers(&self) -> MutexGuard<'_, HashMap<VolumeId, Keeper>> {
        self.aside.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range of a file is about to be overwritten.
    ///
    /// # Errors
    /// [`ReplicaError`]: it must not be.
    pub fn keep_range(&self, file: FileId, open: BorrowedFd<'_>, range: Extent) -> Result<(), ReplicaError> {
        if !self.keeps_aside() {
            return Ok(());
        }
        match self.keepers().get_mut(&file.volume) {
            Some(keeper) => {
                keeper.keep_range(open, range).map_err(|source| ReplicaError::NotKept { file, source })
            }
            None => Ok(()),
        }
    }

    /// A file was made for the primary's.
    pub(super) fn note_made(&self, volume: VolumeId, inode: u64) {
        if self.keeps_aside()
            && let Some(keeper) = self.keepers().get_mut(&volume)
        {
            keeper.note_made(inode);
        }
    }

    /// A name is taken away.
    pub(super) fn note_displaced(&self, directory: &Directory, name: &CStr, inode: u64) {
        if !self.keeps_aside() {
            return;
        }
        let path = path_below(&directory.volume, directory.as_fd(), name);
        if let Some(keeper) = self.keepers().get_mut(&directory.volume.id) {
            keeper.note_displaced(inode, &path);
        }
    }

    /// A file goes with the directory that was taken away: its name is below where that was.
    pub(super) fn note_displaced_below(
        &self,
        volume: &Volume,
        inside: BorrowedFd<'_>,
        name: &CStr,
        inode: u64,
    ) {
        if !self.keeps_aside() {
            return;
        }
        let above = Status::of(inside).map_or(0, |status| status.inode);
        if let Some(keeper) = self.keepers().get_mut(&volume.id) {
            keeper.note_displaced_in(above, name.to_bytes(), inode);
        }
    }

    /// A file is about to lose its last name: it is moved aside if anything of it is this copy's own. Returns whether it was.
    pub(super) fn keep_removed(
        &self,
        volume: &Volume,
        directory: BorrowedFd<'_>,
        name: &CStr,
    ) -> io::Result<bool> {
        if !self.keeps_aside() {
            return Ok(false);
        }
        let mut keepers = self.keepers();
        let Some(keeper) = keepers.get_mut(&volume.id) else { return Ok(false) };
        let file =
            openat(directory, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let Some(to) = keeper.keep_removed(file.as_fd()).map_err(io::Error::other)? else { return Ok(false) };
        let to = CString::new(to.into_os_string().into_vec())?;
        let rename = || renameat2(directory, name, AT_FDCWD, to.as_c_str(), RenameFlags::RENAME_NOREPLACE);
        match unprotected(&[Subject::Open(directory), Subject::Named(directory, name)], rename) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Where a name in a directory is, from the volume's root on.
fn path_below(volume: &Volume, directory: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let path = |of: BorrowedFd<'_>| {
        readlink(magic_path(of).as_c_str()).map(OsStringExt::into_vec).unwrap_or_default()
    };
    let (root, above) = (path(volume.root()), path(directory));
    let below = above.strip_prefix(root.as_slice()).unwrap_or(b"/?");
    let mut whole = below.strip_prefix(b"/").unwrap_or(below).to_vec();
    if !whole.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(name.to_bytes());
    whole
}
