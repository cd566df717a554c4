//! truncate(2) and O_TRUNC at their exit, where `notify_change`, which sees them as well, cannot be had. Parameters: dentry, length.

use replicator_common::Kind;

use super::on_exit;
use crate::emit::{Range, emit};
use crate::filter::ours;
use crate::kernel::Arguments;
use crate::settings::offset;

on_exit! {
    DoTruncate, do_truncate => |arguments: Arguments| {
        let file = ours(arguments.pointer(0)?.pointer(offset!(dentry_inode))?)?;
        emit(arguments.hook(), Kind::Write, &file, Range::from(arguments.number(1)));
        Some(())
    }
}
