//! copy_file_range(2) and FICLONE(RANGE) at their exit: extents may be shared without a byte being written. Parameters: output
//! file, its position, length.

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

on_exit! {
    VfsCopyFileRange, vfs_copy_file_range => copied
}

on_exit! {
    VfsCloneFileRange, vfs_clone_file_range => copied
}

#[inline(always)]
fn copied(arguments: Arguments) -> Option<()> {
    let file = ours(arguments.pointer(0)?.pointer(offset!(file_inode))?)?;
    let offset = arguments.number(1);
    // The length that was asked for, whatever came of it. A clone of length 0 goes to the end.
    let range = match arguments.number(2) {
        0 => Range::from(offset),
        length => Range::at(offset, length),
    };
    emit(arguments.hook(), Kind::Write, &file.marked_if_mapped(), range);
    Some(())
}
