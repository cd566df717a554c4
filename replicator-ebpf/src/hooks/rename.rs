//! rename(2). What is replaced is only known at entry. Parameter: the kernel's `struct renamedata`.

use replicator_common::{Kind, flag};

use super::remove::{note_victim, tell_victim};
use super::{on_entry, on_exit};
use crate::emit::{Range, emit};
use crate::filter::{on_watched_device, ours};
use crate::kernel::{Arguments, Kernel};
use crate::settings::{has, offset};

/// The file type in `i_mode` (inode(7)).
const TYPE: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;

on_entry! {
    VfsRenameEntry, vfs_rename_entry => |arguments: Arguments| {
        note_victim(arguments.pointer(0)?.pointer(offset!(rename_new))?)
    }
}

on_exit! {
    VfsRename, vfs_rename => |arguments: Arguments| {
        let rename = arguments.pointer(0)?;
        let old = directory(rename, offset!(rename_old_parent), offset!(rename_old_directory)).and_then(ours);
        let new = directory(rename, offset!(rename_new_parent), offset!(rename_new_directory)).and_then(ours);
        tell_victim(arguments.hook(), new.as_ref());
        if new.is_some()
            && let Some(inode) = rename.pointer(offset!(rename_old))?.pointer(offset!(dentry_inode))
            && let Some(file) = on_watched_device(inode)
        {
            let mut file = file.looked_up();
            file.flags |= flag::MOVED;
            if file.inode.u16(offset!(inode_mode)) & TYPE == DIRECTORY {
                file.flags |= flag::DIRECTORY;
            }
            emit(arguments.hook(), Kind::Attributes, &file, Range::NONE);
        }
        if let Some(old) = old {
            emit(arguments.hook(), Kind::Directory, &old, Range::NONE);
        }
        emit(arguments.hook(), Kind::Directory, &new?, Range::NONE);
        Some(())
    }
}

/// A parent directory: a dentry since Linux 6.17, an inode before.
#[inline(always)]
fn directory(rename: Kernel, parent: u32, directory: u32) -> Option<Kernel> {
    if has(parent) {
        rename.pointer(parent)?.pointer(offset!(dentry_inode))
    } else {
        rename.pointer(directory)
    }
}
