//! A folio went from clean to dirty, on every file system that writes back. The only sign of a store to a shared mapping; for
//! a file system without a hook for buffered writes, the only sign of those as well. Later changes of the folio are silent
//! until it has been written back. Parameters: folio, mapping.

use replicator_common::{FOLIO_LARGEST_PAGES, Kind, flag};

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::{not_outside, not_own, on_watched_device};
use crate::kernel::{Arguments, Kernel};
use crate::settings::{has, offset, setting};

tracepoint! {
    WritebackDirtyFolio, writeback_dirty_folio => |arguments: Arguments| {
        let mapping = arguments.pointer(1)?;
        let mut file = on_watched_device(mapping.pointer(offset!(mapping_inode))?)?;
        if (mapping.u32(offset!(mapping_writable)) as i32) > 0 {
            file.flags |= flag::MAPPED;
        } else if file.has_own_buffered_hook() {
            return None;
        }
        let file = not_outside(not_own(file)?)?;
        let folio = arguments.pointer(0)?;
        let shift = setting!(page_shift) & 63;
        let range = Range::at(folio.u64(offset!(folio_index)) << shift, pages(folio) << shift);
        emit(arguments.hook(), Kind::Store, &file, range);
        Some(())
    }
}

/// How many pages the folio has, at most. A large one becomes dirty as a whole.
#[inline(always)]
fn pages(folio: Kernel) -> u64 {
    let head_bit = offset!(folio_head_bit);
    if !has(head_bit) {
        return FOLIO_LARGEST_PAGES;
    }
    if folio.u64(offset!(folio_flags)) >> (head_bit & 63) & 1 == 0 {
        return 1;
    }
    let known = if has(offset!(folio_pages)) {
        u64::from(folio.copied::<u32>(offset!(folio_pages)))
    } else if has(offset!(folio_order)) {
        1 << (folio.copied::<u8>(offset!(folio_order)) & 31)
    } else {
        0
    };
    if known == 0 { FOLIO_LARGEST_PAGES } else { known }
}
