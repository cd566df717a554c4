//! The boundary of the replicated tree on the primary: what an operation on names is to the peer if a part of it happens to
//! names that are left out (see [`crate::patterns`]).
//!
//! * Both names left out: nothing.
//! * From a name that is left out to one that is not: the file is made at the peer; of a directory, all that is below it.
//! * The other way: it is removed there.
//! * A directory that stays in the tree under another path: so for each thing below it whose own path now is on the other side.
//!
//! Called under the namespace lock, after the operation was done, so that what is found by looking is what the operation led to.
//! The lock is held while everything below a directory is looked at: such a rename takes as long as removing that directory.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::namespace::{NewNode, Operation};

use super::reader;
use super::status::{Status, names};
use crate::patterns::{Patterns, joined};
use crate::volume::{RESERVED_NAME, Side, Volume};

/// What is told instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// An operation on names of the tree.
    Operation(Operation),
    /// The directory has other times: names that are left out came or went in it.
    Attributes(FileId),
    /// The file has no name in the tree any more: nothing more is to be known of it.
    Forgotten(FileId),
    /// The file has a name in the tree, and its changes were passed over until now. What a mapping stored meanwhile is silent
    /// until a local sync.
    Readmitted(FileId),
}

/// Receives what is to be told, in order.
pub type Emit<'a> = dyn FnMut(Told) + 'a;

/// Deepest directory, in components of its path, whose coming or going can be told name by name: each level takes a descriptor
/// and a part of a reader's stack.
const DEPTH_MAX: usize = 200;

/// Tell of an operation what concerns the tree.
///
/// # Errors
/// What was left out, or came in, cannot be told: the trees have to be compared. What was emitted until then is true.
pub fn translate(volume: &Volume, operation: Operation, emit: &mut Emit<'_>) -> io::Result<()> {
    let Some(patterns) = volume.patterns() else {
        emit(Told::Operation(operation));
        return Ok(());
    };
    let boundary = Boundary { volume, patterns, lost: RefCell::default() };
    match operation {
        Operation::Create { parent, ref name, ref node } => {
            let (file, directory) = (node.file, node.kind == FileKind::Directory);
            let place = boundary.place(parent, name)?;
            if place.is_out(patterns, directory) {
                place.parent_changed(patterns, emit);
                return Ok(());
            }
            emit(Told::Operation(operation));
            boundary.readmit(file, emit);
            Ok(())
        }
        Operation::Link { parent, ref name, ref node } => {
            let file = node.file;
            let place = boundary.place(parent, name)?;
            if place.is_out(patterns, false) {
                place.parent_changed(patterns, emit);
                let is_outside = boundary.is_outside(file, emit);
                forget(file, is_outside, emit);
                return Ok(());
            }
            emit(Told::Operation(operation));
            boundary.readmit(file, emit);
            Ok(())
        }
        Operation::Unlink { parent, name, file, directory, last } => {
            let place = boundary.place(parent, &name)?;
            if place.is_out(patterns, directory) {
                place.parent_changed(patterns, emit);
            } else {
                boundary.replaced(&place, file, directory, last, emit);
            }
            Ok(())
        }
        Operation::Rename { old_parent, ref old_name, new_parent, ref new_name, .. } => {
            let places = (boundary.place(old_parent, old_name)?, boundary.place(new_parent, new_name)?);
            let mut is_whole = false;
            boundary.rename(operation, &places, &mut |told| {
                is_whole |= matches!(told, Told::Operation(Operation::Rename { .. }));
                emit(told);
            })?;
            if !is_whole {
                places.0.parent_changed(patterns, emit);
                places.1.parent_changed(patterns, emit);
            }
            Ok(())
        }
        Operation::List { .. } => {
            emit(Told::Operation(operation));
            Ok(())
        }
    }
}

/// A name in a directory.
struct Place {
    parent: FileId,
    directory: OwnedFd,
    name: CString,
    /// Of the directory, below the root of the volume.
    above: Option<Vec<u8>>,
    /// The same with the name.
    path: Option<Vec<u8>>,
}

impl Place {
    /// Whether it is left out. A path that the kernel does not tell (one that is too long) is not.
    fn is_out(&self, patterns: &Patterns, directory: bool) -> bool {
        is_out(patterns, &self.path, directory)
    }

    /// A name in the directory, of which nothing is told, came or went.
    fn parent_changed(&self, patterns: &Patterns, emit: &mut Emit<'_>) {
        if !is_out(patterns, &self.above, true) {
            emit(Told::Attributes(self.parent));
        }
    }

    /// What the name stands for now.
    fn status(&self) -> io::Result<Option<Status>> {
        Status::at(self.directory.as_fd(), &self.name)
    }

    /// Whether it stands for a directory now.
    fn is_directory(&self) -> io::Result<bool> {
        Ok(self.status()?.is_some_and(|status| status.kind() == Some(FileKind::Directory)))
    }
}

/// Whether a path is left out; one that is not known is not.
fn is_out(patterns: &Patterns, path: &Option<Vec<u8>>, directory: bool) -> bool {
    path.as_ref().is_some_and(|path| patterns.excludes(path, directory))
}

/// A directory whose path has changed, or that came in or went out, with both paths.
struct Moved {
    file: FileId,
    descriptor: OwnedFd,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

struct Boundary<'a> {
    volume: &'a Volume,
    patterns: &'a Patterns,
    /// How many names in the tree a file with several names has lost by this operation.
    lost: RefCell<HashMap<u64, u32>>,
}

impl Boundary<'_> {
    fn place(&self, parent: FileId, name: &[u8]) -> io::Result<Place> {
        let directory = self.volume.open_file(parent.inode, libc::O_PATH | libc::O_DIRECTORY)?;
        let above = self.volume.path_below(directory.as_fd())?;
        let path = above.as_ref().map(|above| joined(above, name));
        Ok(Place { parent, directory, name: CString::new(name)?, above, path })
    }

    fn rename(
        &self,
        operation: Operation,
        (old, new): &(Place, Place),
        emit: &mut Emit<'_>,
    ) -> io::Result<()> {
        let Operation::Rename { file, other, other_last, exchange, .. } = operation else { return Ok(()) };
        let is_directory = new.is_directory()?;
        let was_out = old.is_out(self.patterns, is_directory);
        let is_out = new.is_out(self.patterns, is_directory);
        let Some(other) = other.filter(|_| exchange) else {
            return match (was_out, is_out) {
                (true, true) => Ok(()),
                (false, false) => {
                    let left = other.filter(|other| self.leaves(*other, is_directory, other_last, emit));
                    emit(Told::Operation(with_other_last(operation, other_last || left.is_some())));
                    left.into_iter().for_each(|other| forget(other, true, emit));
                    if is_directory { self.moved_within(file, old, new, emit) } else { Ok(()) }
                }
                (false, true) => self.gone(file, old, new, is_directory, emit),
                (true, false) => {
                    if let Some(other) = other {
                        self.replaced(new, other, is_directory, other_last, emit);
                    }
                    self.come(old, new, emit)
                }
            };
        };
        let other_directory = old.is_directory()?;
        let other_was_out = new.is_out(self.patterns, other_directory);
        let other_is_out = old.is_out(self.patterns, other_directory);
        match (was_out, is_out, other_was_out, other_is_out) {
            (true, true, true, true) => Ok(()),
            (false, false, false, false) => {
                emit(Told::Operation(operation));
                if is_directory {
                    self.moved_within(file, old, new, emit)?;
                }
                if other_directory { self.moved_within(other, new, old, emit) } else { Ok(()) }
            }
            _ => {
                if !was_out {
                    self.gone(file, old, new, is_directory, emit)?;
                }
                if !other_was_out {
                    self.gone(other, new, old, other_directory, emit)?;
                }
                if !is_out {
                    self.come(old, new, emit)?;
                }
                if !other_is_out { self.come(new, old, emit) } else { Ok(()) }
            }
        }
    }

    fn open(&self, file: FileId, before: &Option<Vec<u8>>, after: &Option<Vec<u8>>) -> io::Result<Moved> {
        let depth = after.iter().flatten().filter(|byte| **byte == b'/').count();
        if depth >= DEPTH_MAX || after.is_none() {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME;
        let descriptor = self.volume.open_file(file.inode, flags)?;
        Ok(Moved { file, descriptor, before: before.clone(), after: after.clone() })
    }

    /// A file lost its place in the tree, and is elsewhere now.
    fn gone(
        &self,
        file: FileId,
        old: &Place,
        new: &Place,
        is_directory: bool,
        emit: &mut Emit<'_>,
    ) -> io::Result<()> {
        let last = if is_directory {
            self.shift(&self.open(file, &old.path, &new.path)?, emit)?;
            true
        } else {
            new.status()?.is_some_and(|status| self.loses(file, status.links))
        };
        emit(unlink(old.parent, old.name.to_bytes().to_vec(), file, is_directory, last));
        forget(file, last, emit);
        Ok(())
    }

    /// A name in the tree is not that file's any more; `last`: nor is any other.
    fn replaced(&self, place: &Place, file: FileId, is_directory: bool, last: bool, emit: &mut Emit<'_>) {
        let leaves = self.leaves(file, is_directory, last, emit);
        emit(unlink(place.parent, place.name.to_bytes().to_vec(), file, is_directory, last || leaves));
        forget(file, leaves, emit);
    }

    /// Whether a file that lost a name lives on outside of the tree only. (Of one that is gone altogether the gate tells once nobody
    /// has it open.)
    fn leaves(&self, file: FileId, is_directory: bool, last: bool, emit: &mut Emit<'_>) -> bool {
        !is_directory && !last && self.is_outside(file, emit)
    }

    fn is_outside(&self, file: FileId, emit: &mut Emit<'_>) -> bool {
        let side = self.volume.judge(file.inode);
        if side == Side::Readmitted {
            emit(Told::Readmitted(file));
        }
        side == Side::Outside
    }

    /// A file that is no directory has lost a name in the tree to one that is left out. Returns whether all its names are left
    /// out now; in doubt they are not.
    fn loses(&self, file: FileId, links: u32) -> bool {
        let mut lost = self.lost.borrow_mut();
        let lost = lost.entry(file.inode).or_default();
        *lost += 1;
        if *lost >= links {
            self.volume.expel(file.inode);
        }
        *lost >= links
    }

    fn readmit(&self, file: FileId, emit: &mut Emit<'_>) {
        if self.volume.readmit(file.inode) {
            emit(Told::Readmitted(file));
        }
    }

    /// A name in the tree stands for a file that was elsewhere before.
    fn come(&self, old: &Place, new: &Place, emit: &mut Emit<'_>) -> io::Result<()> {
        self.add(new.directory.as_fd(), new.parent, &new.name, (&old.path, &new.path), emit)
    }

    /// Tell the peer of a name it does not know.
    fn admit(
        &self,
        directory: BorrowedFd<'_>,
        parent: FileId,
        name: &CStr,
        emit: &mut Emit<'_>,
    ) -> io::Result<Option<NewNode>> {
        let Some(node) = reader::describe(self.volume, directory, name.to_bytes())? else { return Ok(None) };
        let status = Status::at(directory, name)?;
        let linked = node.kind != FileKind::Directory && status.is_some_and(|status| status.links > 1);
        let (name, told) = (name.to_bytes().to_vec(), node.clone());
        emit(Told::Operation(if linked {
            Operation::Link { parent, name, node: told }
        } else {
            Operation::Create { parent, name, node: told }
        }));
        self.readmit(node.file, emit);
        Ok(Some(node))
    }

    /// Tell the peer that a name it knows is gone, and of a directory all that is below it.
    fn remove(
        &self,
        parent: FileId,
        name: &CStr,
        status: &Status,
        paths: (&Option<Vec<u8>>, &Option<Vec<u8>>),
        emit: &mut Emit<'_>,
    ) -> io::Result<()> {
        let file = self.volume.file(status.inode);
        let is_directory = status.kind() == Some(FileKind::Directory);
        let last = if is_directory {
            self.shift(&self.open(file, paths.0, paths.1)?, emit)?;
            true
        } else {
            self.loses(file, status.links)
        };
        emit(unlink(parent, name.to_bytes().to_vec(), file, is_directory, last));
        forget(file, last, emit);
        Ok(())
    }

    /// Tell the peer of a name it does not know, and of a directory all that is below it.
    fn add(
        &self,
        directory: BorrowedFd<'_>,
        parent: FileId,
        name: &CStr,
        paths: (&Option<Vec<u8>>, &Option<Vec<u8>>),
        emit: &mut Emit<'_>,
    ) -> io::Result<()> {
        match self.admit(directory, parent, name, emit)? {
            Some(node) if node.kind == FileKind::Directory => {
                self.shift(&self.open(node.file, paths.0, paths.1)?, emit)
            }
            _ => Ok(()),
        }
    }

    /// A directory of the tree has another path in the tree: patterns may see things below it in another way.
    fn moved_within(&self, file: FileId, old: &Place, new: &Place, emit: &mut Emit<'_>) -> io::Result<()> {
        if !self.patterns.look_at_paths() {
            return Ok(());
        }
        self.shift(&self.open(file, &old.path, &new.path)?, emit)
    }

    /// Of a directory with another path than before: remove what belonged to the tree by the path it had and does not by the one it
    /// has, and add what does now. Below one that was left out, or is now, that is everything.
    fn shift(&self, directory: &Moved, emit: &mut Emit<'_>) -> io::Result<()> {
        self.each(directory, |name, status, paths| {
            let is_directory = status.kind() == Some(FileKind::Directory);
            match (is_out(self.patterns, paths.0, is_directory), is_out(self.patterns, paths.1, is_directory))
            {
                (true, true) => Ok(()),
                (false, true) => self.remove(directory.file, name, status, paths, emit),
                (true, false) => self.add(directory.descriptor.as_fd(), directory.file, name, paths, emit),
                (false, false) if is_directory => {
                    self.shift(&self.open(self.volume.file(status.inode), paths.0, paths.1)?, emit)
                }
                (false, false) => Ok(()),
            }
        })
    }

    /// Look at everything in a directory, but for what is mounted there and what is replicator's own.
    fn each(
        &self,
        directory: &Moved,
        mut look: impl FnMut(&CStr, &Status, (&Option<Vec<u8>>, &Option<Vec<u8>>)) -> io::Result<()>,
    ) -> io::Result<()> {
        for name in names(directory.descriptor.as_fd())? {
            if directory.file == self.volume.root_file() && name.to_bytes() == RESERVED_NAME {
                continue;
            }
            let Some(status) = Status::at(directory.descriptor.as_fd(), &name)? else { continue };
            if status.device != self.volume.device || status.mount_root {
                continue;
            }
            if status.kind() == Some(FileKind::Directory) {
                // Nobody may have looked it up yet.
                self.volume.learn_at(directory.descriptor.as_fd(), name.to_bytes(), status.inode)?;
            }
            let path = |above: &Option<Vec<u8>>| above.as_ref().map(|above| joined(above, name.to_bytes()));
            look(&name, &status, (&path(&directory.before), &path(&directory.after)))?;
        }
        Ok(())
    }
}

fn unlink(parent: FileId, name: Vec<u8>, file: FileId, directory: bool, last: bool) -> Told {
    Told::Operation(Operation::Unlink { parent, name, file, directory, last })
}

/// A rename that takes the last name of what it replaces, or does not.
fn with_other_last(mut operation: Operation, last: bool) -> Operation {
    if let Operation::Rename { other_last, .. } = &mut operation {
        *other_last = last;
    }
    operation
}

/// What was marked of a file that left the tree is worth nothing.
fn forget(file: FileId, last: bool, emit: &mut Emit<'_>) {
    if last {
        emit(Told::Forgotten(file));
    }
}
