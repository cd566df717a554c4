//! One operation: what the kernel is asked, what it is lent for it, and what its answer means.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{cqueue, opcode, squeue, types};

use super::buffer::{AppendBuffer, Buffer, Shared};

/// Largest length of one read, write or send (`MAX_RW_COUNT`, linux/fs.h); the rest is a further step.
const STEP_MAX: usize = 0x7fff_f000;

/// Try the socket only once it is readable (`IORING_RECVSEND_POLL_FIRST`, linux/io_uring.h; since Linux 5.19).
const POLL_FIRST: u16 = 1;

/// Everything the kernel may touch until the completion. All of it lies on the heap: moving an `Operation` moves none of
/// the memory whose address the kernel has.
pub(super) enum Operation {
    /// The ring's own read of its eventfd.
    Wake {
        eventfd: Arc<OwnedFd>,
        word: Box<[u8; 8]>,
    },
    /// The ring's own request to give up another operation, by its user data.
    Cancel {
        target: u64,
    },
    Poll {
        file: Arc<OwnedFd>,
        events: i16,
    },
    Read {
        file: Arc<OwnedFd>,
        offset: u64,
        buffer: Buffer,
        done: usize,
    },
    Write {
        file: Arc<OwnedFd>,
        offset: u64,
        bytes: Shared,
        done: usize,
    },
    Sync {
        file: Arc<OwnedFd>,
        data_only: bool,
    },
    Send {
        socket: Arc<OwnedFd>,
        gather: Box<Gather>,
        done: usize,
    },
    Receive {
        socket: Arc<OwnedFd>,
        buffer: AppendBuffer,
        poll_first: bool,
    },
}

/// The pieces of one send, and their description for the kernel.
pub(super) struct Gather {
    pieces: Vec<Shared>,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
    /// First piece that is not sent completely.
    next: usize,
}

// SAFETY: the pointers in `vectors` and `header` point to memory that `pieces` and `vectors` own; nobody uses them but the
// kernel, which does not mind the thread.
unsafe impl Send for Gather {}

impl Gather {
    pub(super) fn new(pieces: Vec<Shared>) -> Box<Gather> {
        let vectors = pieces
            .iter()
            .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
            .collect();
        // SAFETY: all fields of msghdr are integers and pointers, for which zero is a value.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Gather { pieces, vectors, header, next: 0 })
    }

    /// Let the header describe what is left. Only between two steps: the kernel does not look then.
    fn describe(&mut self) {
        let rest = &mut self.vectors[self.next..];
        self.header.msg_iov = rest.as_mut_ptr();
        self.header.msg_iovlen = rest.len() as _;
    }

    /// So many further bytes were sent.
    fn advance(&mut self, mut sent: usize) {
        while let Some(vector) = self.vectors.get_mut(self.next) {
            if sent < vector.iov_len {
                // SAFETY: stays within the piece, by the comparison.
                vector.iov_base = unsafe { vector.iov_base.cast::<u8>().add(sent).cast() };
                vector.iov_len -= sent;
                return;
            }
            sent -= vector.iov_len;
            self.next += 1;
        }
    }

    fn length(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }
}

/// What a completion means for the operation.
pub(super) enum Step {
    /// It goes on: submit it again.
    Again,
    /// It is over, with this result.
    Done(io::Result<usize>),
}

/// The position `done` bytes behind `offset`. One that no file can have becomes the largest, which the kernel refuses
/// with an errno: beyond it lies -1, "the descriptor's own position", which would put a peer's bytes in a wrong place.
fn position(offset: u64, done: usize) -> u64 {
    offset.saturating_add(done as u64).min(i64::MAX.cast_unsigned())
}

fn fd(file: &Arc<OwnedFd>) -> types::Fd {
    types::Fd(file.as_raw_fd())
}

impl Operation {
    /// The submission of the next step.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        match self {
            Operation::Wake { eventfd, word } => {
                opcode::Read::new(fd(eventfd), word.as_mut_ptr(), word.len() as u32).build()
            }
            Operation::Cancel { target } => opcode::AsyncCancel::new(*target).build(),
            Operation::Poll { file, events } => {
                opcode::PollAdd::new(fd(file), u32::from(events.cast_unsigned())).build()
            }
            Operation::Read { file, offset, buffer, done } => {
                let left = (buffer.len() - *done).min(STEP_MAX);
                let target = buffer.pointer().wrapping_add(*done);
                opcode::Read::new(fd(file), target, left as u32).offset(position(*offset, *done)).build()
            }
            Operation::Write { file, offset, bytes, done } => {
                let left = (bytes.len() - *done).min(STEP_MAX);
                let source = bytes.as_ptr().wrapping_add(*done);
                opcode::Write::new(fd(file), source, left as u32).offset(position(*offset, *done)).build()
            }
            Operation::Sync { file, data_only } => {
                let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(fd(file)).flags(flags).build()
            }
            Operation::Send { socket, gather, .. } => {
                // MSG_WAITALL: the kernel goes on by itself after a short send, as far as it knows how.
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                match &gather.vectors[gather.next..] {
                    [only] => {
                        let length = only.iov_len.min(STEP_MAX) as u32;
                        opcode::Send::new(fd(socket), only.iov_base.cast(), length).flags(flags).build()
                    }
                    _ => {
                        gather.describe();
                        opcode::SendMsg::new(fd(socket), &raw const gather.header)
                            .flags(flags.cast_unsigned())
                            .build()
                    }
                }
            }
            Operation::Receive { socket, buffer, poll_first } => {
                let length = buffer.room().min(STEP_MAX) as u32;
                let ioprio = if *poll_first { POLL_FIRST } else { 0 };
                opcode::Recv::new(fd(socket), buffer.tail(), length).ioprio(ioprio).build()
            }
        }
    }

    /// Take the result of a step: a count, or a negative errno.
    pub(super) fn on_result(&mut self, result: i32) -> Step {
        let Ok(count) = usize::try_from(result) else {
            if result == -libc::EINTR || (result == -libc::EAGAIN && self.is_socket()) {
                return Step::Again;
            }
            return Step::Done(Err(io::Error::from_raw_os_error(-result)));
        };
        match self {
            Operation::Wake { .. }
            | Operation::Cancel { .. }
            | Operation::Poll { .. }
            | Operation::Sync { .. } => Step::Done(Ok(count)),
            Operation::Read { buffer, done, .. } => {
                *done += count;
                // Only a read of nothing is the end of the file: a short one may have other causes.
                if count > 0 && *done < buffer.len() {
                    return Step::Again;
                }
                buffer.set_length(*done);
                Step::Done(Ok(*done))
            }
            Operation::Write { bytes, done, .. } => {
                *done += count;
                if *done >= bytes.len() {
                    return Step::Done(Ok(*done));
                }
                if count == 0 {
                    return Step::Done(Err(io::ErrorKind::WriteZero.into()));
                }
                Step::Again
            }
            Operation::Send { gather, done, .. } => {
                *done += count;
                gather.advance(count);
                if *done >= gather.length() {
                    return Step::Done(Ok(*done));
                }
                if count == 0 {
                    return Step::Done(Err(io::ErrorKind::WriteZero.into()));
                }
                Step::Again
            }
            Operation::Receive { buffer, .. } => {
                buffer.advance(count);
                Step::Done(Ok(count))
            }
        }
    }

    /// Whether the ring itself asked for it: nobody waits for its completion.
    pub(super) fn is_internal(&self) -> bool {
        matches!(self, Operation::Wake { .. } | Operation::Cancel { .. })
    }

    fn is_socket(&self) -> bool {
        matches!(self, Operation::Send { .. } | Operation::Receive { .. })
    }

    /// The memory that goes back to the caller.
    pub(super) fn into_memory(self) -> (Option<Buffer>, Option<AppendBuffer>) {
        match self {
            Operation::Read { buffer, .. } => (Some(buffer), None),
            Operation::Receive { buffer, .. } => (None, Some(buffer)),
            _ => (None, None),
        }
    }
}

/// Whether the socket has more to receive, as far as the kernel says (`IORING_CQE_F_SOCK_NONEMPTY`, since Linux 5.19).
pub(super) fn socket_has_more(flags: u32) -> bool {
    cqueue::sock_nonempty(flags)
}
