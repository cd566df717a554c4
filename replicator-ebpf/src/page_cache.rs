//! A file's pages in memory (mm/filemap.c, lib/xarray.c of the kernel).

use core::arch::asm;

use replicator_common::FOLIO_LARGEST_PAGES;

use crate::kernel::Kernel;
use crate::settings::{has, offset};

/// Levels of 64 slots each that the tree of a file has at most: 2^48 pages.
const LEVELS_MAX: u32 = 8;

/// What the two lowest bits of an entry mean (include/linux/xarray.h).
const INTERNAL: u64 = 2;
/// The first entry that is a node; below are siblings and marks of the tree itself.
const NODE_FIRST: u64 = 4096;
/// Entries below this one say which slot has the real one.
const SIBLING_END: u64 = 63 << 2 | INTERNAL;

/// Pages that may be dirty: first page and number.
#[derive(Clone, Copy)]
pub struct Pages {
    pub first: u64,
    pub count: u64,
}

/// The folio at an index if it is dirty, or more if that cannot be found out. `None` if the folio is not there or clean.
///
/// The tree is read as the kernel's own readers do under RCU, which programs run under. A folio that moves to other memory
/// is for a moment clean at its old place, but then nobody may take a reference to it, or it is not in the tree any more.
#[inline(always)]
pub fn dirty(mapping: Kernel, index: u64) -> Option<Pages> {
    match find(mapping, index) {
        Found::Nothing => None,
        Found::Dirty(pages) => Some(pages),
        Found::Unknown => {
            Some(Pages { first: index & !(FOLIO_LARGEST_PAGES - 1), count: FOLIO_LARGEST_PAGES })
        }
    }
}

enum Found {
    Nothing,
    Dirty(Pages),
    Unknown,
}

#[inline(always)]
fn find(mapping: Kernel, index: u64) -> Found {
    let known = has(offset!(mapping_pages))
        && has(offset!(pages_node_shift))
        && has(offset!(pages_node_slots))
        && has(offset!(folio_dirty_bit))
        && has(offset!(folio_references));
    if !known {
        return Found::Unknown;
    }
    let mut slot = mapping.within(offset!(mapping_pages)).address();
    let mut entry: u64 = match Kernel::untyped(slot).read_copy(0) {
        Some(entry) => entry,
        None => return Found::Unknown,
    };
    let mut below_top = false;
    let mut level = 0;
    while level < LEVELS_MAX && entry & 3 == INTERNAL && entry >= NODE_FIRST {
        let node = Kernel::untyped(entry - INTERNAL);
        let Some(shift) = node.read_copy::<u8>(offset!(pages_node_shift)) else { return Found::Unknown };
        let high = index >> (shift & 63);
        if !below_top && high >= 64 {
            // Beyond the last page.
            return Found::Nothing;
        }
        below_top = true;
        let slots = Kernel::untyped(node.address() + u64::from(offset!(pages_node_slots)));
        slot = slots.address() + (high & 63) * 8;
        let Some(found) = Kernel::untyped(slot).read_copy::<u64>(0) else { return Found::Unknown };
        entry = found;
        if entry & 3 == INTERNAL && entry < SIBLING_END {
            slot = slots.address() + (entry >> 2) * 8;
            let Some(found) = Kernel::untyped(slot).read_copy::<u64>(0) else { return Found::Unknown };
            entry = found;
        }
        level += 1;
    }
    if !below_top && index > 0 && entry & 3 != INTERNAL {
        // A single entry at the top is page 0.
        return Found::Nothing;
    }
    if entry & 3 == INTERNAL {
        return Found::Unknown;
    }
    // Nothing, or a note about what was there (a number: lowest bit).
    if entry == 0 || entry & 1 == 1 {
        return Found::Nothing;
    }
    folio_at(slot, entry, index)
}

#[inline(always)]
fn folio_at(slot: u64, entry: u64, index: u64) -> Found {
    let folio = Kernel::untyped(entry);
    let Some(flags) = folio.read_copy::<u64>(offset!(folio_flags)) else { return Found::Unknown };
    let is_clean = flags >> (offset!(folio_dirty_bit) & 63) & 1 == 0;
    if is_clean {
        // Frozen comes before "clean at the old place", and leaving the tree before the end of frozen.
        fence();
        let references = folio.read_copy::<u32>(offset!(folio_references));
        fence();
        let still = Kernel::untyped(slot).read_copy::<u64>(0);
        return if references.is_some_and(|count| count != 0) && still == Some(entry) {
            Found::Nothing
        } else {
            Found::Unknown
        };
    }
    let Some(first) = folio.read_copy::<u64>(offset!(folio_index)) else { return Found::Unknown };
    let count = pages(folio, flags);
    if first > index || index - first >= count {
        // Another file's by now.
        return Found::Unknown;
    }
    Found::Dirty(Pages { first, count })
}

/// How many pages the folio with these flags has, at most. A large one becomes dirty as a whole.
#[inline(always)]
pub fn pages(folio: Kernel, flags: u64) -> u64 {
    let head_bit = offset!(folio_head_bit);
    if !has(head_bit) {
        return FOLIO_LARGEST_PAGES;
    }
    if flags >> (head_bit & 63) & 1 == 0 {
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

/// Keep the processor from reading what comes after before what comes before: an atomic operation that returns a value is
/// fully ordered.
#[inline(always)]
fn fence() {
    let mut place: u64 = 0;
    // SAFETY: an atomic addition of zero to a local, aligned number.
    unsafe {
        asm!(
            "{value} = 0",
            "{value} = atomic_fetch_add((u64 *)({place} + 0), {value})",
            value = out(reg) _,
            place = in(reg) &raw mut place,
        );
    }
}
