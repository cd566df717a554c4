//! One name becomes one file: kept, brought from where the file is, adopted, or made.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::namespace::NewNode;

use super::orphanage::is_foreign;
use super::protected::{Subject, unprotected};
use super::{
    Copy, Directory, Local, Replica, ReplicaError, checked_node, is_beneath, open_directory, parent_of,
};
use crate::storage::reader::target_at;
use crate::storage::status::{Status, magic_path, name_of};
use crate::storage::xattr;
use crate::volume::FileHandle;

/// Whether a name that stands for an unmapped file of the right kind is taken for the primary's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Adoption {
    /// Yes: its content will be compared.
    Allowed,
    /// No: the primary takes the file for empty.
    Refused,
}

impl Replica {
    /// What a name stands for now. Foreign things are refused: they are not ours to move.
    pub(super) fn status_at(
        &self,
        directory: &Directory,
        name: &CStr,
    ) -> Result<Option<Status>, ReplicaError> {
        let status =
            Status::at(directory.as_fd(), name).map_err(ReplicaError::name("stat", directory.file, name))?;
        match status {
            Some(status) if is_foreign(&status, &directory.volume) => {
                let busy = io::Error::from_raw_os_error(libc::EBUSY);
                Err(ReplicaError::name("replace what is mounted at", directory.file, name)(busy))
            }
            status => Ok(status),
        }
    }

    /// Let a name stand for a file of the primary, wherever the file is now. Returns whether it was made.
    pub(super) fn settle(
        &self,
        directory: &Directory,
        name: &CStr,
        node: &NewNode,
        adoption: Adoption,
    ) -> Result<bool, ReplicaError> {
        checked_node(&self.map(), directory.volume.id, node)?;
        let current = self.status_at(directory, name)?;
        if let (Some(status), Some(local)) = (&current, self.local(node.file))
            && status.inode == local.inode
            && fits(directory.as_fd(), name, status, node).map_err(ReplicaError::name(
                "read",
                directory.file,
                name,
            ))?
        {
            return Ok(false);
        }
        if let Some(copy) = self.copy_of(directory, node)? {
            if current.is_some_and(|status| status.inode == copy.local.inode) {
                return Ok(false);
            }
            if let Some(status) = current {
                self.displace(directory, name, &status)?;
            }
            self.bring(directory, name, node.file, &copy)?;
            return Ok(false);
        }
        if let Some(status) = current {
            if adoption == Adoption::Allowed
                && !self.is_recovering()
                && !self.map().is_deleted(node.file)
                && self.map().owner(directory.volume.id, status.inode).is_none()
                && fits(directory.as_fd(), name, &status, node).map_err(ReplicaError::name(
                    "read",
                    directory.file,
                    name,
                ))?
            {
                let handle = FileHandle::of(directory.as_fd(), name).map_err(ReplicaError::name(
                    "find",
                    directory.file,
                    name,
                ))?;
                self.bind(node.file, Local::new(status.inode, node.kind, handle));
                return Ok(false);
            }
            self.displace(directory, name, &status)?;
        }
        self.make(directory, name, node)?;
        Ok(true)
    }

    /// The copy of a file, if it is mapped (or hinted at) and can be what the primary describes: else the number was
    /// given to a new file, and the old one is forgotten.
    fn copy_of(&self, directory: &Directory, node: &NewNode) -> Result<Option<Copy>, ReplicaError> {
        let copy = match self.open_copy(node.file) {
            // Somebody else removed it: it is made anew, which the primary is told.
            Err(ReplicaError::Lost { .. }) => {
                self.unbind_deleted(node.file);
                return Ok(None);
            }
            found => found?,
        };
        let Some(copy) = copy else { return Ok(self.hinted(directory, node)) };
        let same = copy.local.kind == node.kind
            && match node.kind {
                FileKind::CharacterDevice | FileKind::BlockDevice => copy.status.rdev == node.rdev,
                FileKind::Symlink => {
                    let target = target_at(copy.descriptor.as_fd(), c"")
                        .map_err(ReplicaError::system("read", node.file))?;
                    target == node.target
                }
                _ => true,
            };
        if !same {
            self.unbind_deleted(node.file);
        }
        Ok(same.then_some(copy))
    }

    /// A directory that the last session knew under that number, if it is in the tree and nobody else's. Whatever it
    /// holds will be listed and compared.
    fn hinted(&self, directory: &Directory, node: &NewNode) -> Option<Copy> {
        if node.kind != FileKind::Directory {
            return None;
        }
        let volume = &directory.volume;
        let local = {
            let mut map = self.map();
            let local = map.take_hint(node.file)?;
            if local.inode == volume.root_inode || map.owner(volume.id, local.inode).is_some() {
                return None;
            }
            local
        };
        let descriptor = open_directory(&local, volume).ok()?;
        let status = Status::of(descriptor.as_fd()).ok()?;
        let usable = status.links > 0
            && !is_foreign(&status, volume)
            && is_beneath(descriptor.as_fd(), volume).unwrap_or(false);
        if !usable {
            return None;
        }
        self.bind(node.file, local.clone());
        Some(Copy { local, descriptor: Arc::new(descriptor), status })
    }

    /// Free a name. What it stands for keeps its other names, or waits in the orphanage.
    pub(super) fn displace(
        &self,
        directory: &Directory,
        name: &CStr,
        status: &Status,
    ) -> Result<(), ReplicaError> {
        if status.kind() != Some(FileKind::Directory) && status.links > 1 {
            let unlink = || unlinkat(directory.as_fd(), name, UnlinkatFlags::NoRemoveDir);
            return unprotected(&directory.subjects(name), unlink).map_err(ReplicaError::name(
                "remove",
                directory.file,
                name,
            ));
        }
        self.orphan(directory, name)
    }

    /// Give a mapped file a name that is free. A directory leaves its old one.
    pub(super) fn bring(
        &self,
        directory: &Directory,
        name: &CStr,
        file: FileId,
        copy: &Copy,
    ) -> Result<(), ReplicaError> {
        if copy.local.kind != FileKind::Directory {
            let link =
                || linkat(copy.descriptor.as_fd(), c"", directory.as_fd(), name, AtFlags::AT_EMPTY_PATH);
            let subjects = [Subject::Open(directory.as_fd()), Subject::Open(copy.descriptor.as_fd())];
            return unprotected(&subjects, link).map_err(ReplicaError::name("link", directory.file, name));
        }
        let (parent, old_name) = self.place_of(directory, file, &copy.local)?;
        let subjects = [
            Subject::Open(parent.as_fd()),
            Subject::Named(parent.as_fd(), &old_name),
            Subject::Open(directory.as_fd()),
        ];
        let rename = || {
            let (old, new) = (parent.as_fd(), directory.as_fd());
            unprotected(&subjects, || renameat(old, old_name.as_c_str(), new, name))
        };
        match rename() {
            Err(Errno::EINVAL) if self.step_aside(directory, copy.local.inode)? => rename(),
            result => result,
        }
        .map_err(ReplicaError::name("rename", directory.file, name))
    }

    /// Where a mapped directory is: the directory above, and its name there. It must be in the tree.
    pub(super) fn place_of(
        &self,
        near: &Directory,
        file: FileId,
        local: &Local,
    ) -> Result<(OwnedFd, std::ffi::CString), ReplicaError> {
        let find = |error: io::Error| ReplicaError::System { operation: "find", file, source: error };
        let inside = open_directory(local, &near.volume).map_err(find)?;
        if !is_beneath(inside.as_fd(), &near.volume).map_err(find)? {
            return Err(ReplicaError::Lost { file });
        }
        let parent = parent_of(inside.as_fd()).map_err(find)?;
        let name = name_of(parent.as_fd(), local.inode).map_err(find)?.ok_or(ReplicaError::Lost { file })?;
        Ok((parent, name))
    }

    /// Make a file under a name that is free, and map it.
    pub(super) fn make(
        &self,
        directory: &Directory,
        name: &CStr,
        node: &NewNode,
    ) -> Result<(), ReplicaError> {
        let local = make_node(directory.as_fd(), name, node).map_err(ReplicaError::name(
            "make",
            directory.file,
            name,
        ))?;
        self.note_made(directory.volume.id, local.inode);
        self.bind(node.file, local);
        Ok(())
    }
}

/// Whether what a name stands for can be the file that the primary describes; its content and attributes are not
/// looked at.
fn fits(directory: BorrowedFd<'_>, name: &CStr, status: &Status, node: &NewNode) -> io::Result<bool> {
    if status.kind() != Some(node.kind) {
        return Ok(false);
    }
    Ok(match node.kind {
        FileKind::CharacterDevice | FileKind::BlockDevice => status.rdev == node.rdev,
        FileKind::Symlink => target_at(directory, name)? == node.target,
        _ => true,
    })
}

/// Make a file for its owner only, then give it away, then open it up: at no moment is it more open than the original. What it
/// inherits here is taken away: the directory's default list may be an older one than the original's maker met. The lists the
/// original has come with its attributes.
fn make_node(directory: BorrowedFd<'_>, name: &CStr, node: &NewNode) -> io::Result<Local> {
    unprotected(&[Subject::Open(directory)], || make_name(directory, name, node))?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let status = Status::of(file.as_fd())?;
    if status.kind() != Some(node.kind) {
        // Somebody else put another file there meanwhile.
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    if node.kind != FileKind::Symlink {
        take_lists(file.as_fd(), node.kind)?;
    }
    set_owner(file.as_fd(), node.uid, node.gid)?;
    if node.kind != FileKind::Symlink {
        set_permissions(file.as_fd(), node.mode)?;
    }
    let handle = FileHandle::of(file.as_fd(), c"")?;
    Ok(Local::new(status.inode, node.kind, handle))
}

/// Make a file for its owner only.
fn make_name(directory: BorrowedFd<'_>, name: &CStr, node: &NewNode) -> io::Result<()> {
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    let special = |kind| mknodat(directory, name, kind, private, node.rdev);
    match node.kind {
        FileKind::Regular => mknodat(directory, name, SFlag::S_IFREG, private, 0)?,
        FileKind::Directory => mkdirat(directory, name, Mode::S_IRWXU)?,
        FileKind::Symlink => {
            let target = std::ffi::CString::new(node.target.as_slice())?;
            symlinkat(target.as_c_str(), directory, name)?;
        }
        FileKind::Fifo => special(SFlag::S_IFIFO)?,
        FileKind::Socket => special(SFlag::S_IFSOCK)?,
        FileKind::CharacterDevice => special(SFlag::S_IFCHR)?,
        FileKind::BlockDevice => special(SFlag::S_IFBLK)?,
    }
    Ok(())
}

/// Take away the access control lists that a new file has inherited.
fn take_lists(file: BorrowedFd<'_>, kind: FileKind) -> io::Result<()> {
    let names = [c"system.posix_acl_access", c"system.posix_acl_default"];
    let count = if kind == FileKind::Directory { 2 } else { 1 };
    for name in names.into_iter().take(count) {
        match xattr::remove(file, name) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Change the owner of an open file, O_PATH included. Takes setuid, setgid and capabilities away: what else is to be
/// set comes after it.
pub(super) fn set_owner(file: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(fchownat(file, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?)
}

/// Change the permission bits of an open file, O_PATH included; not of a symlink, which has none.
pub(super) fn set_permissions(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    let path = magic_path(file);
    Ok(fchmodat(nix::fcntl::AT_FDCWD, path.as_c_str(), mode, FchmodatFlags::FollowSymlink)?)
}
