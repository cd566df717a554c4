//! open(2) at its exit, for files that it created: `vfs_create` never sees those. Parameters: path, file.

use replicator_common::Kind;

use super::create::parent;
use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

/// `FMODE_CREATED` (linux/fs.h), a macro, hence not in the kernel's type information; the same since Linux 4.19.
const CREATED: u32 = 1 << 20;

on_exit! {
    VfsOpen, vfs_open => |arguments: Arguments| {
        if arguments.pointer(1)?.u32(offset!(file_mode)) & CREATED == 0 {
            return None;
        }
        let dentry = arguments.pointer(0)?.pointer(offset!(path_dentry))?;
        if let Some(file) = ours(dentry.pointer(offset!(dentry_inode))?) {
            emit(arguments.hook(), Kind::Attributes, &file, Range::NONE);
        }
        emit(arguments.hook(), Kind::Directory, &ours(parent(None, dentry)?)?, Range::NONE);
        Some(())
    }
}
