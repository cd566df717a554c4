//! ext4, changes of a file's shape.

use replicator_common::Kind;

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

tracepoint! {
    /// Cut off; the inode's size is the new one already. Parameter: inode.
    Ext4TruncateEnter, ext4_truncate_enter => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?)?;
        let size = file.inode.u64(offset!(inode_size));
        emit(arguments.hook(), Kind::Write, &file, Range::from(size));
        Some(())
    }
}

tracepoint! {
    /// Allocated, and since Linux 6.14 also the end of every other mode. Parameters: inode, offset, blocks.
    Ext4FallocateExit, ext4_fallocate_exit => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?)?;
        let block_bits = file.inode.u8(offset!(inode_block_bits)) & 31;
        let length = u64::from(arguments.number(2) as u32) << block_bits;
        emit(arguments.hook(), Kind::Write, &file, Range::at(arguments.number(1), length));
        Some(())
    }
}

tracepoint! {
    /// Parameters: inode, offset, length.
    Ext4PunchHole, ext4_punch_hole => in_place
}

tracepoint! {
    /// Parameters: inode, offset, length.
    Ext4ZeroRange, ext4_zero_range => in_place
}

tracepoint! {
    /// Everything behind moves down. Parameters: inode, offset.
    Ext4CollapseRange, ext4_collapse_range => shifted
}

tracepoint! {
    /// Everything behind moves up. Parameters: inode, offset.
    Ext4InsertRange, ext4_insert_range => shifted
}

#[inline(always)]
fn in_place(arguments: Arguments) -> Option<()> {
    let file = ours(arguments.pointer(0)?)?;
    emit(arguments.hook(), Kind::Write, &file, Range::at(arguments.number(1), arguments.number(2)));
    Some(())
}

#[inline(always)]
fn shifted(arguments: Arguments) -> Option<()> {
    let file = ours(arguments.pointer(0)?)?;
    emit(arguments.hook(), Kind::Write, &file, Range::from(arguments.number(1)));
    Some(())
}
