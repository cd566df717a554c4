//! Consumer of the ring buffer, with positions in sight: a caller that waits for "everything up to now" needs to know when it
//! has it, which a plain "next, please" does not tell.
//!
//! Layout and protocol: kernel/bpf/ringbuf.c. A page with the consumer's position, a page with the producers', the data twice in
//! a row. A record is a header of 8 bytes (length, with the two highest bits for "busy" and "discarded"), then its bytes,
//! rounded up to 8.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use replicator_common::{Counters, MemberKey, Record, Verdicts, WATCHED_MAX};

const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER_BYTES: usize = 8;

/// Records read before the space is given back to the producers.
const BATCH: usize = 256;

/// A shared mapping of (a part of) a map.
struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(map: BorrowedFd<'_>, offset: usize, length: usize, protection: i32) -> io::Result<Mapping> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: a new mapping at an address of the kernel's choice; it touches no memory of ours.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, map.as_raw_fd(), offset)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Mapping { address, length })
    }

    /// The address of `bytes` bytes at an offset.
    fn at(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(bytes)?;
        // SAFETY: the range lies within the mapping.
        (end <= self.length).then(|| unsafe { self.address.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

// SAFETY: the mapping belongs to no thread; everything in it is read and written atomically or before it is given back.
unsafe impl Send for Mapping {}

fn page_size() -> usize {
    // SAFETY: takes no memory.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// What comes next in the ring.
pub enum Next {
    /// A record.
    Record(Record),
    /// A place was taken, but is not filled in yet.
    Busy,
    /// Nothing up to the position asked for.
    End,
    /// Bytes that are no record of ours; they were skipped.
    Malformed,
}

/// The consumer's end of the ring.
pub struct Ring {
    consumer: Mapping,
    producer: Mapping,
    data: usize,
    mask: usize,
    position: usize,
    unreleased: usize,
}

impl Ring {
    /// Map a ring of that size (a power of two, at least a page). At most one consumer may exist.
    pub fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Ring> {
        let page = page_size();
        if !bytes.is_power_of_two() || bytes < page {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let consumer = Mapping::new(map, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapping::new(map, page, page + 2 * bytes, libc::PROT_READ)?;
        let mut ring = Ring { consumer, producer, data: page, mask: bytes - 1, position: 0, unreleased: 0 };
        ring.position = ring.consumer_position().load(Ordering::Acquire);
        Ok(ring)
    }

    fn consumer_position(&self) -> &AtomicUsize {
        // SAFETY: the page begins with the position, is aligned, mapped as long as `self`, and shared with the kernel, which
        // accesses it atomically.
        unsafe { self.consumer.address.cast::<AtomicUsize>().as_ref() }
    }

    /// Where the producers are. Everything before was reserved before this call.
    pub fn producer_position(&self) -> usize {
        // SAFETY: as for the consumer's.
        unsafe { self.producer.address.cast::<AtomicUsize>().as_ref() }.load(Ordering::Acquire)
    }

    /// The next record before a producers' position.
    pub fn next(&mut self, until: usize) -> Next {
        loop {
            // Positions wrap around; the consumer is never ahead.
            let left = until.wrapping_sub(self.position);
            if left == 0 || left > self.mask + 1 {
                return Next::End;
            }
            let offset = self.data + (self.position & self.mask);
            let Some(header) = self.producer.at(offset, HEADER_BYTES) else { return Next::End };
            // SAFETY: within the mapping, aligned to 8 by the protocol; the kernel writes it atomically. The acquiring load
            // pairs with the kernel's exchange when it commits the record.
            let header = unsafe { header.cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
            if header & BUSY != 0 {
                return Next::Busy;
            }
            let length = (header & !(BUSY | DISCARDED)) as usize;
            let record = self.producer.at(offset + HEADER_BYTES, length);
            self.position = self.position.wrapping_add((HEADER_BYTES + length).next_multiple_of(8));
            self.unreleased += 1;
            let next = match record {
                _ if header & DISCARDED != 0 => None,
                Some(record) if length == size_of::<Record>() => {
                    // SAFETY: committed, within the mapping, of the right size, not reused before it is released; any bytes
                    // make a valid `Record`.
                    Some(Next::Record(unsafe { record.cast::<Record>().read_unaligned() }))
                }
                _ => Some(Next::Malformed),
            };
            if self.unreleased >= BATCH {
                self.release();
            }
            if let Some(next) = next {
                return next;
            }
        }
    }

    /// Whether everything before a producers' position was read.
    pub fn reached(&self, until: usize) -> bool {
        let left = until.wrapping_sub(self.position);
        left == 0 || left > self.mask + 1
    }

    /// Give the space of what was read back to the producers.
    pub fn release(&mut self) {
        self.unreleased = 0;
        self.consumer_position().store(self.position, Ordering::Release);
    }
}

/// The programs' counters, read without a system call.
pub struct SharedCounters(Mapping);

impl SharedCounters {
    /// Map the counters.
    pub fn new(map: BorrowedFd<'_>) -> io::Result<SharedCounters> {
        Mapping::new(map, 0, page_size(), libc::PROT_READ).map(SharedCounters)
    }

    fn load(&self, offset: usize) -> u64 {
        // SAFETY: within the first page, aligned, and only ever changed by atomic operations of the programs.
        unsafe { self.0.address.add(offset).cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }

    /// Last sequence number given.
    pub fn sequence(&self) -> u64 {
        self.load(offset_of!(Counters, sequence))
    }

    /// Events that found the ring full.
    pub fn dropped(&self) -> u64 {
        self.load(offset_of!(Counters, dropped))
    }

    /// The process that ran `identify`.
    pub fn identity(&self) -> u64 {
        self.load(offset_of!(Counters, identity))
    }
}

/// Recent verdicts about files, written without a system call. One writer.
pub struct RecentVerdicts {
    table: Mapping,
    /// Watched file systems, in the order in which the programs number them.
    devices: Vec<u32>,
}

impl RecentVerdicts {
    /// Map the table.
    pub fn new(map: BorrowedFd<'_>, devices: Vec<u32>) -> io::Result<RecentVerdicts> {
        let bytes = WATCHED_MAX * Verdicts::PLACES as usize * size_of::<Verdicts>();
        let bytes = bytes.next_multiple_of(page_size());
        let table = Mapping::new(map, 0, bytes, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(RecentVerdicts { table, devices })
    }

    /// One of the two words of a file's place, by its offset there.
    fn word(&self, key: MemberKey, field: usize) -> Option<&AtomicU64> {
        let watched = self.devices.iter().position(|device| *device == key.device)?;
        let place = Verdicts::place(u32::try_from(watched).ok()?, key.identity()) as usize;
        let address = self.table.at(place * size_of::<Verdicts>() + field, size_of::<u64>())?;
        // SAFETY: within the mapping, which lives as long as `self`, and aligned; the programs read it, and nobody but this
        // process writes it.
        (key.identity() != 0).then(|| unsafe { address.cast::<AtomicU64>().as_ref() })
    }

    /// Note a verdict, in place of another file's. None is noted about the file: it was taken back.
    pub fn put(&mut self, key: MemberKey, is_outside: bool) {
        let field = if is_outside { offset_of!(Verdicts, outside) } else { offset_of!(Verdicts, member) };
        if let Some(word) = self.word(key, field) {
            word.store(key.identity(), Ordering::Release);
        }
    }

    /// Nothing is said about the file any more.
    pub fn take_back(&mut self, key: MemberKey) {
        for field in [offset_of!(Verdicts, outside), offset_of!(Verdicts, member)] {
            if let Some(word) = self.word(key, field)
                && word.load(Ordering::Relaxed) == key.identity()
            {
                word.store(0, Ordering::Release);
            }
        }
    }
}
