//! New names at the exit of what made them. Parameters: dentry, directory (where the kernel still passes it).

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::{Arguments, Kernel};
use crate::settings::offset;

on_exit! {
    /// The in-kernel way; open(2) does not come here.
    VfsCreate, vfs_create => created
}

on_exit! {
    VfsMkdir, vfs_mkdir => created
}

on_exit! {
    VfsMknod, vfs_mknod => created
}

on_exit! {
    VfsSymlink, vfs_symlink => created
}

on_exit! {
    /// A file without a name. Parameter: file.
    VfsTmpfile, vfs_tmpfile => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.pointer(offset!(file_inode))?)?;
        emit(arguments.hook(), Kind::Attributes, &file, Range::NONE);
        Some(())
    }
}

#[inline(always)]
fn created(arguments: Arguments) -> Option<()> {
    let dentry = arguments.pointer(0)?;
    let directory = ours(parent(arguments.pointer(1), dentry)?)?;
    if let Some(inode) = dentry.pointer(offset!(dentry_inode))
        && let Some(file) = ours(inode)
    {
        emit(arguments.hook(), Kind::Attributes, &file, Range::NONE);
    }
    emit(arguments.hook(), Kind::Directory, &directory, Range::NONE);
    Some(())
}

/// The directory's inode: as given, or the one that the name is in.
#[inline(always)]
pub fn parent(directory: Option<Kernel>, dentry: Kernel) -> Option<Kernel> {
    match directory {
        Some(directory) => Some(directory),
        None => dentry.pointer(offset!(dentry_parent))?.pointer(offset!(dentry_inode)),
    }
}
