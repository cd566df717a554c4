//! Digests of a file's blocks: the payload of a `Digests` frame, made on one node and compared on the other.
//!
//! Layout: block size (u32, little-endian), then 16 bytes per block from the extent's start; the last block may be
//! short. A block's digest is BLAKE3, cut to 16 bytes, over its bytes followed by its holes (begin and end relative to
//! the block, u32 little-endian each), or sixteen zero bytes if all of it is a hole. So zeroes that are allocated on one
//! node only count as different, and a block without holes has the plain digest of its bytes.
//!
//! In the last, incomplete 4096 bytes of an extent no hole counts as one: it ends where the file does, and a punched hole
//! that ends within a file system's block leaves that block allocated.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::uio::pread;
use replicator_core::extent::Extent;

use super::holes::{holes_within, is_zero};
use super::status::Status;

/// Bytes of a file under one digest.
pub const BLOCK_BYTES: u32 = 64 << 10;
/// Bytes of one digest.
pub const DIGEST_BYTES: usize = 16;
/// Bytes before the first digest.
pub const PREFIX_BYTES: usize = 4;
/// Most blocks in one payload; a caller asks for less.
pub const BLOCKS_MAX: u64 = 65_536;

/// Holes behind the last multiple of this do not count.
const HOLE_UNIT_BYTES: u64 = 4096;

/// Block sizes a payload may name, in bytes: powers of two in this range.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=(16 << 20);

/// One digest.
pub(super) type Digest = [u8; DIGEST_BYTES];

/// A received payload, checked.
pub(super) struct Payload<'a> {
    /// Bytes under one digest.
    pub(super) block: u32,
    /// The digests.
    pub(super) digests: &'a [Digest],
}

impl<'a> Payload<'a> {
    /// Take a payload apart; `None` if it is not one about that extent.
    pub(super) fn parse(bytes: &'a [u8], extent: Extent) -> Option<Payload<'a>> {
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
        let block = u32::from_le_bytes(*prefix);
        if !block.is_power_of_two() || !BLOCK_SIZES.contains(&block) {
            return None;
        }
        let (digests, []) = rest.as_chunks::<DIGEST_BYTES>() else { return None };
        let expected = extent.length().div_ceil(u64::from(block));
        (expected == digests.len() as u64).then_some(Payload { block, digests })
    }
}

/// Digest what a file holds of an extent, and encode it. The extent that comes back ends where the file does: the rest
/// of what was asked is beyond its end.
///
/// # Errors
/// EFBIG for more than [`BLOCKS_MAX`] blocks; else what statx(2), lseek(2) or pread(2) return.
pub fn digests(file: BorrowedFd<'_>, extent: Extent) -> io::Result<(Vec<u8>, Extent)> {
    let (digests, extent) = digest_blocks(file, extent, BLOCK_BYTES, Holes::Count)?;
    Ok((encode(&digests, BLOCK_BYTES), extent))
}

/// Whether it matters what is allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holes {
    /// Zeroes that are allocated on one node only are a difference.
    Count,
    /// Bytes alone count: the block in which a hole ends may be allocated on either node.
    Ignore,
}

/// Digests of nothing but the bytes, with blocks of another size in bytes: a power of two, from 4 KiB on. A block of zeroes has
/// sixteen zero bytes, and every other the plain digest of its bytes.
///
/// # Errors
/// As [`digests`].
pub(super) fn digests_by(file: BorrowedFd<'_>, extent: Extent, block: u32) -> io::Result<(Vec<u8>, Extent)> {
    let (digests, extent) = digest_blocks(file, extent, block, Holes::Ignore)?;
    Ok((encode(&digests, block), extent))
}

fn encode(digests: &[Digest], block: u32) -> Vec<u8> {
    let mut payload = Vec::with_capacity(PREFIX_BYTES + digests.len() * DIGEST_BYTES);
    payload.extend_from_slice(&block.to_le_bytes());
    payload.extend_from_slice(digests.as_flattened());
    payload
}

/// How many bytes were read for a payload: all but blocks that are holes, or zeroes.
pub(super) fn bytes_read(payload: &[u8], extent: Extent, block: u32) -> u64 {
    let digests = payload.get(PREFIX_BYTES..).unwrap_or_default().chunks(DIGEST_BYTES);
    let holes = digests.filter(|digest| digest.iter().all(|byte| *byte == 0)).count() as u64;
    extent.length().saturating_sub(holes * u64::from(block))
}

/// The digests of an extent's blocks, and the part of the extent that the file has.
pub(super) fn digest_blocks(
    file: BorrowedFd<'_>,
    extent: Extent,
    block: u32,
    allocated: Holes,
) -> io::Result<(Vec<Digest>, Extent)> {
    let size = Status::size_of(file)?;
    let mut asked = Extent { start: extent.start, end: extent.end.min(size).max(extent.start) };
    let count = asked.length().div_ceil(u64::from(block));
    if count > BLOCKS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let holes = holes_within(file, Extent { end: asked.end - asked.end % HOLE_UNIT_BYTES, ..asked })?;
    let mut holes = holes.as_slice();
    let mut digests = Vec::with_capacity(count as usize);
    let mut buffer = vec![0; asked.length().min(u64::from(block)) as usize];
    while asked.start + digests.len() as u64 * u64::from(block) < asked.end {
        let start = asked.start + digests.len() as u64 * u64::from(block);
        let range = Extent { start, end: asked.end.min(start + u64::from(block)) };
        while let [first, rest @ ..] = holes
            && first.end <= range.start
        {
            holes = rest;
        }
        if holes.first().is_some_and(|hole| hole.start <= range.start && hole.end >= range.end) {
            digests.push([0; DIGEST_BYTES]);
            continue;
        }
        let wanted = &mut buffer[..range.length() as usize];
        let read = read_full(file, wanted, range.start)?;
        if read > 0 {
            let bytes = &wanted[..read];
            digests.push(match allocated {
                Holes::Count => digest(bytes, range.start, holes),
                Holes::Ignore if is_zero(bytes) => [0; DIGEST_BYTES],
                Holes::Ignore => digest(bytes, range.start, &[]),
            });
        }
        if read < wanted.len() {
            // The file was cut meanwhile.
            asked.end = range.start + read as u64;
        }
    }
    Ok((digests, asked))
}

/// The digest of one block's bytes at `start`; of `holes` (ascending) only those within count.
fn digest(bytes: &[u8], start: u64, holes: &[Extent]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes);
    let end = start + bytes.len() as u64;
    for hole in holes.iter().take_while(|hole| hole.start < end) {
        let (from, to) = (hole.start.max(start) - start, hole.end.min(end) - start);
        hasher.update(&(from as u32).to_le_bytes());
        hasher.update(&(to as u32).to_le_bytes());
    }
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..DIGEST_BYTES]);
    digest
}

/// Read until the buffer is full or the file ends; how much was read.
pub(super) fn read_full(file: BorrowedFd<'_>, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let offset = i64::try_from(position + done as u64)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        match pread(file.as_fd(), &mut buffer[done..], offset) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}
