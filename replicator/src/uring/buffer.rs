//! Memory that can be lent to the kernel.
//!
//! All of it lies at a fixed address until its last owner is gone, is aligned to a page (so that it also suits O_DIRECT)
//! and is zeroed when it is first allocated, so no byte of it is ever uninitialised.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Alignment of all pooled memory in bytes.
const ALIGNMENT: usize = 4096;

/// Capacities that are kept for reuse, in bytes. The two large ones have a page more than a power of two so that a frame
/// with that much payload fits together with its header.
const CLASSES: [usize; 4] = [4 << 10, 64 << 10, (1 << 20) + 4096, (4 << 20) + 4096];

/// Free memory that a [`Pool`] keeps in each capacity class unless told otherwise, in bytes.
const KEEP_DEFAULT: usize = 32 << 20;

/// Source of buffers. Cheap to clone; all clones are one pool. Memory returns to it when its last owner drops it, from any
/// thread.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<PoolShared>,
}

struct PoolShared {
    free: [Mutex<Vec<Block>>; CLASSES.len()],
    /// Bytes kept per class.
    keep: usize,
    outstanding: AtomicUsize,
}

/// Blocks of at least that many bytes are mappings of their own. From the allocator's heaps, which are several, large
/// aligned blocks that come and go leave holes that are never given back.
const MAPPED_MIN: usize = 64 << 10;

/// An allocation nobody uses.
struct Block {
    pointer: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block is plain memory that only its owner reaches.
unsafe impl Send for Block {}

impl Block {
    fn layout(capacity: usize) -> Layout {
        // The only failure is a capacity close to isize::MAX, far above what any caller may ask for.
        Layout::from_size_align(capacity, ALIGNMENT).expect("a buffer of a sane size")
    }

    fn allocate(capacity: usize) -> Block {
        let layout = Block::layout(capacity);
        let pointer = if capacity >= MAPPED_MIN {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: new memory at an address of the kernel's choice.
            let pointer = unsafe { libc::mmap(std::ptr::null_mut(), capacity, protection, flags, -1, 0) };
            if pointer == libc::MAP_FAILED { std::ptr::null_mut() } else { pointer.cast() }
        } else {
            // SAFETY: the layout's size is not zero: `Memory::take` asks for at least one byte.
            unsafe { alloc_zeroed(layout) }
        };
        let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(layout) };
        Block { pointer, capacity }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let pointer = self.pointer.as_ptr();
        if self.capacity >= MAPPED_MIN {
            // SAFETY: mapped by `allocate` with this very length, and unmapped once, here.
            unsafe { libc::munmap(pointer.cast(), self.capacity) };
        } else {
            // SAFETY: the pointer came from `alloc_zeroed` with this very layout and is freed once, here.
            unsafe { dealloc(pointer, Block::layout(self.capacity)) }
        }
    }
}

impl Default for Pool {
    fn default() -> Pool {
        Pool::new(KEEP_DEFAULT)
    }
}

impl Pool {
    /// A pool that keeps at most `keep` bytes of free memory in each of its four capacity classes.
    #[must_use]
    pub fn new(keep: usize) -> Pool {
        Pool {
            shared: Arc::new(PoolShared {
                free: std::array::from_fn(|_| Mutex::new(Vec::new())),
                keep,
                outstanding: AtomicUsize::new(0),
            }),
        }
    }

    /// A buffer of `length` bytes. Its content is unspecified: zeroes, or what an earlier user left.
    #[must_use]
    pub fn take(&self, length: usize) -> Buffer {
        Buffer { memory: self.memory(length), length }
    }

    /// An empty buffer with room for at least `capacity` bytes.
    #[must_use]
    pub fn take_append(&self, capacity: usize) -> AppendBuffer {
        AppendBuffer { memory: Arc::new(self.memory(capacity)), filled: 0 }
    }

    /// Capacity in bytes of all memory of this pool that somebody holds.
    #[must_use]
    pub fn outstanding_bytes(&self) -> usize {
        self.shared.outstanding.load(Ordering::Relaxed)
    }

    fn memory(&self, capacity: usize) -> Memory {
        let class = CLASSES.iter().position(|class| *class >= capacity);
        let block = match class {
            Some(class) => self.shared.pop(class).unwrap_or_else(|| Block::allocate(CLASSES[class])),
            None => Block::allocate(capacity),
        };
        self.shared.outstanding.fetch_add(block.capacity, Ordering::Relaxed);
        Memory { block: Some(block), pool: self.shared.clone() }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("outstanding_bytes", &self.outstanding_bytes()).finish()
    }
}

impl PoolShared {
    fn pop(&self, class: usize) -> Option<Block> {
        self.free[class].lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, block: Block) {
        self.outstanding.fetch_sub(block.capacity, Ordering::Relaxed);
        let Some(class) = CLASSES.iter().position(|class| *class == block.capacity) else { return };
        let mut free = self.free[class].lock().unwrap_or_else(PoisonError::into_inner);
        if (free.len() + 1) * block.capacity <= self.keep {
            free.push(block);
        }
    }
}

/// A block in use. Goes back to its pool when dropped. Hands out no references: its users do, each for the part that is
/// its own.
struct Memory {
    /// None only while dropping.
    block: Option<Block>,
    pool: Arc<PoolShared>,
}

// SAFETY: `Memory` itself gives no access but a raw pointer; the types around it rule out conflicting access.
unsafe impl Sync for Memory {}

impl Memory {
    fn pointer(&self) -> *mut u8 {
        self.block.as_ref().map_or(std::ptr::null_mut(), |block| block.pointer.as_ptr())
    }

    fn capacity(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.capacity)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give_back(block);
        }
    }
}

/// An owned byte buffer from a [`Pool`].
pub struct Buffer {
    memory: Memory,
    length: usize,
}

impl Buffer {
    /// Bytes it could hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Make it that long. New bytes at the end are unspecified.
    ///
    /// # Panics
    /// If `length` is above the capacity.
    pub fn set_length(&mut self, length: usize) {
        assert!(length <= self.capacity(), "a buffer's length is within its capacity");
        self.length = length;
    }

    /// Start of the memory, for the kernel.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.memory.pointer()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is initialised, `length` is within the capacity, and a buffer has one owner: nobody else
        // writes. While the kernel does, the buffer lies inside the ring, where nothing dereferences it.
        unsafe { std::slice::from_raw_parts(self.memory.pointer(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the exclusive borrow of the only owner makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.pointer(), self.length) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.length, self.capacity())
    }
}

/// An immutable view of bytes with shared ownership; cloning copies no bytes. Keeps all of the memory it lies in from being
/// reused: a small view of a large receive buffer holds the whole buffer.
#[derive(Clone, Default)]
pub struct Shared {
    owner: Owner,
    start: usize,
    length: usize,
}

#[derive(Clone, Default)]
enum Owner {
    #[default]
    Nobody,
    Memory(Arc<Memory>),
    Bytes(Arc<Vec<u8>>),
}

impl Shared {
    /// A part of this view; None if `range` does not lie within it.
    #[must_use]
    pub fn get(&self, range: Range<usize>) -> Option<Shared> {
        if range.start > range.end || range.end > self.length {
            return None;
        }
        let start = self.start + range.start;
        Some(Shared { owner: self.owner.clone(), start, length: range.end - range.start })
    }

    /// Grow by `next` if it lies directly behind this view in the same memory; false (and nothing done) if not.
    pub fn extend_with(&mut self, next: &Shared) -> bool {
        let adjacent = match (&self.owner, &next.owner) {
            (Owner::Memory(mine), Owner::Memory(other)) => Arc::ptr_eq(mine, other),
            (Owner::Bytes(mine), Owner::Bytes(other)) => Arc::ptr_eq(mine, other),
            _ => false,
        } && self.start + self.length == next.start;
        if adjacent {
            self.length += next.length;
        }
        adjacent
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.owner {
            Owner::Nobody => &[],
            Owner::Bytes(bytes) => &bytes[self.start..self.start + self.length],
            // SAFETY: a view is only made of bytes that are initialised and that nobody writes any more: those of a
            // `Buffer` that was given up for it, or those below the fill mark of an `AppendBuffer`.
            Owner::Memory(memory) => unsafe {
                std::slice::from_raw_parts(memory.pointer().add(self.start), self.length)
            },
        }
    }
}

impl From<Buffer> for Shared {
    fn from(buffer: Buffer) -> Shared {
        let Buffer { memory, length } = buffer;
        Shared { owner: Owner::Memory(Arc::new(memory)), start: 0, length }
    }
}

impl From<Vec<u8>> for Shared {
    fn from(bytes: Vec<u8>) -> Shared {
        let length = bytes.len();
        Shared { owner: Owner::Bytes(Arc::new(bytes)), start: 0, length }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} bytes)", self.length)
    }
}

/// A buffer that is filled at its end, by the owner or by the kernel, while views of what is already there are in use.
///
/// Soundness: bytes below the fill mark are never written again while a view exists; bytes above it are reached only
/// through the one `AppendBuffer` (it cannot be cloned), or by the kernel while the ring owns it. The two never overlap.
pub struct AppendBuffer {
    memory: Arc<Memory>,
    filled: usize,
}

impl AppendBuffer {
    /// Bytes that are there.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that can still be added.
    #[must_use]
    pub fn room(&self) -> usize {
        self.memory.capacity() - self.filled
    }

    /// Bytes it could hold in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// The bytes that are there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: initialised memory below the fill mark, which nobody writes while this borrow or a view exists.
        unsafe { std::slice::from_raw_parts(self.memory.pointer(), self.filled) }
    }

    /// A view of bytes that are there; None if `range` reaches beyond the fill mark.
    #[must_use]
    pub fn view(&self, range: Range<usize>) -> Option<Shared> {
        if range.start > range.end || range.end > self.filled {
            return None;
        }
        let length = range.end - range.start;
        Some(Shared { owner: Owner::Memory(self.memory.clone()), start: range.start, length })
    }

    /// Add bytes at the end; false (and nothing done) if there is no room for all of them.
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        // SAFETY: source and target do not overlap (the target is above the fill mark, where no reference points), and
        // there is room.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.memory.pointer().add(self.filled),
                bytes.len(),
            );
        }
        self.filled += bytes.len();
        true
    }

    /// Empty it if no view of it exists any more; says whether it was done.
    pub fn try_clear(&mut self) -> bool {
        let alone = Arc::get_mut(&mut self.memory).is_some();
        if alone {
            self.filled = 0;
        }
        alone
    }

    /// The bytes that are there, to be changed; `None` if a view of them exists.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Arc::get_mut(&mut self.memory)?;
        // SAFETY: as in `bytes`; and no view exists, nor can one be made while this buffer is borrowed.
        Some(unsafe { std::slice::from_raw_parts_mut(self.memory.pointer(), self.filled) })
    }

    /// Forget the first `count` bytes (or all that are there) and move the others to the start; says whether it was done: not if a
    /// view exists.
    pub fn discard(&mut self, count: usize) -> bool {
        let Some(bytes) = self.bytes_mut() else { return false };
        let count = count.min(bytes.len());
        bytes.copy_within(count.., 0);
        self.filled -= count;
        true
    }

    /// First byte above the fill mark, for the kernel.
    pub(super) fn tail(&self) -> *mut u8 {
        // SAFETY: the fill mark is within the capacity.
        unsafe { self.memory.pointer().add(self.filled) }
    }

    /// The kernel wrote that many bytes above the fill mark.
    ///
    /// # Panics
    /// If there was no room for so many: then memory that is not ours was overwritten.
    pub(super) fn advance(&mut self, written: usize) {
        assert!(written <= self.room(), "the kernel stays within the room it was given");
        self.filled += written;
    }
}

impl fmt::Debug for AppendBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppendBuffer({} of {} bytes)", self.filled, self.memory.capacity())
    }
}
