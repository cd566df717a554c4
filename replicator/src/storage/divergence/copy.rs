//! Ranges of a file to another on the same file system: by sharing blocks where it can, else by copying.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use replicator_core::extent::Extent;

use crate::storage::holes::holes_within;

/// Blocks can be shared where both ends are multiples of this: no file system here has larger blocks.
const ALIGNMENT: u64 = 64 << 10;
const PIECE: usize = 1 << 20;

/// `struct file_clone_range` (linux/fs.h).
#[repr(C)]
struct CloneRange {
    source: i64,
    source_offset: u64,
    source_length: u64,
    target_offset: u64,
}

/// FICLONERANGE of linux/fs.h: _IOW(0x94, 13, struct file_clone_range).
const FICLONERANGE: libc::c_ulong = 0x4020_940d;

/// Copy what is not a hole of a range, to the same offsets. Returns how many bytes that were. The range lies within the file.
pub(super) fn copy_range(source: &impl AsFd, target: &File, range: Extent) -> io::Result<u64> {
    let mut at = range.start;
    let mut copied = 0;
    let holes = holes_within(source.as_fd(), range)?;
    for hole in holes.into_iter().chain([Extent { start: range.end, end: range.end }]) {
        let data = Extent { start: at, end: hole.start.max(at) };
        if !data.is_empty() {
            copy_data(source, target, data)?;
            copied += data.length();
        }
        at = hole.end;
    }
    Ok(copied)
}

/// How many bytes of a range are no holes.
pub(super) fn data_within(source: &impl AsFd, range: Extent) -> io::Result<u64> {
    let holes: u64 = holes_within(source.as_fd(), range)?.iter().map(|hole| hole.length()).sum();
    Ok(range.length() - holes)
}

fn copy_data(source: &impl AsFd, target: &File, data: Extent) -> io::Result<()> {
    let inner =
        Extent { start: data.start.next_multiple_of(ALIGNMENT), end: data.end / ALIGNMENT * ALIGNMENT };
    if inner.start >= inner.end || !share(source, target, inner) {
        return copy_bytes(source, target, data);
    }
    copy_bytes(source, target, Extent { start: data.start, end: inner.start })?;
    copy_bytes(source, target, Extent { start: inner.end, end: data.end })
}

/// Whether the file system shares the blocks.
fn share(source: &impl AsFd, target: &File, range: Extent) -> bool {
    let request = CloneRange {
        source: i64::from(source.as_fd().as_raw_fd()),
        source_offset: range.start,
        source_length: range.length(),
        target_offset: range.start,
    };
    // SAFETY: `request` is a struct file_clone_range and outlives the call; both descriptors are open.
    unsafe { libc::ioctl(target.as_raw_fd(), FICLONERANGE, &raw const request) == 0 }
}

fn copy_bytes(source: &impl AsFd, target: &File, range: Extent) -> io::Result<()> {
    let mut buffer = vec![0; PIECE.min(usize::try_from(range.length()).unwrap_or(PIECE))];
    let source = File::from(source.as_fd().try_clone_to_owned()?);
    let mut at = range.start;
    while at < range.end {
        let most = buffer.len().min(usize::try_from(range.end - at).unwrap_or(PIECE));
        let count = source.read_at(&mut buffer[..most], at)?;
        if count == 0 {
            // It was cut short meanwhile: nothing is lost there any more that could be kept.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}
