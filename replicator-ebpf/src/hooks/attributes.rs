//! Mode, owner, times, size, extended attributes and access control lists, at the exit of what changes them.

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

/// `ATTR_SIZE` (linux/fs.h), a macro.
const SIZE: u32 = 1 << 3;

on_exit! {
    /// Parameters: dentry, attributes.
    NotifyChange, notify_change => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.pointer(offset!(dentry_inode))?)?;
        let attributes = arguments.pointer(1)?;
        if attributes.u32(offset!(attributes_valid)) & SIZE != 0 {
            // Where the file grew, its new bytes are zero and its size tells of them.
            let range = Range::from(attributes.u64(offset!(attributes_size)));
            emit(arguments.hook(), Kind::Write, &file, range);
        } else {
            emit(arguments.hook(), Kind::Attributes, &file, Range::NONE);
        }
        Some(())
    }
}

on_exit! {
    /// Parameter: dentry.
    VfsSetxattr, vfs_setxattr => changed
}

on_exit! {
    /// Parameter: dentry.
    VfsRemovexattr, vfs_removexattr => changed
}

on_exit! {
    /// Parameter: dentry.
    VfsSetAcl, vfs_set_acl => changed
}

on_exit! {
    /// Parameter: dentry.
    VfsRemoveAcl, vfs_remove_acl => changed
}

#[inline(always)]
fn changed(arguments: Arguments) -> Option<()> {
    let file = ours(arguments.pointer(0)?.pointer(offset!(dentry_inode))?)?;
    emit(arguments.hook(), Kind::Attributes, &file, Range::NONE);
    Some(())
}
