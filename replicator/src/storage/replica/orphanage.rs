//! The orphanage: `.replicator/orphans/` in the root of a volume, where names wait that lost their place.
//!
//! While the primary lists its tree directory by directory, a file that is missing in one list may show up in the next.
//! So what has no place any more is renamed here (which costs the same for a file and for a whole tree), is claimed from
//! here by [`super::Replica`], and deleted at the end of the resync or at a quiet moment later. Names are numbers and mean
//! nothing. What a crash leaves here is deleted at the end of the next resync.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};
use replicator_core::ids::FileKind;

use super::protected::{Subject, unprotected};
use super::{Directory, Replica, ReplicaError, is_beneath, parent_of};
use crate::storage::status::{Status, names};
use crate::volume::Volume;

/// Replicator's own directory in the root of a volume.
const OWN: &CStr = c".replicator";
/// The orphanage within it.
const ORPHANS: &CStr = c"orphans";
/// How many taken numbers are tried one after the other before giving up.
const NUMBERS_TRIED: u32 = 1 << 20;

/// Remove replicator's own directory if nothing is in it: the copy is then nothing but the primary's tree. The root keeps the
/// times it was given.
fn leave_root(volume: &Volume) -> io::Result<()> {
    keeping_times(volume.root(), || match unlink(volume.root(), OWN, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => Ok(()),
        Err(errno) => Err(errno.into()),
    })
}

/// Do something in the root that changes its times, and give them back: it has the primary's.
fn keeping_times<T>(root: BorrowedFd<'_>, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let times = fstat(root)?;
    let changed = change()?;
    let atime = TimeSpec::new(times.st_atime, times.st_atime_nsec);
    let mtime = TimeSpec::new(times.st_mtime, times.st_mtime_nsec);
    unprotected(&[Subject::Open(root)], || futimens(root, &atime, &mtime))?;
    Ok(changed)
}

/// Open replicator's own directory, which is made if it is not there.
fn open_own(volume: &Volume) -> io::Result<OwnedFd> {
    match open_existing(volume.root(), OWN)? {
        Some(own) => Ok(own),
        None => keeping_times(volume.root(), || open_or_make(volume.root(), OWN)),
    }
}

impl Replica {
    /// Take a name of the tree away without deleting what it stands for, which may be claimed later.
    pub(super) fn orphan(&self, directory: &Directory, name: &CStr) -> Result<(), ReplicaError> {
        let fail = |source| ReplicaError::name("move away", directory.file, name)(source);
        let orphans = open_orphanage(&directory.volume).map_err(fail)?;
        if let Some(status) = Status::at(directory.as_fd(), name).map_err(fail)? {
            self.note_displaced(directory, name, status.inode);
        }
        take_in(orphans.as_fd(), directory.as_fd(), name).map_err(fail)?;
        self.counters.orphaned.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Delete all that is in a volume's orphanage, and the orphanage.
    pub(super) fn empty_orphanage(&self, volume: &Volume) -> Result<(), ReplicaError> {
        let root = volume.root_file();
        let fail = |source: io::Error| ReplicaError::System {
            operation: "empty the orphanage in",
            file: root,
            source,
        };
        let Some(orphans) = find(volume).map_err(fail)? else { return Ok(()) };
        // Each round deletes what has no directories below it and lifts those that are below into the orphanage
        // itself, so that the depth of a tree costs neither stack nor descriptors.
        loop {
            let left = names(orphans.as_fd()).map_err(fail)?;
            if left.is_empty() {
                break;
            }
            let mut progress = false;
            for name in &left {
                self.delete(volume, orphans.as_fd(), orphans.as_fd(), name, &mut progress).map_err(fail)?;
            }
            if !progress {
                tracing::warn!(volume = %volume.path.display(), left = left.len(), "orphans with a mount point inside stay");
                return Ok(());
            }
        }
        let own = parent_of(orphans.as_fd()).map_err(fail)?;
        match unlink(own.as_fd(), ORPHANS, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => leave_root(volume).map_err(fail),
            Err(errno) => Err(fail(errno.into())),
        }
    }

    /// Delete one name in `directory`; of a directory first all that it holds, directories being lifted into the
    /// orphanage. What holds a mount point stays.
    fn delete(
        &self,
        volume: &Volume,
        orphans: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
        name: &CStr,
        progress: &mut bool,
    ) -> io::Result<()> {
        let Some(status) = Status::at(directory, name)? else { return Ok(()) };
        if is_foreign(&status, volume) {
            return Ok(());
        }
        let directory_flag = if status.kind() == Some(FileKind::Directory) {
            let Some(inside) = open_existing(directory, name)? else { return Ok(()) };
            for name in names(inside.as_fd())? {
                self.delete_or_lift(volume, orphans, inside.as_fd(), &name, progress)?;
            }
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        if status.links <= 1 || status.kind() == Some(FileKind::Directory) {
            self.unbind_inode(volume, status.inode);
        }
        let last = status.links <= 1 && status.kind() != Some(FileKind::Directory);
        if last && self.keep_removed(volume, directory, name)? {
            *progress = true;
            return Ok(());
        }
        match unlink(directory, name, directory_flag) {
            Ok(()) => {
                *progress = true;
                Ok(())
            }
            // A mount point is inside.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Delete a name within an orphaned directory, or lift it if it is a directory that is not empty.
    fn delete_or_lift(
        &self,
        volume: &Volume,
        orphans: BorrowedFd<'_>,
        inside: BorrowedFd<'_>,
        name: &CStr,
        progress: &mut bool,
    ) -> io::Result<()> {
        let Some(status) = Status::at(inside, name)? else { return Ok(()) };
        if is_foreign(&status, volume) {
            return Ok(());
        }
        self.note_displaced_below(volume, inside, name, status.inode);
        if status.kind() != Some(FileKind::Directory) {
            if status.links <= 1 {
                self.unbind_inode(volume, status.inode);
                if self.keep_removed(volume, inside, name)? {
                    return Ok(());
                }
            }
            unlink(inside, name, UnlinkatFlags::NoRemoveDir)?;
            return Ok(());
        }
        self.unbind_inode(volume, status.inode);
        match unlink(inside, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                take_in(orphans, inside, name)?;
                *progress = true;
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// A file of this node is about to be gone for good. Before it is: who writes to what is no file any more by then would take it
    /// for one that somebody else removed.
    fn unbind_inode(&self, volume: &Volume, inode: u64) {
        let owner = self.map().owner(volume.id, inode);
        if let Some(owner) = owner {
            self.unbind_deleted(owner);
        }
    }
}

/// Whether something is not a file of this tree: on another file system, or mounted there.
pub(super) fn is_foreign(status: &Status, volume: &Volume) -> bool {
    status.device != volume.device || status.mount_root
}

/// Make replicator's own directory, so that nothing in the root changes later, when its times are those of the primary.
pub(super) fn prepare(volume: &Volume) -> io::Result<()> {
    open_own(volume).map(drop)
}

/// Open the orphanage if there is one.
pub(super) fn find(volume: &Volume) -> io::Result<Option<OwnedFd>> {
    let Some(own) = open_existing(volume.root(), OWN)? else { return Ok(None) };
    let Some(orphans) = open_existing(own.as_fd(), ORPHANS)? else { return Ok(None) };
    // A mount or a directory of somebody else in that place would take the orphans out of the tree.
    if Status::of(orphans.as_fd())?.device != volume.device || !is_beneath(orphans.as_fd(), volume)? {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    Ok(Some(orphans))
}

/// Open the orphanage; it and replicator's own directory are made if they are not there.
fn open_orphanage(volume: &Volume) -> io::Result<OwnedFd> {
    let own = open_own(volume)?;
    drop(open_or_make(own.as_fd(), ORPHANS)?);
    find(volume)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

fn open_or_make(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    if let Some(open) = open_existing(directory, name)? {
        return Ok(open);
    }
    match unprotected(&[Subject::Open(directory)], || mkdirat(directory, name, Mode::S_IRWXU)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    open_existing(directory, name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// Open a directory by name, not following a symlink; `None` if there is none.
fn open_existing(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(directory, name, flags, Mode::empty()) {
        Ok(open) => Ok(Some(open)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Remove a name although flags forbid it.
fn unlink(directory: BorrowedFd<'_>, name: &CStr, flag: UnlinkatFlags) -> Result<(), Errno> {
    let subjects = [Subject::Open(directory), Subject::Named(directory, name)];
    unprotected(&subjects, || unlinkat(directory, name, flag))
}

/// Rename a name into the orphanage, under the first number that is free.
fn take_in(orphans: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // Its own inode number is one that hardly anything else there has.
    let inode = Status::at(directory, name)?.map_or(0, |status| status.inode);
    for attempt in 0..NUMBERS_TRIED {
        let number = CString::new(format!("{inode}.{attempt}")).unwrap_or_default();
        let rename = || renameat2(directory, name, orphans, number.as_c_str(), RenameFlags::RENAME_NOREPLACE);
        match unprotected(&[Subject::Open(directory), Subject::Named(directory, name)], rename) {
            Ok(()) => return Ok(()),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EEXIST))
}
