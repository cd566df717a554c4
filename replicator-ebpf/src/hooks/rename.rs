//! rename(2). What is replaced is only known at entry. Parameter: the kernel's `struct renamedata`.

use replicator_common::{Hook, Kind, flag};

use super::remove::{forget_victim, note_victim, tell_victim};
use super::{on_entry, on_exit};
use crate::emit::{Range, emit};
use crate::filter::{on_watched_device, ours};
use crate::kernel::{Arguments, Kernel};
use crate::settings::{has, offset};

/// The file type in `i_mode` (inode(7)).
const TYPE: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;

/// `RENAME_EXCHANGE` (linux/fs.h).
const EXCHANGE: u32 = 1 << 1;

on_entry! {
    VfsRenameEntry, vfs_rename_entry => |arguments: Arguments| {
        note_victim(arguments.pointer(0)?.pointer(offset!(rename_new))?)
    }
}

on_exit! {
    VfsRename, vfs_rename => |arguments: Arguments| {
        let rename = arguments.pointer(0)?;
        if let Some(old) =
            directory(rename, offset!(rename_old_parent), offset!(rename_old_directory)).and_then(ours)
        {
            emit(arguments.hook(), Kind::Directory, &old, Range::NONE);
            if rename.u32(offset!(rename_flags)) & EXCHANGE != 0 {
                tell_moved(arguments.hook(), rename.pointer(offset!(rename_new)));
            }
        }
        let Some(new) =
            directory(rename, offset!(rename_new_parent), offset!(rename_new_directory)).and_then(ours)
        else {
            forget_victim();
            return None;
        };
        tell_victim(arguments.hook(), &new);
        emit(arguments.hook(), Kind::Directory, &new, Range::NONE);
        tell_moved(arguments.hook(), rename.pointer(offset!(rename_old)));
        Some(())
    }
}

/// A file that came into a directory, maybe from outside of the replicated ones.
#[inline(always)]
fn tell_moved(hook: Hook, dentry: Option<Kernel>) -> Option<()> {
    let inode = dentry?.pointer(offset!(dentry_inode))?;
    let mut file = on_watched_device(inode)?.looked_up().marked_if_mapped();
    file.flags |= flag::MOVED;
    if inode.u16(offset!(inode_mode)) & TYPE == DIRECTORY {
        file.flags |= flag::DIRECTORY;
    }
    emit(hook, Kind::Attributes, &file, Range::NONE);
    Some(())
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
