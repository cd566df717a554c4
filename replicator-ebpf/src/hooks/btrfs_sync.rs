//! btrfs: fsync, fdatasync, msync, O_SYNC and RWF_SYNC writes. Parameter: file.

use replicator_common::Kind;

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

tracepoint! {
    BtrfsSyncFile, btrfs_sync_file => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.pointer(offset!(file_inode))?)?;
        emit(arguments.hook(), Kind::Sync, &file, Range::NONE);
        Some(())
    }
}
