//! Pages of a file are about to be mapped, or have been. A store through a mapping is silent where the folio was made dirty by
//! write(2) before there was a mapping; the page has to be mapped before such a store, which is told here.
//!
//! At the tracepoint and the function of a fault nothing is mapped yet: a folio that is clean now tells by itself, in
//! `writeback_dirty_folio`, when it becomes dirty, because the mapping exists by now. At `mm_filemap_map_pages` everything
//! is mapped; what was dirty then may have been written back since, so that everything is told.

use replicator_common::{Hook, Kind, flag};

use super::{on_entry, tracepoint};
use crate::emit::{Range, emit};
use crate::filter::{File, is_mapped, not_outside, not_own, on_watched_device};
use crate::kernel::{Arguments, Kernel};
use crate::page_cache::{Pages, dirty};
use crate::settings::{offset, setting};

tracepoint! {
    /// Parameters: mapping, page.
    MmFilemapFault, mm_filemap_fault => |arguments: Arguments| {
        fault(arguments.hook(), arguments.pointer(0)?, arguments.number(1))
    }
}

tracepoint! {
    /// Parameters: mapping, first page, last page.
    MmFilemapMapPages, mm_filemap_map_pages => |arguments: Arguments| {
        mapped(arguments.hook(), arguments.pointer(0)?, arguments.number(1), arguments.number(2))
    }
}

on_entry! {
    /// Where there is no tracepoint. Parameter: fault.
    FilemapFault, filemap_fault => |arguments: Arguments| {
        let fault_at = arguments.pointer(0)?;
        fault(arguments.hook(), faulting(fault_at)?, fault_at.u64(offset!(fault_page)))
    }
}

on_entry! {
    /// Where there is no tracepoint. Parameters: fault, first page, last page.
    FilemapMapPages, filemap_map_pages => |arguments: Arguments| {
        mapped(arguments.hook(), faulting(arguments.pointer(0)?)?, arguments.number(1), arguments.number(2))
    }
}

/// The address space that is mapped where the fault is.
#[inline(always)]
fn faulting(fault: Kernel) -> Option<Kernel> {
    fault.pointer(offset!(fault_area))?.pointer(offset!(area_file))?.pointer(offset!(file_mapping))
}

#[inline(always)]
fn fault(hook: Hook, mapping: Kernel, index: u64) -> Option<()> {
    let file = stored_to(mapping)?;
    tell(hook, &file, dirty(mapping, index)?)
}

#[inline(always)]
fn mapped(hook: Hook, mapping: Kernel, first: u64, last: u64) -> Option<()> {
    let file = stored_to(mapping)?;
    tell(hook, &file, Pages { first, count: last.saturating_sub(first) + 1 })
}

/// The file, if it is ours and stores may reach it. Every fault of the machine comes here: the device is looked at first.
#[inline(always)]
fn stored_to(mapping: Kernel) -> Option<File> {
    let mut file = on_watched_device(mapping.pointer(offset!(mapping_inode))?)?;
    if !is_mapped(mapping) {
        return None;
    }
    file.flags |= flag::MAPPED;
    not_outside(not_own(file)?)
}

#[inline(always)]
fn tell(hook: Hook, file: &File, pages: Pages) -> Option<()> {
    let shift = setting!(page_shift) & 63;
    emit(hook, Kind::Store, file, Range::at(pages.first << shift, pages.count << shift));
    Some(())
}
