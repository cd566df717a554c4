//! The conversation with the kernel: agreement at the start, then readers that take requests until the mount is gone.

use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use replicator_core::ids::Errno;

use super::abi::{
    InHeader, InitIn, InitInOld, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, OLDEST_MINOR_VERSION, Plain,
    WriteIn, init, opcode,
};
use super::counters::count;
use super::credentials::Identity;
use super::device::{Delivery, Device};
use super::operations;
use super::request;
use super::server::{Aside, Context, Held, Outcome, ReplyBuffer, Server, Undo};

/// Largest WRITE and READ.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Pages of one request.
pub const PAGES_MAX: u16 = 256;
/// Requests the kernel sends without waiting: asynchronous direct I/O, releases, read-ahead.
const BACKGROUND_MAX: u16 = 256;
/// Room for the largest request: header, structure and data of a WRITE, in whole pages.
pub const REQUEST_BYTES_MAX: usize =
    (size_of::<InHeader>() + size_of::<WriteIn>() + TRANSFER_BYTES_MAX as usize).next_multiple_of(4096);
/// Failed reads of the device in a row after which a reader gives up.
const FAILED_READS_MAX: u32 = 100;

/// What is asked for where the kernel offers it. No writeback cache: it excludes passthrough. Not truncation as a part of
/// OPEN (ATOMIC_O_TRUNC): the kernel finds out only after OPEN that a program is running and must not be truncated.
const WANTED: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::HAS_IOCTL_DIR
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::POSIX_ACL
    | init::ABORT_ERROR
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::INIT_EXT
    | init::HAS_EXPIRE_ONLY
    | init::DIRECT_IO_ALLOW_MMAP
    | init::HAS_RESEND;

/// What both sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The kernel's minor protocol version (the major one is 7).
    pub minor: u32,
    /// Feature bits the kernel offers.
    pub offered: u64,
    /// Feature bits in force.
    pub flags: u64,
    /// The kernel reads and writes backing files itself.
    pub passthrough: bool,
    /// Requests come over io_uring once its queues are registered.
    pub io_uring: bool,
    /// SETXATTR has its longer structure.
    pub extended_setxattr: bool,
}

/// Why the conversation did not begin.
#[derive(Debug, thiserror::Error)]
pub enum NegotiationError {
    /// Reading or answering failed.
    #[error("cannot talk to the kernel's FUSE: {0}")]
    Device(#[source] io::Error),
    /// The first request is not what it must be.
    #[error("the kernel's first FUSE request is not INIT")]
    NotInit,
    /// The kernel is too old.
    #[error(
        "the kernel speaks FUSE {major}.{minor}; 7.{OLDEST_MINOR_VERSION} (Linux 5.4) is the oldest this gate can serve"
    )]
    #[allow(missing_docs)]
    TooOld { major: u32, minor: u32 },
}

/// What a gate may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// The kernel reads and writes backing files itself.
    pub passthrough: bool,
    /// Requests come over io_uring. Who asks for it has to register queues: callers wait until then.
    pub io_uring: bool,
}

/// Answer the kernel's INIT.
///
/// # Errors
/// [`NegotiationError`].
pub fn negotiate(device: &Device, wishes: Wishes) -> Result<Negotiated, NegotiationError> {
    let mut buffer = vec![MaybeUninit::uninit(); REQUEST_BYTES_MAX];
    let request = loop {
        match device.read(&mut buffer) {
            Ok(request) => break request,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(NegotiationError::Device(error)),
        }
    };
    let header = InHeader::read(request).ok_or(NegotiationError::NotInit)?;
    if header.opcode != opcode::INIT {
        return Err(NegotiationError::NotInit);
    }
    let body = request.get(size_of::<InHeader>()..).unwrap_or_default();
    let offer = InitIn::read(body)
        .or_else(|| {
            let old = InitInOld::read(body)?;
            let InitInOld { major, minor, max_readahead, flags } = old;
            Some(InitIn { major, minor, max_readahead, flags, ..InitIn::default() })
        })
        .ok_or(NegotiationError::NotInit)?;
    if offer.major != KERNEL_VERSION || offer.minor < OLDEST_MINOR_VERSION {
        device.refuse(header.unique, Errno(libc::EPROTO));
        return Err(NegotiationError::TooOld { major: offer.major, minor: offer.minor });
    }
    let (negotiated, answer) = agree(&offer, wishes);
    match device.answer(header.unique, &[answer.bytes()]) {
        Delivery::Taken => Ok(negotiated),
        Delivery::Unwanted => Err(NegotiationError::Device(io::Error::from_raw_os_error(libc::ECONNABORTED))),
    }
}

fn agree(offer: &InitIn, wishes: Wishes) -> (Negotiated, InitOut) {
    let second = if u64::from(offer.flags) & init::INIT_EXT != 0 { offer.flags2 } else { 0 };
    let offered = u64::from(offer.flags) | u64::from(second) << 32;
    let mut wanted = WANTED;
    if wishes.passthrough {
        wanted |= init::PASSTHROUGH;
    }
    if wishes.io_uring {
        wanted |= init::OVER_IO_URING;
    }
    let flags = offered & wanted;
    let negotiated = Negotiated {
        minor: offer.minor,
        offered,
        flags,
        passthrough: flags & init::PASSTHROUGH != 0,
        io_uring: flags & init::OVER_IO_URING != 0,
        extended_setxattr: flags & init::SETXATTR_EXT != 0,
    };
    let answer = InitOut {
        major: KERNEL_VERSION,
        minor: KERNEL_MINOR_VERSION,
        max_readahead: offer.max_readahead,
        flags: flags as u32,
        max_background: BACKGROUND_MAX,
        congestion_threshold: BACKGROUND_MAX / 4 * 3,
        max_write: TRANSFER_BYTES_MAX,
        time_gran: 1,
        max_pages: PAGES_MAX,
        flags2: (flags >> 32) as u32,
        // One level: the backing file system must not be stacked itself.
        max_stack_depth: u32::from(negotiated.passthrough),
        ..InitOut::default()
    };
    (negotiated, answer)
}

/// Why a reader ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The mount is gone.
    Unmounted,
    /// The connection was aborted, or the device cannot be read.
    Aborted,
    /// An operation panicked: nothing more may be served.
    Panicked,
}

/// Serve requests until the connection ends.
pub fn serve(server: &Arc<Server>, identity: &mut Identity) -> End {
    let mut buffer = vec![MaybeUninit::uninit(); REQUEST_BYTES_MAX];
    let mut reply = ReplyBuffer::new(REQUEST_BYTES_MAX);
    let mut failed = 0;
    loop {
        match server.device.read(&mut buffer) {
            Ok(request) => {
                failed = 0;
                if !answer(server, identity, &mut reply, request) {
                    return End::Panicked;
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => {}
                Some(libc::ENODEV) => return End::Unmounted,
                Some(libc::ECONNABORTED) => return End::Aborted,
                _ if failed < FAILED_READS_MAX => failed += 1,
                _ => {
                    tracing::error!(%error, "the FUSE device cannot be read");
                    return End::Aborted;
                }
            },
        }
    }
}

/// Take one request apart, serve it, answer it. False if that panicked.
fn answer(server: &Arc<Server>, identity: &mut Identity, reply: &mut ReplyBuffer, bytes: &[u8]) -> bool {
    let Processed { unique, end } = process(server, identity, reply, bytes);
    match end {
        Ending::Reply(undo) => deliver(server, unique, reply.body(), undo),
        Ending::Refused(errno) => {
            if unique != 0 {
                server.device.refuse(unique, errno);
            }
        }
        Ending::Silent => {}
        Ending::Held(held) => {
            return server.hold(held, move |server, result| match result {
                Ok(body) => deliver(server, unique, body, Undo::Nothing),
                Err(errno) => server.device.refuse(unique, errno),
            });
        }
        Ending::Aside(work) => work.start(server, move |server, result| match result {
            Ok(body) => deliver(server, unique, body, Undo::Nothing),
            Err(errno) => server.device.refuse(unique, errno),
        }),
        Ending::Panicked => {
            if unique != 0 {
                server.device.refuse(unique, Errno(libc::EIO));
            }
            return false;
        }
    }
    true
}

fn deliver(server: &Server, unique: u64, body: &[u8], undo: Undo) {
    if server.device.answer(unique, &[body]) == Delivery::Unwanted {
        count(&server.counters.unwanted);
        server.undo(undo);
    }
}

/// A request that was served.
#[derive(Debug)]
pub struct Processed {
    /// Its number; 0: nobody waits for an answer.
    pub unique: u64,
    /// How it ended.
    pub end: Ending,
}

/// How a request ended.
#[derive(Debug)]
pub enum Ending {
    /// What is in the reply buffer is the answer.
    Reply(Undo),
    /// An error is the answer.
    Refused(Errno),
    /// There is none.
    Silent,
    /// It comes later.
    Held(Held),
    /// It comes when this is done.
    Aside(Aside),
    /// The operation panicked, which was noted.
    Panicked,
}

/// Take one request apart and serve it, however it came and its answer goes.
pub fn process(
    server: &Arc<Server>,
    identity: &mut Identity,
    reply: &mut ReplyBuffer,
    bytes: &[u8],
) -> Processed {
    let (header, request) = match request::parse(bytes, server.negotiated.extended_setxattr) {
        Ok(parsed) => parsed,
        Err(malformed) => {
            count(&server.counters.malformed);
            tracing::warn!(%malformed, length = bytes.len(), "the kernel sent what this gate cannot read");
            let unique = malformed.unique.unwrap_or_default();
            return Processed { unique, end: Ending::Refused(Errno(libc::EIO)) };
        }
    };
    server.counters.request(header.opcode, &request);
    server.waiting.begins();
    reply.clear();
    let unique = header.unique;
    let served = catch_unwind(AssertUnwindSafe(|| {
        operations::serve(&mut Context { server, identity, reply, header }, &request)
    }));
    let end = match served {
        Ok(Ok(Outcome::Reply(undo))) => Ending::Reply(undo),
        Ok(Ok(Outcome::Silent)) => Ending::Silent,
        Ok(Ok(Outcome::Held(held))) => Ending::Held(held),
        Ok(Ok(Outcome::Aside(work))) => Ending::Aside(work),
        Ok(Err(refusal)) => {
            count(&server.counters.refused);
            Ending::Refused(refusal.0)
        }
        Err(_) => {
            server.failed.store(true, Ordering::Release);
            Ending::Panicked
        }
    };
    Processed { unique, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH: Wishes = Wishes { passthrough: true, io_uring: false };
    const WITHOUT: Wishes = Wishes { passthrough: false, io_uring: false };

    fn offer(flags: u64) -> InitIn {
        InitIn { major: 7, minor: 45, flags: flags as u32, flags2: (flags >> 32) as u32, ..InitIn::default() }
    }

    #[test]
    fn passthrough_needs_both_sides_and_its_depth() {
        let offered = init::INIT_EXT | init::PASSTHROUGH | init::POSIX_ACL;
        let (negotiated, answer) = agree(&offer(offered), WITH);
        assert!(negotiated.passthrough);
        assert_eq!(answer.max_stack_depth, 1);
        assert_eq!(u64::from(answer.flags) | u64::from(answer.flags2) << 32, offered);
        let (negotiated, answer) = agree(&offer(offered), WITHOUT);
        assert!(!negotiated.passthrough);
        assert_eq!((answer.max_stack_depth, answer.flags2), (0, 0));
        assert_ne!(negotiated.offered & init::PASSTHROUGH, 0, "what is offered is shown all the same");
    }

    /// Who agreed to io_uring and does not register queues would let everybody wait.
    #[test]
    fn io_uring_is_agreed_to_only_if_wished_for() {
        let offered = init::INIT_EXT | init::OVER_IO_URING;
        assert!(!agree(&offer(offered), WITH).0.io_uring);
        let wishes = Wishes { io_uring: true, ..WITH };
        let (negotiated, answer) = agree(&offer(offered), wishes);
        assert!(negotiated.io_uring);
        assert_eq!(u64::from(answer.flags2) << 32, init::OVER_IO_URING);
        assert!(!agree(&offer(init::INIT_EXT), wishes).0.io_uring);
    }

    /// Without INIT_EXT the second word is not part of the offer.
    #[test]
    fn an_old_kernels_second_word_is_nothing() {
        let (negotiated, answer) = agree(&offer(init::PASSTHROUGH | init::ASYNC_DIO), WITH);
        assert!(!negotiated.passthrough);
        assert_eq!((negotiated.flags, answer.flags2), (init::ASYNC_DIO, 0));
    }

    #[test]
    fn nothing_is_asked_that_is_not_offered() {
        let (negotiated, answer) = agree(&offer(0), WITH);
        assert_eq!((negotiated.flags, answer.flags, answer.flags2), (0, 0, 0));
        assert!(!negotiated.extended_setxattr);
    }
}
