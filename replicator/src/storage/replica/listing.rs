//! A directory's complete list of names, in parts.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use replicator_core::event::AppliedOutcome;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::namespace::{ListedEntry, Operation};

use super::nodes::Adoption;
use super::orphanage::is_foreign;
use super::{Directory, Namespace, Replica, ReplicaError, checked_name};
use crate::patterns::joined;
use crate::storage::status::{Status, names};
use crate::volume::RESERVED_NAME;

/// A list that has begun.
#[derive(Debug)]
pub(super) struct Listing {
    directory: FileId,
    /// All names so far.
    seen: HashSet<Box<[u8]>>,
}

impl Listing {
    pub(super) fn directory(&self) -> FileId {
        self.directory
    }

    /// Whether an operation is the next part of this list, which is all that may come.
    pub(super) fn continues_with(&self, operation: &Operation) -> bool {
        matches!(operation, Operation::List { directory, first: false, .. } if *directory == self.directory)
    }
}

fn is_excluded(directory: &Directory, path: &[u8], name: &CStr, status: &Status) -> bool {
    let path = joined(path, name.to_bytes());
    let is_directory = status.kind() == Some(FileKind::Directory);
    directory.volume.patterns().is_some_and(|patterns| patterns.excludes(&path, is_directory))
}

impl Replica {
    /// Let the names of a part stand for the files that the primary says; at the last part, take all other names away.
    pub(super) fn list(
        &self,
        namespace: &mut Namespace,
        directory: FileId,
        first: bool,
        last: bool,
        entries: &[ListedEntry],
    ) -> Result<AppliedOutcome, ReplicaError> {
        let passes_over = first || namespace.passed_over == Some(directory);
        let opened = match self.directory(directory) {
            // It was moved out of the tree and came back: a list took it away before another one names it again. Then it is made anew, which
            // the primary is told, and is listed again.
            Err(ReplicaError::Unknown { .. }) if passes_over => {
                self.counters.ignored.fetch_add(1, Ordering::Relaxed);
                namespace.passed_over = (!last).then_some(directory);
                return Ok(AppliedOutcome::Done);
            }
            opened => opened?,
        };
        namespace.passed_over = None;
        if first {
            namespace.listing = Some(Listing { directory, seen: HashSet::new() });
        }
        let Some(listing) = namespace.listing.as_mut() else {
            return Err(ReplicaError::Malformed { file: directory, what: "a list without a beginning" });
        };
        let mut created = Vec::new();
        for entry in entries {
            let name = checked_name(&opened, &entry.name)?;
            if self.settle(&opened, &name, &entry.node, Adoption::Allowed)? {
                created.push(entry.node.file);
            }
            listing.seen.insert(name.into_bytes().into_boxed_slice());
        }
        if last && let Some(listing) = namespace.listing.take() {
            self.take_rest_away(&opened, &listing.seen)?;
            self.put_back(Some(directory))?;
        }
        Ok(if created.is_empty() { AppliedOutcome::Done } else { AppliedOutcome::Created(created) })
    }

    fn take_rest_away(&self, directory: &Directory, seen: &HashSet<Box<[u8]>>) -> Result<(), ReplicaError> {
        let fail = || ReplicaError::system("list", directory.file);
        let path = match directory.volume.patterns() {
            Some(_) => directory.volume.path_below(directory.as_fd()).map_err(fail())?,
            None => None,
        };
        for name in names(directory.as_fd()).map_err(fail())? {
            if seen.contains(name.to_bytes()) || directory.is_root && name.to_bytes() == RESERVED_NAME {
                continue;
            }
            let status = Status::at(directory.as_fd(), &name).map_err(ReplicaError::name(
                "stat",
                directory.file,
                &name,
            ))?;
            match status {
                None => {}
                Some(status) if is_foreign(&status, &directory.volume) => {
                    tracing::warn!(directory = %directory.file, ?name, "a mount point that the primary does not have stays");
                }
                // What is excluded here is not the primary's to take away.
                Some(status)
                    if path.as_ref().is_some_and(|path| is_excluded(directory, path, &name, &status)) => {}
                Some(status) => self.displace(directory, &name, &status)?,
            }
        }
        Ok(())
    }
}
