//! How much memory a piece of work takes: an allocator that counts what each thread holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting. A test names it as `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

fn take(bytes: usize) {
    // At a thread's end its counters may be gone; nobody reads them any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

fn give(bytes: usize) {
    // What another thread took may be given back here.
    let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(bytes)));
}

// SAFETY: every call is passed on to the system's allocator as it came, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller keeps the conditions of `alloc`, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: the caller keeps the conditions of `dealloc`, and the memory is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if both were there at once, which they may be.
        take(size);
        give(layout.size());
        // SAFETY: the caller keeps the conditions of `realloc`, and the memory is the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The most that a piece of work held at once beyond what was held before, in bytes, and what it returns. Zero if [`Counting`] is not the
/// allocator.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (PEAK.get().saturating_sub(before), result)
}
