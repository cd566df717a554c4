//! write(2) and pwrite(2) at their exit, where nothing that sees more can be had. Parameters: file, position, return value.

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

on_exit! {
    VfsWrite, vfs_write => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.pointer(offset!(file_inode))?)?;
        let written = arguments.number(2) as i64;
        if written <= 0 {
            return None;
        }
        let end: u64 = arguments.pointer(1)?.copied(0);
        emit(arguments.hook(), Kind::Write, &file.marked_if_mapped(), Range::at(end.saturating_sub(written as u64), written as u64));
        Some(())
    }
}
