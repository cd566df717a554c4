//! Direct I/O of every file system that uses iomap. The end is told, which may come in any context; who began it and what
//! for is only known at the beginning, so the beginning leaves a note under the request's address.
//!
//! A note that is missing (too many at once) makes a read or the daemon's own write look like a foreign write: too much is
//! told, never too little.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use replicator_common::{DirectIo, Kind};

use super::tracepoint;
use crate::emit::{Range, emit};
use crate::filter::{not_outside, on_watched_device};
use crate::kernel::Arguments;
use crate::settings::offset;

/// `ITER_SOURCE` (linux/uio.h): the iterator's memory is what is written to the file.
const ITER_SOURCE: u8 = 1;

#[map]
static REQUESTS: LruHashMap<u64, DirectIo> = LruHashMap::with_max_entries(16384, 0);

tracepoint! {
    /// Parameters: request, iterator.
    IomapDioRwBegin, iomap_dio_rw_begin => |arguments: Arguments| {
        let request = arguments.pointer(0)?;
        let inode = request.pointer(offset!(request_file))?.pointer(offset!(file_inode))?;
        let file = on_watched_device(inode)?;
        let iterator = arguments.pointer(1)?;
        let is_write = iterator.u8(offset!(iterator_is_source)) == ITER_SOURCE;
        let note = DirectIo {
            offset: request.u64(offset!(request_position)),
            length: iterator.u64(offset!(iterator_count)),
            ignored: u64::from(!is_write || file.is_own()),
        };
        if REQUESTS.insert(&request.address(), &note, 0).is_err() {
            // Whatever an earlier request at this address left must not be taken for this one.
            let _ = REQUESTS.remove(&request.address());
        }
        Some(())
    }
}

tracepoint! {
    /// Parameters: request, result.
    IomapDioComplete, iomap_dio_complete => |arguments: Arguments| {
        let request = arguments.pointer(0)?;
        let inode = request.pointer(offset!(request_file))?.pointer(offset!(file_inode))?;
        let file = on_watched_device(inode)?;
        let address = request.address();
        // SAFETY: copied at once; the request is over only after this program.
        let note = unsafe { REQUESTS.get(&address) }.copied();
        if note.is_some() {
            let _ = REQUESTS.remove(&address);
        }
        if let Some(note) = note
            && note.ignored != 0
        {
            return None;
        }
        let file = not_outside(file)?;
        let result = arguments.number(1) as i64;
        if result == 0 {
            return None;
        }
        let range = if result > 0 {
            // The request's position has moved on already.
            let end = request.u64(offset!(request_position));
            Range::at(end.saturating_sub(result as u64), result as u64)
        } else {
            // A part of it may have been written.
            note.map_or(Range::WHOLE, |note| Range::at(note.offset, note.length))
        };
        emit(arguments.hook(), Kind::Write, &file.marked_if_mapped(), range);
        Some(())
    }
}
