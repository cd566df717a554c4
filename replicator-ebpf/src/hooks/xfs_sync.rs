//! xfs: fsync, fdatasync, msync, O_SYNC and RWF_SYNC writes. Parameter: inode.

use replicator_common::Kind;

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

tracepoint! {
    XfsFileFsync, xfs_file_fsync => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.within(offset!(xfs_inode)))?;
        emit(arguments.hook(), Kind::Sync, &file, Range::NONE);
        Some(())
    }
}
