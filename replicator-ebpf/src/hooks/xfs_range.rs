//! xfs, changes of a file's shape. The tracepoints name the inode only: all of the file may have changed.

use replicator_common::Kind;

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

tracepoint! {
    /// Blocks shared with another file. Parameters: destination, its offset, length.
    XfsReflinkRemapRange, xfs_reflink_remap_range => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.within(offset!(xfs_inode)))?;
        emit(arguments.hook(), Kind::Write, &file, Range::at(arguments.number(1), arguments.number(2)));
        Some(())
    }
}

tracepoint! {
    /// Truncated, or attributes changed. Parameter: inode.
    XfsSetattr, xfs_setattr => whole
}

tracepoint! {
    /// Parameter: inode.
    XfsAllocFileSpace, xfs_alloc_file_space => whole
}

tracepoint! {
    /// Parameter: inode.
    XfsFreeFileSpace, xfs_free_file_space => whole
}

tracepoint! {
    /// Parameter: inode.
    XfsZeroFileSpace, xfs_zero_file_space => whole
}

tracepoint! {
    /// Parameter: inode.
    XfsCollapseFileSpace, xfs_collapse_file_space => whole
}

tracepoint! {
    /// Parameter: inode.
    XfsInsertFileSpace, xfs_insert_file_space => whole
}

#[inline(always)]
fn whole(arguments: Arguments) -> Option<()> {
    let file = ours(arguments.pointer(0)?.within(offset!(xfs_inode)))?;
    emit(arguments.hook(), Kind::Write, &file, Range::WHOLE);
    Some(())
}
