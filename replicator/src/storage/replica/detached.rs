//! Directories that stepped aside while a resync knows two halves of two trees.
//!
//! An operation whose directories are not all listed yet is not sent: one of them is listed again later. Until then a
//! directory can lie here below another that the primary has already moved into it. The lower one steps aside, into the
//! orphanage. If its edge is the one that the primary cut, a list that is still to come claims it. If not (any edge between the
//! two may be the one), it goes back to where it was when all lists are there, and no list will have told so.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;

use nix::fcntl::renameat;
use replicator_core::ids::FileId;

use super::content::set_times;
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
        set_times(above.as_fd(), status.atime, status.mtime)
            .map_err(ReplicaError::system("set the times of", parent))?;
        self.detached().push(Detached { directory: file, parent, name });
        Ok(true)
    }

    /// All lists are there: what stepped aside and was not claimed goes back.
    pub(super) fn put_back(&self) -> Result<(), ReplicaError> {
        let detached = std::mem::take(&mut *self.detached());
        for Detached { directory: file, parent, name } in detached {
            let Some(local) = self.local(file) else { continue };
            let volume = self.volume(file)?;
            let find = |source: io::Error| ReplicaError::System { operation: "find", file, source };
            let Some(orphans) = orphanage::find(&volume).map_err(find)? else { continue };
            let Some(number) = name_of(orphans.as_fd(), local.inode).map_err(find)? else { continue };
            let above = match self.directory(parent) {
                // Removed on the primary since, so that this one was moved or removed as well.
                Err(ReplicaError::Unknown { .. }) => continue,
                above => above?,
            };
            if self.status_at(&above, &name)?.is_some() {
                continue;
            }
            let status = Status::of(above.as_fd()).map_err(find)?;
            renameat(orphans.as_fd(), number.as_c_str(), above.as_fd(), name.as_c_str())
                .map_err(ReplicaError::name("put back", parent, &name))?;
            set_times(above.as_fd(), status.atime, status.mtime)
                .map_err(ReplicaError::system("set the times of", parent))?;
        }
        Ok(())
    }
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
