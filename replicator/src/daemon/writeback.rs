//! What a resync brings goes to the disk as it comes, not only when the kernel thinks that it is time or a barrier asks: the disk
//! works from the beginning, and the end has little left to wait for.
//!
//! Only a hint. Nothing relies on it, and it makes nothing durable: that is a sync's doing, which also reports what failed here
//! (sync_file_range(2) with SYNC_FILE_RANGE_WRITE alone takes no error from the file).

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use replicator_core::extent::Extent;
use replicator_core::ids::FileId;

use super::workers::Workers;

/// So many bytes are worth a call.
const START_BYTES: u64 = 8 << 20;
/// Ranges of more files are forgotten: each keeps a descriptor open.
const FILES_MAX: usize = 128;

/// Ranges that were written and whose way to the disk was not begun.
#[derive(Default)]
pub struct Writeback {
    ranges: HashMap<FileId, (Arc<OwnedFd>, Extent)>,
    bytes: u64,
    busy: Arc<AtomicBool>,
}

impl Writeback {
    /// These bytes were written. Begins with what has come together, unless that is under way already: the call may block while the
    /// disk is busy, so a worker makes it.
    pub fn note(&mut self, workers: &Workers, file: FileId, descriptor: &Arc<OwnedFd>, extent: Extent) {
        let range = self.ranges.entry(file).or_insert_with(|| (Arc::clone(descriptor), extent));
        range.1 = Extent { start: range.1.start.min(extent.start), end: range.1.end.max(extent.end) };
        self.bytes += extent.length();
        if self.bytes >= START_BYTES && !self.busy.swap(true, Ordering::AcqRel) {
            self.bytes = 0;
            let (ranges, busy) = (std::mem::take(&mut self.ranges), Arc::clone(&self.busy));
            workers.run(move || {
                ranges.into_values().for_each(|(descriptor, extent)| begin(&descriptor, extent));
                busy.store(false, Ordering::Release);
            });
        } else if self.ranges.len() > FILES_MAX {
            self.forget();
        }
    }

    /// Nothing of it matters any more.
    pub fn forget(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }
}

fn begin(descriptor: &OwnedFd, extent: Extent) {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    // SAFETY: takes no memory. That it fails changes nothing: the kernel writes by itself later.
    let _ = unsafe {
        libc::sync_file_range(
            descriptor.as_raw_fd(),
            number(extent.start),
            number(extent.length()),
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use replicator_core::ids::VolumeId;

    use super::*;

    #[test]
    fn ranges_are_begun_together_and_not_kept() {
        let workers = Workers::start("test", 1).unwrap();
        let mut writeback = Writeback::default();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 9 << 20]).unwrap();
        let file = Arc::new(OwnedFd::from(file));
        let id = FileId { volume: VolumeId(0), inode: 5 };
        writeback.note(&workers, id, &file, Extent::at(0, 1 << 20));
        assert_eq!((writeback.bytes, writeback.ranges.len()), (1 << 20, 1));
        writeback.note(&workers, id, &file, Extent::at(1 << 20, 8 << 20));
        assert_eq!((writeback.bytes, writeback.ranges.len()), (0, 0));
        drop(workers);
        assert!(!writeback.busy.load(Ordering::Acquire));
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn too_many_files_are_forgotten() {
        let workers = Workers::start("test", 1).unwrap();
        let mut writeback = Writeback::default();
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        for inode in 0..=FILES_MAX as u64 {
            let id = FileId { volume: VolumeId(0), inode };
            writeback.note(&workers, id, &file, Extent::at(0, 10));
        }
        assert_eq!((writeback.bytes, writeback.ranges.len()), (0, 0));
    }
}
