//! Ways to change a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use replicator::tracer::{Cover, Hook, Row, TraceEvent};
use replicator_core::extent::Extent;

use crate::fixture::{Traced, assert_covered, assert_told, file, not_run, row};

pub const PAGE: u64 = 4096;

/// A file of that many bytes, on disk.
pub fn filled(path: &Path, bytes: usize) -> File {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("create");
    file.write_all_at(&vec![7; bytes], 0).expect("fill");
    file.sync_all().expect("sync");
    file
}

fn check(result: libc::c_long) -> libc::c_long {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// Memory at a page boundary, for direct I/O.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub fn new(length: usize, value: u8) -> Aligned {
        let memory = vec![value; length + PAGE as usize];
        let start = memory.as_ptr().align_offset(PAGE as usize);
        Aligned { memory, start, length }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

pub fn open_direct(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).expect("open O_DIRECT")
}

pub fn fallocate(file: &File, mode: i32, offset: u64, length: u64) {
    // SAFETY: takes no memory.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) };
    check(result.into());
}

/// A shared mapping of the beginning of a file.
pub struct Mapped {
    address: *mut u8,
    length: usize,
}

impl Mapped {
    pub fn new(file: &File, length: usize) -> Mapped {
        Mapped::with(file, length, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// One that nobody can store through.
    pub fn read_only(file: &File, length: usize) -> Mapped {
        Mapped::with(file, length, libc::PROT_READ)
    }

    fn with(file: &File, length: usize, protection: i32) -> Mapped {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(address, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Mapped { address: address.cast(), length }
    }

    pub fn store(&self, at: usize, value: u8) {
        assert!(at < self.length);
        // SAFETY: within the mapping.
        unsafe { self.address.add(at).write_volatile(value) };
    }

    pub fn load(&self, at: usize) {
        assert!(at < self.length);
        // SAFETY: within the mapping.
        unsafe { self.address.add(at).read_volatile() };
    }

    pub fn sync(&self) {
        // SAFETY: the whole mapping.
        check(unsafe { libc::msync(self.address.cast(), self.length, libc::MS_SYNC) }.into());
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

/// Submit one write through io_uring and wait for it. `false` where there is no io_uring.
pub fn uring_write(file: RawFd, bytes: &[u8], offset: u64) -> bool {
    let Ok(mut ring) = io_uring::IoUring::new(4) else { return false };
    let entry = io_uring::opcode::Write::new(io_uring::types::Fd(file), bytes.as_ptr(), bytes.len() as u32)
        .offset(offset)
        .build();
    // SAFETY: the buffer and the descriptor outlive the wait below.
    unsafe { ring.submission().push(&entry).expect("room") };
    ring.submit_and_wait(1).expect("submit");
    let result = ring.completion().next().expect("a completion").result();
    assert_eq!(result, bytes.len() as i32, "io_uring write");
    true
}

/// Every way of writing bytes that the file system's hook for buffered writes tells.
pub fn buffered(traced: &mut Traced, hook: Option<Hook>) {
    let directory = traced.image.directory("buffered");
    let path = directory.join("file");
    let target = filled(&path, 100_000);
    let id = file(&path);

    let seen = traced.during(|| target.write_all_at(b"abc", 5000).expect("pwrite"));
    assert_covered("pwrite", &seen, id, Extent::at(5000, 3), hook);

    let seen = traced.during(|| {
        let mut appended = OpenOptions::new().append(true).open(&path).expect("open");
        appended.write_all(&[9; 10_000]).expect("append");
    });
    assert_covered("append", &seen, id, Extent::at(100_000, 10_000), hook);

    let seen = traced.during(|| {
        let parts = [io::IoSlice::new(b"one"), io::IoSlice::new(b"two")];
        let written = nix::sys::uio::pwritev(&target, &parts, 7777).expect("pwritev");
        assert_eq!(written, 6);
    });
    assert_covered("pwritev", &seen, id, Extent::at(7777, 6), hook);

    let seen = traced.during(|| target.write_all_at(&vec![1; 1 << 20], 3).expect("a large pwrite"));
    assert_covered("1 MiB", &seen, id, Extent::at(3, 1 << 20), hook);

    let seen = traced.during(|| target.write_all_at(b"far", 50 << 20).expect("beyond the end"));
    assert_covered("beyond the end", &seen, id, Extent::at(50 << 20, 3), hook);

    let seen = traced.during(|| {
        if !uring_write(target.as_raw_fd(), b"uring", 12_345) {
            not_run("no io_uring");
            target.write_all_at(b"uring", 12_345).expect("pwrite");
        }
    });
    assert_covered("io_uring", &seen, id, Extent::at(12_345, 5), hook);

    let source = filled(&directory.join("source"), 30_000);
    let seen = traced.during(|| {
        let mut from: libc::off_t = 100;
        use std::io::Seek;
        (&target).seek(io::SeekFrom::Start(20_000)).expect("seek");
        // SAFETY: `from` outlives the call.
        let sent = unsafe { libc::sendfile(target.as_raw_fd(), source.as_raw_fd(), &mut from, 20_000) };
        assert_eq!(check(sent as libc::c_long), 20_000);
    });
    assert_covered("sendfile", &seen, id, Extent::at(20_000, 20_000), hook);
}

/// Copies within the file system, whether bytes are written or extents shared.
pub fn copied(traced: &mut Traced, hook: Option<Hook>) {
    let directory = traced.image.directory("copied");
    let path = directory.join("file");
    let target = filled(&path, 65_536);
    let source = filled(&directory.join("source"), 65_536);
    let seen = traced.during(|| {
        let (mut from, mut to) = (4096, 8192);
        // SAFETY: both offsets outlive the call.
        let copied = unsafe {
            libc::copy_file_range(source.as_raw_fd(), &mut from, target.as_raw_fd(), &mut to, 16_384, 0)
        };
        assert_eq!(check(copied as libc::c_long), 16_384);
    });
    assert_covered("copy_file_range", &seen, file(&path), Extent::at(8192, 16_384), hook);
}

/// Direct I/O, through write(2) and through io_uring; reads must stay silent.
pub fn direct(traced: &mut Traced) {
    let blind = traced.tracer.report().uncovered.iter().any(|uncovered| uncovered.cover == Cover::Direct);
    if blind && row() == Row::Tracepoints {
        return not_run("before Linux 6.6, no tracepoint tells the end of direct I/O");
    }
    let directory = traced.image.directory("direct");
    let path = directory.join("file");
    drop(filled(&path, 1 << 20));
    let id = file(&path);
    let target = open_direct(&path);
    let bytes = Aligned::new(65_536, 5);

    let seen = traced.during(|| target.write_all_at(bytes.bytes(), 8192).expect("direct pwrite"));
    assert_covered("direct", &seen, id, Extent::at(8192, 65_536), None);

    let seen = traced.during(|| target.write_all_at(bytes.bytes(), 4 << 20).expect("direct pwrite"));
    assert_covered("direct beyond the end", &seen, id, Extent::at(4 << 20, 65_536), None);

    let seen = traced.during(|| {
        if blind || !uring_write(target.as_raw_fd(), bytes.bytes(), 131_072) {
            not_run("no io_uring, or a kernel that does not tell the end of asynchronous direct I/O");
            target.write_all_at(bytes.bytes(), 131_072).expect("direct pwrite");
        }
    });
    assert_covered("direct through io_uring", &seen, id, Extent::at(131_072, 65_536), None);

    let mut buffer = Aligned::new(65_536, 0);
    let seen = traced.during(|| {
        target.read_exact_at(buffer.bytes_mut(), 8192).expect("direct pread");
    });
    let writes: Vec<_> = seen.iter().filter(|seen| matches!(seen.event, TraceEvent::Write { .. })).collect();
    assert!(writes.is_empty(), "a read was told as a write: {writes:?}");
    assert_eq!(buffer.bytes(), bytes.bytes());
}

/// Stores to a shared mapping, the first after a sync each.
pub fn mapped(traced: &mut Traced) {
    let directory = traced.image.directory("mapped");
    let path = directory.join("file");
    let target = filled(&path, 4 << 20);
    let id = file(&path);
    let mapping = Mapped::new(&target, 4 << 20);
    for at in [0, 5 * PAGE + 17, (4 << 20) - 1] {
        let seen = traced.during(|| mapping.store(at as usize, 9));
        assert_covered("a store", &seen, id, Extent::at(at, 1), Some(Hook::WritebackDirtyFolio));
        for seen in &seen {
            let TraceEvent::Store { extent, .. } = seen.event else { continue };
            assert!(extent.start.is_multiple_of(PAGE) && extent.end.is_multiple_of(PAGE), "{extent:?}");
            assert!(extent.length() <= 8 << 20, "{extent:?} is larger than any folio");
        }
        target.sync_all().expect("sync");
    }
    let seen = traced.during(|| mapping.store(0, 10));
    assert_covered("a store after a sync", &seen, id, Extent::at(0, 1), Some(Hook::WritebackDirtyFolio));
}

/// fallocate in the modes that all these file systems have, and truncate.
pub fn shape(traced: &mut Traced, hooks: &Shape) {
    let directory = traced.image.directory("shape");
    let path = directory.join("file");
    let target = filled(&path, 1 << 20);
    let id = file(&path);
    let keep = libc::FALLOC_FL_KEEP_SIZE;

    let seen = traced.during(|| fallocate(&target, 0, 1 << 20, 100_000));
    assert_covered("fallocate", &seen, id, Extent::at(1 << 20, 100_000), hooks.allocate);
    let seen = traced.during(|| fallocate(&target, keep | libc::FALLOC_FL_PUNCH_HOLE, 8192, 16_384));
    assert_covered("punch hole", &seen, id, Extent::at(8192, 16_384), hooks.punch);
    let seen = traced.during(|| fallocate(&target, keep | libc::FALLOC_FL_PUNCH_HOLE, 100, 1000));
    assert_covered("punch within a page", &seen, id, Extent::at(100, 1000), hooks.punch);
    let seen = traced.during(|| fallocate(&target, libc::FALLOC_FL_ZERO_RANGE, 65_536, 16_384));
    assert_covered("zero range", &seen, id, Extent::at(65_536, 16_384), hooks.zero);
    let end = 1 << 20;
    let seen = traced.during(|| fallocate(&target, libc::FALLOC_FL_COLLAPSE_RANGE, 131_072, 65_536));
    assert_covered("collapse range", &seen, id, Extent { start: 131_072, end }, hooks.collapse);
    let seen = traced.during(|| fallocate(&target, libc::FALLOC_FL_INSERT_RANGE, 196_608, 65_536));
    assert_covered("insert range", &seen, id, Extent { start: 196_608, end }, hooks.insert);
    let seen = traced.during(|| target.set_len(300_000).expect("truncate"));
    assert_covered("truncate", &seen, id, Extent { start: 300_000, end }, hooks.truncate);
    let seen = traced.during(|| {
        OpenOptions::new().write(true).truncate(true).open(&path).expect("O_TRUNC");
    });
    assert_covered("O_TRUNC", &seen, id, Extent { start: 0, end: 300_000 }, hooks.truncate);
}

/// The hooks that tell of it in the tracepoint row.
#[derive(Default)]
pub struct Shape {
    pub allocate: Option<Hook>,
    pub punch: Option<Hook>,
    pub zero: Option<Hook>,
    pub collapse: Option<Hook>,
    pub insert: Option<Hook>,
    pub truncate: Option<Hook>,
}

/// Syncs that the gate cannot hold.
pub fn synced(traced: &mut Traced) {
    let directory = traced.image.directory("synced");
    let path = directory.join("file");
    let target = filled(&path, 65_536);
    let told = TraceEvent::UnguardedSync { file: file(&path) };

    target.write_all_at(b"x", 0).expect("pwrite");
    let seen = traced.during(|| target.sync_all().expect("fsync"));
    assert_told("fsync", &seen, told);

    let mapping = Mapped::new(&target, 65_536);
    mapping.store(0, 1);
    let seen = traced.during(|| mapping.sync());
    assert_told("msync", &seen, told);

    let seen = traced.during(|| {
        let part = libc::iovec { iov_base: b"y".as_ptr().cast_mut().cast(), iov_len: 1 };
        // SAFETY: one vector of one byte that outlives the call.
        let written = unsafe { libc::pwritev2(target.as_raw_fd(), &part, 1, 0, libc::RWF_DSYNC) };
        assert_eq!(written, 1, "{}", io::Error::last_os_error());
    });
    assert_told("RWF_DSYNC", &seen, told);
}
