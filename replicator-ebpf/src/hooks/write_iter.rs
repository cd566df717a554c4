//! A file system's own write function, at its exit: everything but stores to mappings and copies that share extents, with the
//! bytes in place. Parameters: request, return value.

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

const EAGAIN: i64 = -11;
/// The end of asynchronous direct I/O is told by `iomap_dio_complete` (linux/errno.h, `EIOCBQUEUED`).
const QUEUED: i64 = -529;

on_exit! {
    Ext4FileWriteIter, ext4_file_write_iter => write_iter
}

on_exit! {
    XfsFileWriteIter, xfs_file_write_iter => write_iter
}

on_exit! {
    BtrfsFileWriteIter, btrfs_file_write_iter => write_iter
}

#[inline(always)]
fn write_iter(arguments: Arguments) -> Option<()> {
    let request = arguments.pointer(0)?;
    let inode = request.pointer(offset!(request_file))?.pointer(offset!(file_inode))?;
    let file = ours(inode)?;
    let result = arguments.number(1) as i64;
    let range = match result {
        0 | EAGAIN | QUEUED => return None,
        // The caller takes the position from the request, so it has moved on.
        1.. => {
            let end = request.u64(offset!(request_position));
            Range::at(end.saturating_sub(result as u64), result as u64)
        }
        // A synchronous write whose sync failed has written all the same.
        _ => Range::WHOLE,
    };
    emit(arguments.hook(), Kind::Write, &file.marked_if_mapped(), range);
    Some(())
}
