//! Telling: one ring, a number for every event, a count of those that found no place.

use core::arch::asm;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use replicator_common::{Counters, Hook, Kind, Record};

use crate::filter::File;

/// `BPF_F_MMAPABLE` (linux/bpf.h): the daemon reads the counters without a system call.
pub const MAPPABLE: u32 = 1 << 10;

/// The size is set by the loader.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static COUNTERS: Array<Counters> = Array::with_max_entries(1, MAPPABLE);

/// A range of bytes: offset and length.
#[derive(Clone, Copy)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
}

impl Range {
    pub const WHOLE: Range = Range { offset: 0, length: u64::MAX };
    pub const NONE: Range = Range { offset: 0, length: 0 };

    #[inline(always)]
    pub fn at(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    /// From there to the end of the file.
    #[inline(always)]
    pub fn from(offset: u64) -> Range {
        Range { offset, length: u64::MAX }
    }
}

/// Tell an event. One that cannot be told is counted.
#[inline(always)]
pub fn emit(hook: Hook, kind: Kind, file: &File, range: Range) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: the map's only element, valid for the life of the program.
    let (sequence, dropped) = unsafe { (&raw mut (*counters).sequence, &raw mut (*counters).dropped) };
    let sequence = increment(sequence) + 1;
    let Some(mut entry) = EVENTS.reserve::<Record>(0) else {
        increment(dropped);
        return;
    };
    entry.write(Record {
        sequence,
        inode: file.key.inode,
        offset: range.offset,
        length: range.length,
        device: file.key.device,
        generation: file.key.generation,
        tgid: file.tgid,
        member: file.member,
        kind: kind as u8,
        hook: hook as u8,
        flags: file.flags,
        reserved: [0; 5],
    });
    // Waking a waiting consumer costs the writer several microseconds; the consumer polls.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Remember who runs this: the daemon learns how the kernel numbers it, whatever its PID namespace says.
#[inline(always)]
pub fn identify(tgid: u32) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: as above; only the daemon runs the one program that calls this.
        unsafe { (&raw mut (*counters).identity).write_volatile(u64::from(tgid)) };
    }
}

/// Add one and return the value before. In assembly because the target has no 64-bit atomics in `core`, and because LLVM 22
/// turns a relaxed fetching addition into one that does not fetch.
#[inline(always)]
fn increment(counter: *mut u64) -> u64 {
    let mut value: u64 = 1;
    // SAFETY: an atomic addition to a valid, aligned counter.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({counter} + 0), {value})",
            value = inout(reg) value,
            counter = in(reg) counter,
        );
    }
    value
}
