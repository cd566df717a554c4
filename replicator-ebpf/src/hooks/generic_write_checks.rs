//! Every kind of write of every file system, io_uring and splice included, just before the bytes are copied and with the inode
//! locked: position and length are final, but less may be written. Parameters: request, return value.

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::{not_outside, not_own, on_watched_device};
use crate::kernel::Arguments;
use crate::settings::offset;

on_exit! {
    GenericWriteChecks, generic_write_checks => |arguments: Arguments| {
        let request = arguments.pointer(0)?;
        let inode = request.pointer(offset!(request_file))?.pointer(offset!(file_inode))?;
        let file = on_watched_device(inode)?;
        if file.has_own_buffered_hook() {
            return None;
        }
        let file = not_outside(not_own(file)?)?;
        let allowed = arguments.number(1) as i64;
        if allowed <= 0 {
            return None;
        }
        let range = Range::at(request.u64(offset!(request_position)), allowed as u64);
        emit(arguments.hook(), Kind::Write, &file.marked_if_mapped(), range);
        Some(())
    }
}
