//! A folio went from clean to dirty, on every file system that writes back. The first sign of a store to a shared mapping; for
//! a file system without a hook for buffered writes, the only sign of those as well. Later changes of the folio are silent
//! until it has been written back. Parameters: folio, mapping.
//!
//! The daemon's own doings are told, too: what the daemon makes dirty, others store or, without a hook for buffered writes, write to
//! in silence. That is so even where the daemon writes nothing: btrfs zeroes the rest of the last block when space behind it is allocated.

use replicator_common::{Kind, flag};

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::{is_mapped, not_outside, on_watched_device};
use crate::kernel::Arguments;
use crate::page_cache::pages;
use crate::settings::{offset, setting};

tracepoint! {
    WritebackDirtyFolio, writeback_dirty_folio => |arguments: Arguments| {
        let mapping = arguments.pointer(1)?;
        let mut file = on_watched_device(mapping.pointer(offset!(mapping_inode))?)?;
        if is_mapped(mapping) {
            file.flags |= flag::MAPPED;
        } else if file.has_own_buffered_hook() {
            return None;
        }
        let file = not_outside(file)?;
        let folio = arguments.pointer(0)?;
        let shift = setting!(page_shift) & 63;
        let pages = pages(folio, folio.u64(offset!(folio_flags)));
        let range = Range::at(folio.u64(offset!(folio_index)) << shift, pages << shift);
        emit(arguments.hook(), Kind::Store, &file, range);
        Some(())
    }
}
