//! Where a file has no allocation (lseek(2), SEEK_HOLE), and how to make it so.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::pwrite;
use nix::unistd::{Whence, lseek};
use replicator_core::extent::Extent;

use super::status::Status;

/// Zeroes are written in pieces of this size where a hole cannot be punched.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Whether all bytes are zero. Runs at the speed of memory: the comparison of 64 bytes is vector code.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(64);
    chunks.all(|chunk| chunk == [0; 64]) && bytes[bytes.len() - bytes.len() % 64..].iter().all(|&b| b == 0)
}

/// The holes of a file within an extent, ascending, clipped to it. The caller clips the extent to the file's size:
/// the nothing behind the end of a file counts as a hole here. No holes where the file system cannot tell.
///
/// Moves the descriptor's own position, which nobody uses: all I/O names its offset.
pub(super) fn holes_within(file: BorrowedFd<'_>, extent: Extent) -> io::Result<Vec<Extent>> {
    let mut holes = Vec::new();
    let mut position = extent.start;
    while position < extent.end {
        let Some(hole) = seek(file, position, Whence::SeekHole)? else { break };
        if hole >= extent.end {
            break;
        }
        let hole = hole.max(position);
        let data = seek(file, hole, Whence::SeekData)?.unwrap_or(extent.end);
        let end = data.clamp(hole, extent.end);
        if end > hole {
            holes.push(Extent { start: hole, end });
        }
        // A file that changes meanwhile must not keep the loop at one place.
        position = end.max(position + 1);
    }
    Ok(holes)
}

/// `None` where there is nothing of that sort up to the end, and where the file system cannot tell.
fn seek(file: BorrowedFd<'_>, position: u64, whence: Whence) -> io::Result<Option<u64>> {
    let Ok(position) = i64::try_from(position) else { return Ok(None) };
    match lseek(file, position, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekHole) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Make an extent a hole without a change of the size. Where the file system cannot punch, zeroes are written up
/// to the end of the file: the bytes are then right, the allocation is not.
pub(super) fn punch(file: BorrowedFd<'_>, extent: Extent) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EFBIG);
    let start = i64::try_from(extent.start).map_err(|_| invalid())?;
    let length = i64::try_from(extent.length()).map_err(|_| invalid())?;
    start.checked_add(length).ok_or_else(invalid)?;
    if length == 0 {
        return Ok(());
    }
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    loop {
        match fallocate(file.as_fd(), mode, start, length) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return write_zeroes(file, extent),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn write_zeroes(file: BorrowedFd<'_>, extent: Extent) -> io::Result<()> {
    let end = extent.end.min(Status::size_of(file)?);
    let mut position = extent.start;
    while position < end {
        let length = usize::try_from(end - position).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
        let offset = i64::try_from(position).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        match pwrite(file.as_fd(), &ZEROES[..length], offset) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            Ok(written) => position += written as u64,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_anywhere_is_not_zero() {
        for length in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "byte {at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn zeroes_are_written_up_to_the_end_only() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&[7; 100_000], 0).expect("write");
        write_zeroes(file.as_fd(), Extent { start: 10, end: 1 << 40 }).expect("zero");
        let mut bytes = vec![1; 100_001];
        assert_eq!(file.read_at(&mut bytes, 0).expect("read"), 100_000);
        assert!(bytes[..10].iter().all(|&b| b == 7) && is_zero(&bytes[10..100_000]));
    }
}
