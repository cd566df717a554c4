//! Bytes that come through the daemon: handles opened O_DIRECT, O_SYNC, O_DSYNC, and all of them without passthrough.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::stat::fstat;
use replicator_core::event::SyncScope;
use replicator_core::extent::Extent;

use super::super::abi::{
    CopyFileRangeIn, CopyFileRangeOut, FallocateIn, LseekIn, LseekOut, Plain, READ_LOCKOWNER, ReadIn,
    WRITE_CACHE, WRITE_KILL_SUIDGID, WriteIn, WriteOut,
};
use super::super::counters::count;
use super::super::handles::OpenFile;
use super::super::inodes::OpenMode;
use super::super::server::{Answer, Context, Held, Outcome, REPLY, Refusal};

/// Longest copy in one go: a reader is busy meanwhile. The caller gets a short count and asks for the rest.
const COPY_BYTES_MAX: u64 = 128 << 20;

fn offset(value: u64) -> Result<i64, Refusal> {
    i64::try_from(value).map_err(|_| Refusal::errno(libc::EINVAL))
}

pub fn read(context: &mut Context<'_>, input: &ReadIn) -> Answer {
    let open = context.server.handles.file(input.fh)?;
    let position = offset(input.offset)?;
    if fills_unwatched_pages(&open, input) {
        return Err(Refusal::errno(libc::EINVAL));
    }
    let mut filled = 0;
    let wanted = input.size as usize;
    // The kernel takes a short answer for the end of the file.
    while filled < wanted {
        let room = context.reply.room(wanted - filled);
        if room.is_empty() {
            break;
        }
        match nix::sys::uio::pread(&*open.file, room, position.saturating_add(filled as i64)) {
            Ok(0) => break,
            Ok(length) => {
                context.reply.commit(length);
                filled += length;
            }
            Err(nix::Error::EINTR) => {}
            Err(_) if filled > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    REPLY
}

/// Whether the kernel reads into the page cache of a file whose other handles and mappings go past it. It does so for splice
/// and sendfile from a direct handle ("fuse: use copy_splice_read for FOPEN_DIRECT_IO" mends it), and would show what it
/// kept to the next such call, whatever was written since. These calls may be refused: then callers read.
fn fills_unwatched_pages(open: &OpenFile, input: &ReadIn) -> bool {
    open.direct
        && input.read_flags & READ_LOCKOWNER == 0
        && matches!(open.inode.opens().mode, OpenMode::Passthrough(_))
}

pub fn write(context: &mut Context<'_>, input: &WriteIn, data: &[u8]) -> Answer {
    let server = context.server;
    let open = server.handles.file(input.fh)?;
    let position = offset(input.offset)?;
    if input.write_flags & WRITE_CACHE != 0 {
        context.identity.root()?;
    } else {
        context.identity.act_as(context.caller(), input.write_flags & WRITE_KILL_SUIDGID == 0)?;
    }
    let (length, failure) = write_all(&open.file, data, position);
    // All that was asked for, even if less or nothing is said to be done: what a failing disk did is not known.
    let extent = written_extent(&open, input.offset, data.len() as u64);
    server.sink.written(server.file(&open.inode), extent);
    if open.inode.is_privileged() {
        note_set_ids(context, &open);
    }
    if length == 0
        && let Some(errno) = failure
    {
        return Err(errno.into());
    }
    let answer = WriteOut { size: length as u32, padding: 0 };
    if length > 0 && is_promise(&open, input) {
        // A cached handle's WRITE is followed by an FSYNC of the kernel's own: that one is held.
        let data_only = input.flags as i32 & libc::O_SYNC != libc::O_SYNC;
        let scope = SyncScope::File { file: server.file(&open.inode), data_only };
        count(&server.counters.synchronous_writes);
        return Ok(Outcome::Held(Held {
            scope,
            backing: Arc::clone(&open.file),
            body: answer.bytes().to_vec(),
        }));
    }
    context.reply.put(&answer);
    REPLY
}

/// Whether the completion of this write promises durability by itself.
fn is_promise(open: &OpenFile, input: &WriteIn) -> bool {
    // Stores that leave the kernel's cache are no write of anybody's: who syncs them sends an FSYNC.
    let by_file = open.synchronous && input.write_flags & WRITE_CACHE == 0;
    open.direct && (by_file || is_synchronous(input))
}

/// The kernel sets the flag for O_SYNC and O_DSYNC descriptors and for single RWF_SYNC and RWF_DSYNC writes alike.
fn is_synchronous(input: &WriteIn) -> bool {
    input.flags as i32 & libc::O_DSYNC != 0
}

/// Write all of it, or as much as the file system takes, and why not more.
fn write_all(file: &OwnedFd, data: &[u8], position: i64) -> (usize, Option<nix::Error>) {
    let mut written = 0;
    while let Some(rest) = data.get(written..)
        && !rest.is_empty()
    {
        match nix::sys::uio::pwrite(file, rest, position.saturating_add(written as i64)) {
            Ok(0) => return (written, Some(nix::Error::EIO)),
            Ok(length) => written += length,
            Err(nix::Error::EINTR) => {}
            Err(errno) => return (written, Some(errno)),
        }
    }
    (written, None)
}

/// Where the bytes are now: where the kernel said, unless the descriptor appends.
fn written_extent(open: &OpenFile, start: u64, length: u64) -> Extent {
    if !open.appends {
        return Extent::at(start, length);
    }
    let end = fstat(&*open.file).map_or(Extent::END, |stat| stat.st_size as u64);
    Extent { start: start.min(end.saturating_sub(length)), end: end.max(start.saturating_add(length)) }
}

/// A write may have cleared set-id bits.
fn note_set_ids(context: &Context<'_>, open: &OpenFile) {
    let server = context.server;
    if let Ok(stat) = fstat(&*open.file) {
        open.inode.note_mode(stat.st_mode);
    }
    if !open.inode.is_privileged() {
        server.sink.attributes(server.file(&open.inode));
    }
}

pub fn fallocate(context: &mut Context<'_>, input: &FallocateIn) -> Answer {
    let server = context.server;
    let open = server.handles.file(input.fh)?;
    let (start, length) = (offset(input.offset)?, offset(input.length)?);
    let mode = input.mode as i32;
    context.identity.act_as(context.caller(), false)?;
    let flags = nix::fcntl::FallocateFlags::from_bits_retain(mode);
    let result = nix::fcntl::fallocate(&*open.file, flags, start, length);
    let moves = libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE;
    let extent = if mode & moves != 0 {
        Extent { start: input.offset, end: Extent::END }
    } else {
        Extent::at(input.offset, input.length)
    };
    // Reported even if it failed: a part may have been done.
    server.sink.written(server.file(&open.inode), extent);
    if open.inode.is_privileged() {
        note_set_ids(context, &open);
    }
    server.outdate(open.inode.node);
    result?;
    REPLY
}

pub fn lseek(context: &mut Context<'_>, input: &LseekIn) -> Answer {
    let open = context.server.handles.file(input.fh)?;
    let whence = match input.whence as i32 {
        libc::SEEK_DATA => nix::unistd::Whence::SeekData,
        libc::SEEK_HOLE => nix::unistd::Whence::SeekHole,
        libc::SEEK_END => nix::unistd::Whence::SeekEnd,
        libc::SEEK_SET => nix::unistd::Whence::SeekSet,
        _ => return Err(Refusal::errno(libc::EINVAL)),
    };
    let found = nix::unistd::lseek(&*open.file, input.offset as i64, whence)?;
    context.reply.put(&LseekOut { offset: found as u64 });
    REPLY
}

pub fn copy_file_range(context: &mut Context<'_>, input: &CopyFileRangeIn, wide: bool) -> Answer {
    let server = context.server;
    let (from, to) = (server.handles.file(input.fh_in)?, server.handles.file(input.fh_out)?);
    if input.flags != 0 {
        return Err(Refusal::errno(libc::EINVAL));
    }
    let (mut from_offset, mut to_offset) = (offset(input.off_in)?, offset(input.off_out)?);
    let wanted = input.len.min(COPY_BYTES_MAX) as usize;
    context.identity.act_as(context.caller(), false)?;
    // SAFETY: both offsets outlive the call.
    let result = unsafe {
        libc::copy_file_range(
            from.file.as_raw_fd(),
            &raw mut from_offset,
            to.file.as_raw_fd(),
            &raw mut to_offset,
            wanted,
            0,
        )
    };
    let result = usize::try_from(result).map_err(|_| std::io::Error::last_os_error());
    let done = result.as_ref().map_or(wanted as u64, |length| *length as u64);
    server.sink.written(server.file(&to.inode), Extent::at(input.off_out, done));
    if to.inode.is_privileged() {
        note_set_ids(context, &to);
    }
    let length = result?;
    if wide {
        context.reply.put(&CopyFileRangeOut { bytes_copied: length as u64 });
    } else {
        context.reply.put(&WriteOut { size: length as u32, padding: 0 });
    }
    REPLY
}
