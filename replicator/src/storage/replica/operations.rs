//! The single namespace operations: create, link, unlink, rename, exchange.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};
use replicator_core::event::AppliedOutcome;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::namespace::NewNode;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::nodes::Adoption;
use super::protected::unprotected;
use super::{Directory, Replica, ReplicaError, checked_name, checked_node};
use crate::storage::status::Status;

/// A name as an operation gives it: directory and name.
type Place<'a> = (FileId, &'a [u8]);

impl Replica {
    /// A new file has this name. If the number is mapped to anything but what the name stands for, it was a file that is
    /// gone: the new one is empty, so nothing is adopted for it.
    pub(super) fn create(
        &self,
        parent: FileId,
        name: &[u8],
        node: &NewNode,
    ) -> Result<AppliedOutcome, ReplicaError> {
        let directory = self.directory(parent)?;
        let name = checked_name(&directory, name)?;
        checked_node(&self.map(), directory.volume.id, node)?;
        let current = self.status_at(&directory, &name)?;
        if let Some(local) = self.local(node.file) {
            let applied =
                current.is_some_and(|status| status.inode == local.inode && status.kind() == Some(node.kind));
            if applied {
                return Ok(AppliedOutcome::Done);
            }
            self.unbind(node.file);
        }
        if let Some(status) = current {
            self.deviation(node.file, "a name to be made is taken");
            self.displace(&directory, &name, &status)?;
        }
        self.make(&directory, &name, node)?;
        Ok(AppliedOutcome::Done)
    }

    /// A file has this name too.
    pub(super) fn link(
        &self,
        parent: FileId,
        name: &[u8],
        node: &NewNode,
    ) -> Result<AppliedOutcome, ReplicaError> {
        if node.kind == FileKind::Directory {
            return Err(ReplicaError::Malformed { file: node.file, what: "a link to a directory" });
        }
        let directory = self.directory(parent)?;
        let name = checked_name(&directory, name)?;
        if self.settle(&directory, &name, node, Adoption::Refused)? {
            Ok(AppliedOutcome::Created(vec![node.file]))
        } else {
            Ok(AppliedOutcome::Done)
        }
    }

    /// A name is gone, and with `last` the file.
    ///
    /// In a resync, the directory may be one that was not listed yet: its names are then the business of its list, and
    /// only the end of the file counts.
    pub(super) fn unlink(
        &self,
        parent: FileId,
        name: &[u8],
        file: FileId,
        last: bool,
    ) -> Result<AppliedOutcome, ReplicaError> {
        self.refuse_root(file)?;
        let directory = match self.directory(parent) {
            Ok(directory) => directory,
            Err(ReplicaError::Unknown { .. }) if self.resyncing.load(Ordering::Relaxed) => {
                if last {
                    self.unbind(file);
                }
                return Ok(AppliedOutcome::Done);
            }
            Err(error) => return Err(error),
        };
        let name = checked_name(&directory, name)?;
        if let Some(status) = self.status_at(&directory, &name)? {
            if self.local(file).is_some_and(|local| local.inode == status.inode) {
                self.remove(&directory, &name, &status, file, last)?;
            } else {
                self.deviation(file, "a name to be removed stands for another file");
                self.displace(&directory, &name, &status)?;
            }
        }
        if last {
            self.unbind(file);
        }
        Ok(AppliedOutcome::Done)
    }

    /// Remove a name that stands for the right file.
    fn remove(
        &self,
        directory: &Directory,
        name: &CStr,
        status: &Status,
        file: FileId,
        last: bool,
    ) -> Result<(), ReplicaError> {
        if !last || self.keeps_aside() && status.kind() != Some(FileKind::Directory) {
            // Its other names may be in directories that are not listed yet; or it is to be kept aside, which its deletion does.
            return self.displace(directory, name, status);
        }
        let flag = if status.kind() == Some(FileKind::Directory) {
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        match unprotected(&directory.subjects(name), || unlinkat(directory.as_fd(), name, flag)) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                self.deviation(file, "a directory to be removed is not empty");
                self.orphan(directory, name)
            }
            result => result.map_err(ReplicaError::name("remove", directory.file, name)),
        }
    }

    /// A file has another name; `replaced` had it before, and the flag tells whether that was its last.
    pub(super) fn rename(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        file: FileId,
        replaced: Option<(FileId, bool)>,
    ) -> Result<AppliedOutcome, ReplicaError> {
        let (old, new) = (self.directory(from.0)?, self.directory(to.0)?);
        let (old_name, new_name) = (checked_name(&old, from.1)?, checked_name(&new, to.1)?);
        self.check_pair(&old, &new, file, replaced.map(|(other, _)| other))?;
        if from == to || replaced.is_some_and(|(other, _)| other == file) {
            // rename(2): "If oldpath and newpath are existing hard links referring to the same file, then rename()
            // does nothing".
            return Ok(AppliedOutcome::Done);
        }
        let copy = self.open_copy(file)?.ok_or(ReplicaError::Unknown { file })?;
        let at_old = self.status_at(&old, &old_name)?;
        let is_old = at_old.is_some_and(|status| status.inode == copy.local.inode);
        match self.status_at(&new, &new_name)? {
            Some(status) if status.inode == copy.local.inode => {
                if is_old && let Some(status) = at_old {
                    self.displace(&old, &old_name, &status)?;
                }
            }
            at_new => {
                if let Some(status) = at_new {
                    self.make_way(&new, &new_name, &status, &copy.status, replaced)?;
                }
                if is_old {
                    self.move_name((&old, &old_name), (&new, &new_name), file, copy.local.inode)?;
                } else {
                    self.deviation(file, "a name to be changed stands for another file");
                    if let Some(status) = self.status_at(&new, &new_name)? {
                        self.displace(&new, &new_name, &status)?;
                    }
                    self.bring(&new, &new_name, file, &copy)?;
                    if let Some(status) = self.status_at(&old, &old_name)? {
                        self.displace(&old, &old_name, &status)?;
                    }
                }
            }
        }
        if let Some((other, true)) = replaced {
            self.unbind(other);
        }
        Ok(AppliedOutcome::Done)
    }

    /// Prepare a name to be overwritten by rename(2). What it stands for is left there only if it is the file that the
    /// primary replaced, and with its last name.
    fn make_way(
        &self,
        directory: &Directory,
        name: &CStr,
        status: &Status,
        by: &Status,
        replaced: Option<(FileId, bool)>,
    ) -> Result<(), ReplicaError> {
        let expected = replaced
            .is_some_and(|(other, _)| self.local(other).is_some_and(|local| local.inode == status.inode));
        if !expected {
            self.deviation(directory.file, "a name to be replaced stands for another file");
        }
        let kept = self.keeps_aside() && status.kind() != Some(FileKind::Directory);
        let directories = [status, by].map(|status| status.kind() == Some(FileKind::Directory));
        if !kept && expected && replaced.is_some_and(|(_, last)| last) && directories[0] == directories[1] {
            return Ok(());
        }
        self.displace(directory, name, status)
    }

    fn move_name(
        &self,
        old: (&Directory, &CStr),
        new: (&Directory, &CStr),
        file: FileId,
        inode: u64,
    ) -> Result<(), ReplicaError> {
        let mut result = Ok(());
        let [above_old, at_old] = old.0.subjects(old.1);
        let [above_new, at_new] = new.0.subjects(new.1);
        let subjects = [above_old, at_old, above_new, at_new];
        let rename = || renameat(old.0.as_fd(), old.1, new.0.as_fd(), new.1);
        // Each obstacle goes once at most.
        for _ in 0..3 {
            result = unprotected(&subjects, rename);
            match result {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    self.deviation(file, "a directory to be replaced is not empty");
                    self.orphan(new.0, new.1)?;
                }
                Err(Errno::EINVAL) if self.step_aside(new.0, inode)? => {}
                _ => break,
            }
        }
        result.map_err(ReplicaError::name("rename", old.0.file, old.1))
    }

    /// Two files have changed names: after it, `to` is `file` and `from` is `other`.
    pub(super) fn exchange(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        file: FileId,
        other: Option<FileId>,
    ) -> Result<AppliedOutcome, ReplicaError> {
        let other = other.ok_or(ReplicaError::Malformed { file, what: "an exchange with nothing" })?;
        let (old, new) = (self.directory(from.0)?, self.directory(to.0)?);
        let (old_name, new_name) = (checked_name(&old, from.1)?, checked_name(&new, to.1)?);
        self.check_pair(&old, &new, file, Some(other))?;
        let copy = self.open_copy(file)?.ok_or(ReplicaError::Unknown { file })?;
        let other_copy = self.open_copy(other)?.ok_or(ReplicaError::Unknown { file: other })?;
        let inode = |status: Option<Status>| status.map(|status| status.inode);
        let at_old = inode(self.status_at(&old, &old_name)?);
        let at_new = inode(self.status_at(&new, &new_name)?);
        let (one, two) = (Some(copy.local.inode), Some(other_copy.local.inode));
        if (at_old, at_new) == (two, one) {
            return Ok(AppliedOutcome::Done);
        }
        if (at_old, at_new) == (one, two) {
            let [above_old, at_old] = old.subjects(&old_name);
            let [above_new, at_new] = new.subjects(&new_name);
            let exchange = || {
                let flag = RenameFlags::RENAME_EXCHANGE;
                unprotected(&[above_old, at_old, above_new, at_new], || {
                    renameat2(old.as_fd(), old_name.as_c_str(), new.as_fd(), new_name.as_c_str(), flag)
                })
            };
            match exchange() {
                Err(Errno::EINVAL)
                    if self.step_aside(&new, copy.local.inode)?
                        || self.step_aside(&old, other_copy.local.inode)? =>
                {
                    exchange()
                }
                result => result,
            }
            .map_err(ReplicaError::name("exchange", old.file, &old_name))?;
            return Ok(AppliedOutcome::Done);
        }
        self.deviation(file, "names to be exchanged stand for other files");
        for (directory, name, file, copy) in
            [(&new, &new_name, file, &copy), (&old, &old_name, other, &other_copy)]
        {
            match self.status_at(directory, name)? {
                Some(status) if status.inode == copy.local.inode => continue,
                Some(status) => self.displace(directory, name, &status)?,
                None => {}
            }
            self.bring(directory, name, file, copy)?;
        }
        Ok(AppliedOutcome::Done)
    }

    fn refuse_root(&self, file: FileId) -> Result<(), ReplicaError> {
        if self.map().is_root(file) {
            return Err(ReplicaError::Malformed { file, what: "the root has no name" });
        }
        Ok(())
    }

    /// What a rename speaks of must be of one volume and not its root.
    fn check_pair(
        &self,
        old: &Directory,
        new: &Directory,
        file: FileId,
        other: Option<FileId>,
    ) -> Result<(), ReplicaError> {
        self.refuse_root(file)?;
        if let Some(other) = other {
            self.refuse_root(other)?;
        }
        let volume = old.volume.id;
        if new.volume.id != volume
            || file.volume != volume
            || other.is_some_and(|other| other.volume != volume)
        {
            return Err(ReplicaError::Malformed { file, what: "a rename between volumes" });
        }
        Ok(())
    }
}
