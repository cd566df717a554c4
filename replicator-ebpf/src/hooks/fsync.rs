//! fsync(2) and its like at entry, on file systems without a tracepoint for it. On some kernels one of the two functions is
//! inlined into the callers of the other. Parameter: file.

use replicator_common::Kind;

use super::on_entry;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

on_entry! {
    VfsFsyncRange, vfs_fsync_range => synced
}

on_entry! {
    VfsFsync, vfs_fsync => synced
}

#[inline(always)]
fn synced(arguments: Arguments) -> Option<()> {
    let file = ours(arguments.pointer(0)?.pointer(offset!(file_inode))?)?;
    emit(arguments.hook(), Kind::Sync, &file, Range::NONE);
    Some(())
}
