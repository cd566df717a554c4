//! Bytes from one open file into another without passing through this process; where the source refuses that (EINVAL), as callers
//! do it: by reading.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::OFlag;

use super::operation::Copying;

/// What a new pipe holds (pipe(7)).
const PIPE_BYTES: u64 = 64 << 10;

/// Copy, and return how much it was.
///
/// # Errors
/// Of the first call that fails.
pub fn copy(how: Copying, from: (&File, u64), to: (&File, u64), length: u64) -> io::Result<u64> {
    match how {
        Copying::Range => range(from, to, length),
        // A target that appends refuses it everywhere.
        Copying::Send if appends(to.0)? => send(from, to, length),
        Copying::Send => {
            send(from, to, length).or_else(|error| refused(error).and_then(|()| splice(from, to, length)))
        }
        Copying::Splice => splice(from, to, length),
    }
}

fn range((from, from_at): (&File, u64), (to, to_at): (&File, u64), length: u64) -> io::Result<u64> {
    let (mut one, mut other) = (from_at as i64, to_at as i64);
    let (from, to, length) = (from.as_raw_fd(), to.as_raw_fd(), length as usize);
    // SAFETY: both offsets outlive the call.
    count(unsafe { libc::copy_file_range(from, &raw mut one, to, &raw mut other, length, 0) })
}

/// sendfile(2) may send less than it is asked for: until all is sent, or the file ends.
fn send((from, from_at): (&File, u64), (to, to_at): (&File, u64), length: u64) -> io::Result<u64> {
    // SAFETY: takes no memory.
    count(unsafe { libc::lseek(to.as_raw_fd(), to_at as i64, libc::SEEK_SET) } as isize)?;
    let mut at = from_at as i64;
    until(length, |left, _| {
        // SAFETY: the offset outlives the call.
        count(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), &raw mut at, left as usize) })
    })
}

fn splice((from, from_at): (&File, u64), (to, to_at): (&File, u64), length: u64) -> io::Result<u64> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    until(length, |left, done| {
        let at = from_at + done;
        let filled = move_to_pipe(from, at, &writer, left)
            .or_else(|error| refused(error).and_then(|()| read_to_pipe(from, at, &writer, left)))?;
        let at = to_at + done;
        until(filled, |left, done| move_from_pipe(&reader, to, at + done, left))
    })
}

fn move_to_pipe(from: &File, at: u64, pipe: &OwnedFd, length: u64) -> io::Result<u64> {
    let (mut at, none) = (at as i64, std::ptr::null_mut());
    let (from, pipe, length) = (from.as_raw_fd(), pipe.as_raw_fd(), length as usize);
    // SAFETY: the offset outlives the call.
    count(unsafe { libc::splice(from, &raw mut at, pipe, none, length, 0) })
}

fn read_to_pipe(from: &File, at: u64, pipe: &OwnedFd, length: u64) -> io::Result<u64> {
    let mut bytes = vec![0; length.min(PIPE_BYTES) as usize];
    let read = from.read_at(&mut bytes, at)?;
    Ok(nix::unistd::write(pipe, &bytes[..read])? as u64)
}

fn move_from_pipe(pipe: &OwnedFd, to: &File, at: u64, length: u64) -> io::Result<u64> {
    let (mut at, none) = (at as i64, std::ptr::null_mut());
    let (to, pipe, length) = (to.as_raw_fd(), pipe.as_raw_fd(), length as usize);
    // SAFETY: the offset outlives the call.
    count(unsafe { libc::splice(pipe, none, to, &raw mut at, length, 0) })
}

/// Repeat a call, given what is left and what is done, until all of `length` is done or nothing more comes.
fn until(length: u64, mut call: impl FnMut(u64, u64) -> io::Result<u64>) -> io::Result<u64> {
    let mut done = 0;
    while done < length {
        match call(length - done, done)? {
            0 => break,
            more => done += more,
        }
    }
    Ok(done)
}

fn count(result: isize) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether the kernel cannot do it for these files; else the error.
fn refused(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) }
}

fn appends(file: &File) -> io::Result<bool> {
    let flags = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL)?;
    Ok(OFlag::from_bits_retain(flags).contains(OFlag::O_APPEND))
}
