//! fallocate(2) at its exit. Parameters: file, mode, offset, length.

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

/// `FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE` (linux/falloc.h): everything behind moves.
const SHIFTING: u64 = 0x08 | 0x20;

on_exit! {
    VfsFallocate, vfs_fallocate => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.pointer(offset!(file_inode))?)?;
        let offset = arguments.number(2);
        let range = if arguments.number(1) & SHIFTING != 0 {
            Range::from(offset)
        } else {
            Range::at(offset, arguments.number(3))
        };
        emit(arguments.hook(), Kind::Write, &file, range);
        Some(())
    }
}
