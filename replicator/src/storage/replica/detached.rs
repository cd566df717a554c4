//! Directories that stepped aside while halves of two trees are known here.
//!
//! An operation whose directories are not all listed yet, or to be listed again, is not sent: lists tell instead. Until they
//! are there, a directory can lie here below another that the primary has already moved into it. The lower one steps
//! aside, into the orphanage. If its edge is the one that the primary cut, the list of the directory above it does not have
//! it any more, and another list claims it. If not (any edge between the two may be the one), it goes back to where it was as
//! soon as that is possible, because no list will say so.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::renameat;
use replicator_core::ids::FileId;

use super::content::set_times;
use super::protected::{Subject, unprotected};
use super::{Directory, Replica, ReplicaError, orphanage, parent_of};
use crate::storage::status::{Status, name_of};

/// A directory that stepped aside.
#[derive(Debug)]
pub(super) struct Detached {
    directory: FileId,
    /// Where it was.
    parent: FileId,
    name: CString,
}

impl Replica {
    /// Let a directory step aside if it lies below the one with that inode number, which is to be moved into it. Returns
    /// whether it did.
    pub(super) fn step_aside(&self, lower: &Directory, upper: u64) -> Result<bool, ReplicaError> {
        let file = lower.file;
        if !lies_below(lower, upper).map_err(ReplicaError::system("find", file))? {
            return Ok(false);
        }
        let local = self.local(file).ok_or(ReplicaError::Unknown { file })?;
        let (above, name) = self.place_of(lower, file, &local)?;
        let status = Status::of(above.as_fd()).map_err(ReplicaError::system("stat", file))?;
        let owner = self.map().owner(lower.volume.id, status.inode);
        let Some(parent) = owner else { return Ok(false) };
        let above = Directory {
            file: parent,
            volume: lower.volume.clone(),
            descriptor: above.into(),
            is_root: false,
        };
        self.orphan(&above, &name)?;
        // Its times are the primary's already, and nobody will send them again.
        set_times_of(&above, &status)?;
        self.detached().push(Detached { directory: file, parent, name });
        Ok(true)
    }

    /// Put back what stepped aside, if it was not claimed, its place is not below it, and the list of that place
    /// (`listed` is the one that was just applied) did not leave it out.
    pub(super) fn put_back(&self, listed: Option<FileId>) -> Result<(), ReplicaError> {
        let waiting = std::mem::take(&mut *self.detached());
        for detached in waiting {
            if Some(detached.parent) != listed && !self.put_one_back(&detached)? {
                self.detached().push(detached);
            }
        }
        Ok(())
    }

    /// `false`: not yet.
    fn put_one_back(&self, detached: &Detached) -> Result<bool, ReplicaError> {
        let (file, parent, name) = (detached.directory, detached.parent, detached.name.as_c_str());
        let Some(local) = self.local(file) else { return Ok(true) };
        let volume = self.volume(file)?;
        let find = |source: io::Error| ReplicaError::System { operation: "find", file, source };
        let Some(orphans) = orphanage::find(&volume).map_err(find)? else { return Ok(true) };
        let Some(number) = name_of(orphans.as_fd(), local.inode).map_err(find)? else { return Ok(true) };
        let above = match self.directory(parent) {
            // Removed on the primary since, so that this one was moved or removed as well.
            Err(ReplicaError::Unknown { .. }) => return Ok(true),
            above => above?,
        };
        if self.status_at(&above, name)?.is_some() {
            return Ok(true);
        }
        let status = Status::of(above.as_fd()).map_err(find)?;
        let subjects = [Subject::Open(above.as_fd()), Subject::Named(orphans.as_fd(), &number)];
        let rename = || renameat(orphans.as_fd(), number.as_c_str(), above.as_fd(), name);
        match unprotected(&subjects, rename) {
            Err(Errno::EINVAL) => return Ok(false),
            result => result.map_err(ReplicaError::name("put back", parent, name))?,
        }
        set_times_of(&above, &status)?;
        Ok(true)
    }
}

/// Give a directory the times back that it had before a name in it changed.
fn set_times_of(directory: &Directory, before: &Status) -> Result<(), ReplicaError> {
    let subject = [Subject::Open(directory.as_fd())];
    unprotected(&subject, || set_times(directory.as_fd(), before.atime, before.mtime))
        .map_err(ReplicaError::system("set the times of", directory.file))
}

/// Whether the way up from a directory passes the one with that inode number before the root.
fn lies_below(lower: &Directory, upper: u64) -> io::Result<bool> {
    let mut at = lower.as_fd().try_clone_to_owned()?;
    let mut status = Status::of(at.as_fd())?;
    while status.inode != upper {
        let above = parent_of(at.as_fd())?;
        let next = Status::of(above.as_fd())?;
        if status.inode == lower.volume.root_inode || next.inode == status.inode {
            return Ok(false);
        }
        (at, status) = (above, next);
    }
    Ok(true)
}
