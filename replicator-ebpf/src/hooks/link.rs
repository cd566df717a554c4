//! link(2) at its exit. The file may come from outside of the replicated directories. Parameters: old dentry, new dentry,
//! directory (where the kernel still passes it).

use replicator_common::{Kind, flag};

use super::create::parent;
use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::{on_watched_device, ours};
use crate::kernel::Arguments;
use crate::settings::offset;

on_exit! {
    VfsLink, vfs_link => |arguments: Arguments| {
        let directory = ours(parent(arguments.pointer(2), arguments.pointer(1)?)?)?;
        let inode = arguments.pointer(0)?.pointer(offset!(dentry_inode))?;
        if let Some(file) = on_watched_device(inode) {
            let mut file = file.looked_up();
            file.flags |= flag::MOVED;
            emit(arguments.hook(), Kind::Attributes, &file, Range::NONE);
        }
        emit(arguments.hook(), Kind::Directory, &directory, Range::NONE);
        Some(())
    }
}
