//! ext4, buffered writes: after the copy into the page cache, once per folio, with the inode locked. The size is not moved
//! on yet. Parameters: inode, position, length.

use replicator_common::Kind;

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;

tracepoint! {
    /// Delayed allocation: the default.
    Ext4DaWriteEnd, ext4_da_write_end => write_end
}

tracepoint! {
    /// Without delayed allocation, or nearly full.
    Ext4WriteEnd, ext4_write_end => write_end
}

tracepoint! {
    /// data=journal.
    Ext4JournalledWriteEnd, ext4_journalled_write_end => write_end
}

#[inline(always)]
fn write_end(arguments: Arguments) -> Option<()> {
    let file = ours(arguments.pointer(0)?)?;
    // The length that was asked for, not what was copied: an upper bound.
    let length = u64::from(arguments.number(2) as u32);
    emit(arguments.hook(), Kind::Write, &file.marked_if_mapped(), Range::at(arguments.number(1), length));
    Some(())
}
