//! xfs, writes: before the copy, but with the inode locked and the position final. A pread takes the same lock, so one that
//! begins after the event sees the bytes. Parameters: request, iterator.

use replicator_common::Kind;

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

tracepoint! {
    XfsFileBufferedWrite, xfs_file_buffered_write => write
}

tracepoint! {
    /// Only where the end of direct I/O is not to be seen (before Linux 6.6).
    XfsFileDirectWrite, xfs_file_direct_write => write
}

#[inline(always)]
fn write(arguments: Arguments) -> Option<()> {
    let request = arguments.pointer(0)?;
    let inode = request.pointer(offset!(request_file))?.pointer(offset!(file_inode))?;
    let file = ours(inode)?;
    let length = arguments.pointer(1)?.u64(offset!(iterator_count));
    let range = Range::at(request.u64(offset!(request_position)), length);
    emit(arguments.hook(), Kind::Write, &file.marked_if_mapped(), range);
    Some(())
}
