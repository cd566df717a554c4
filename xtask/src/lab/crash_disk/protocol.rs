//! As much of the FUSE protocol (include/uapi/linux/fuse.h, version 7.31) as one file needs.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Mutex;

use super::{NAME, Shared, lock};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;

const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;
/// Bytes of struct fuse_write_in.
const WRITE_IN: usize = 40;
const WRITE_MAX: u32 = 1 << 20;
/// FUSE_ASYNC_READ, FUSE_BIG_WRITES, FUSE_MAX_PAGES.
const INIT_FLAGS: u32 = 1 | 1 << 5 | 1 << 22;
const ROOT: u64 = 1;

/// A request of the kernel.
struct Request<'a> {
    opcode: u32,
    unique: u64,
    node: u64,
    body: &'a [u8],
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// Answer until the file system is unmounted.
pub fn serve(device: &File, shared: &Mutex<Shared>) {
    let mut buffer = vec![0; WRITE_MAX as usize + (64 << 10)];
    loop {
        let length = match (&mut &*device).read(&mut buffer) {
            Ok(length) => length,
            // fuse(4): ENOENT for a request that was taken back, EINTR; ENODEV after the unmount.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => {
                continue;
            }
            Err(_) => return,
        };
        let bytes = &buffer[..length];
        let request = Request {
            opcode: number32(bytes, 4),
            unique: number64(bytes, 8),
            node: number64(bytes, 16),
            body: bytes.get(IN_HEADER..).unwrap_or_default(),
        };
        if matches!(request.opcode, FORGET | BATCH_FORGET | INTERRUPT) {
            continue;
        }
        let (error, body) = match answer(&request, shared) {
            Ok(body) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = Vec::with_capacity(OUT_HEADER + body.len());
        reply.extend_from_slice(&((OUT_HEADER + body.len()) as u32).to_ne_bytes());
        reply.extend_from_slice(&error.to_ne_bytes());
        reply.extend_from_slice(&request.unique.to_ne_bytes());
        reply.extend_from_slice(&body);
        // An answer nobody waits for any more is refused; there is nobody else to be told.
        let _ = (&mut &*device).write(&reply);
        if request.opcode == DESTROY {
            return;
        }
    }
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The body of the answer, or an errno.
fn answer(request: &Request, shared: &Mutex<Shared>) -> Result<Vec<u8>, i32> {
    let mut shared = lock(shared);
    let body = request.body;
    let disk = ROOT + 1 + shared.starts;
    // What is held open from before a power cut belongs to a machine that is off.
    let stale = request.node != ROOT && request.node != disk;
    match request.opcode {
        INIT => {
            let mut out = Vec::with_capacity(64);
            for number in [7, 31, number32(body, 8), INIT_FLAGS, 0, WRITE_MAX, 1, 256] {
                out.extend_from_slice(&number.to_ne_bytes());
            }
            out.resize(64, 0);
            Ok(out)
        }
        LOOKUP if body.split_last().is_some_and(|(_, name)| name == NAME.as_bytes()) => {
            let mut out = Vec::with_capacity(128);
            out.extend_from_slice(&disk.to_ne_bytes());
            out.resize(40, 0);
            out.extend_from_slice(&attributes(disk, shared.store.bytes()));
            Ok(out)
        }
        LOOKUP => Err(libc::ENOENT),
        GETATTR | SETATTR => {
            let mut out = vec![0; 16];
            out.extend_from_slice(&attributes(request.node, shared.store.bytes()));
            Ok(out)
        }
        OPEN => Ok(vec![0; 16]),
        STATFS => Ok(vec![0; 80]),
        RELEASE | FLUSH | DESTROY => Ok(Vec::new()),
        READ | WRITE | FSYNC if stale => Err(libc::EIO),
        READ => shared.store.read(number64(body, 8), number32(body, 16) as usize).map_err(errno),
        WRITE => {
            let size = number32(body, 16);
            let bytes = body.get(WRITE_IN..WRITE_IN + size as usize).ok_or(libc::EINVAL)?;
            shared.store.write(number64(body, 8), bytes).map_err(errno)?;
            Ok([size.to_ne_bytes(), [0; 4]].concat())
        }
        FSYNC => shared.store.flush().map(|()| Vec::new()).map_err(errno),
        _ => Err(libc::ENOSYS),
    }
}

/// struct fuse_attr, 88 bytes.
fn attributes(node: u64, bytes: u64) -> Vec<u8> {
    let (mode, size) = if node == ROOT { (libc::S_IFDIR | 0o755, 0) } else { (libc::S_IFREG | 0o600, bytes) };
    let mut out = Vec::with_capacity(88);
    for number in [node, size, size / 512, 0, 0, 0] {
        out.extend_from_slice(&number.to_ne_bytes());
    }
    for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend_from_slice(&number.to_ne_bytes());
    }
    out
}
