//! Commands to a driver (`IORING_OP_URING_CMD`): a ring of them, and the memory they lend.
//!
//! A command hands a [`Seat`] to the driver, which fills it when it has something to say and completes the command: the seat
//! comes back. What the driver does meanwhile is its own business; this module knows neither its numbers nor its structures.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::probe::{self, UringError};
use super::waker::Waker;

/// The ring's own operation: waiting for its eventfd.
const WAKE: u64 = u64::MAX;
/// Where `struct io_uring_sqe` has its length (include/uapi/linux/io_uring.h). The crate's command has none.
const LENGTH_OFFSET: usize = 24;
/// Places of the submission queue. More commands are handed over in several calls.
const QUEUE: u32 = 128;

/// Bytes of a command that are the driver's business (`IORING_SETUP_SQE128`).
pub const ARGUMENT_BYTES: usize = 80;

/// Memory that a driver reads and writes: a front part for what is structured, and a body. Page-aligned, zeroed at first, and not there
/// until it is touched.
pub struct Seat {
    start: NonNull<u8>,
    front: usize,
    body: usize,
    /// Both parts, as the driver is told of them.
    parts: Box<[libc::iovec; 2]>,
    number: u32,
}

// SAFETY: a seat is plain memory that only its owner reaches.
unsafe impl Send for Seat {}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Seat {
    /// Memory of whole pages for both parts, of which the driver is told `told` bytes of the front.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(number: u32, front: usize, told: usize, body: usize) -> io::Result<Seat> {
        debug_assert!(front.is_multiple_of(4096) && body.is_multiple_of(4096) && told <= front);
        let length = front + body;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping touches no memory that is in use.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Most uses touch the first page of each part: a huge page would take hundreds. Where that cannot be said it costs memory only.
        // SAFETY: the mapping was just made with this length.
        unsafe { libc::madvise(address, length, libc::MADV_NOHUGEPAGE) };
        let start =
            NonNull::new(address.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: the front lies inside of the mapping.
        let body_start = unsafe { start.as_ptr().add(front) };
        let parts = Box::new([
            libc::iovec { iov_base: start.as_ptr().cast(), iov_len: told },
            libc::iovec { iov_base: body_start.cast(), iov_len: body },
        ]);
        Ok(Seat { start, front, body, parts, number })
    }

    /// The number it was made with.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Both parts, the front first.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this length, is initialized (zero pages), and while the seat is here nobody else writes to it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.front + self.body) }
    }

    /// As [`Seat::bytes`], to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the seat is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.front + self.body) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing else refers to it: a seat that is lent is not dropped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.front + self.body) };
    }
}

/// A ring of commands to one driver. It belongs to one thread, which is the first that waits.
///
/// Dropping it while seats are lent leaks them: when the driver lets go of them is not known.
pub struct Commands {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    file: Arc<OwnedFd>,
    enabled: bool,
    waker: Waker,
    waker_armed: bool,
    /// What the eventfd's counter is read into.
    word: Box<[u8; 8]>,
    /// By the commands' number, while they are under way.
    lent: Vec<Option<Seat>>,
    free: Vec<u32>,
    /// What was not handed over yet.
    backlog: VecDeque<squeue::Entry128>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").field("lent", &self.lent()).finish_non_exhaustive()
    }
}

impl Commands {
    /// A ring for commands on this file.
    ///
    /// # Errors
    /// [`UringError`]: io_uring is absent, forbidden or too old for long commands; or the system has no resources left.
    pub fn new(file: Arc<OwnedFd>) -> Result<Commands, UringError> {
        let (ring, _) = probe::setup(QUEUE)?;
        let waker =
            Waker::new().map_err(|source| UringError::System { operation: "make the eventfd of", source })?;
        Ok(Commands {
            ring,
            file,
            enabled: false,
            waker,
            waker_armed: false,
            word: Box::default(),
            lent: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
        })
    }

    /// A handle with which any thread makes [`Commands::wait`] return.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// How many seats the driver has.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent.len() - self.free.len()
    }

    /// Give a command to the driver with the next [`Commands::wait`], and this seat with it.
    ///
    /// # Safety
    /// The driver must not touch the seat before the command is handed over nor after it has completed, and must touch no other
    /// memory of this process for this command.
    pub unsafe fn submit(&mut self, command: u32, arguments: [u8; ARGUMENT_BYTES], seat: Seat) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.lent.push(None);
            self.lent.len() as u32 - 1
        });
        let entry = opcode::UringCmd80::new(types::Fd(self.file.as_raw_fd()), command)
            .cmd(arguments)
            .addr(Some(seat.parts.as_ptr() as u64))
            .build()
            .user_data(u64::from(place));
        let entry = with_length(entry, seat.parts.len() as u32);
        self.lent[place as usize] = Some(seat);
        self.backlog.push_back(entry);
    }

    /// Hand over what was submitted, wait until at least one command has completed or [`Commands::waker`] was used, and add what
    /// has completed to `completed`: the seats with the driver's word. May return with nothing.
    ///
    /// # Errors
    /// The ring cannot be used any more, or is used from a second thread (EEXIST).
    pub fn wait(&mut self, completed: &mut Vec<(Seat, io::Result<()>)>) -> io::Result<()> {
        self.enable()?;
        if !self.waker_armed {
            let eventfd = types::Fd(self.waker.eventfd().as_raw_fd());
            let read = opcode::Read::new(eventfd, self.word.as_mut_ptr(), self.word.len() as u32);
            self.backlog.push_back(read.build().user_data(WAKE).into());
            self.waker_armed = true;
        }
        self.fill();
        while !self.backlog.is_empty() {
            match self.ring.submit() {
                Err(error) if !is_passing(&error) => return Err(error),
                // What has completed may be in the way.
                Err(_) => break,
                Ok(_) => self.fill(),
            }
        }
        let idle = self.backlog.is_empty() && self.ring.completion().is_empty();
        let sleep = idle && self.waker.fall_asleep();
        let entered = self.ring.submit_and_wait(usize::from(sleep));
        self.waker.awake();
        self.reap(completed);
        match entered {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether everything that has completed was taken.
    #[must_use]
    pub fn is_drained(&mut self) -> bool {
        let submission = self.ring.submission();
        let pending = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        !pending && self.ring.completion().is_empty()
    }

    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    fn fill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the seat's memory and its description stay where they are until the command completes (or for ever, see
            // `Drop`), and so does the word; the descriptors are kept open by `self`. What the driver does is the promise of `submit`.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    fn reap(&mut self, completed: &mut Vec<(Seat, io::Result<()>)>) {
        for entry in self.ring.completion() {
            if entry.user_data() == WAKE {
                self.waker_armed = false;
                continue;
            }
            let place = entry.user_data() as usize;
            let Some(seat) = self.lent.get_mut(place).and_then(Option::take) else {
                debug_assert!(false, "the kernel completes only what is under way");
                continue;
            };
            self.free.push(place as u32);
            let result = entry.result();
            let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
            completed.push((seat, result));
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        if self.lent() > 0 {
            std::mem::forget(std::mem::take(&mut self.lent));
        }
        if self.waker_armed {
            std::mem::forget(std::mem::take(&mut self.word));
        }
    }
}

fn with_length(entry: squeue::Entry128, length: u32) -> squeue::Entry128 {
    const { assert!(size_of::<squeue::Entry128>() == 128) };
    // SAFETY: an entry is `repr(C)` of integers, 128 bytes without padding: any bytes are one.
    let mut bytes: [u8; 128] = unsafe { std::mem::transmute(entry) };
    bytes[LENGTH_OFFSET..LENGTH_OFFSET + 4].copy_from_slice(&length.to_ne_bytes());
    // SAFETY: as above.
    unsafe { std::mem::transmute(bytes) }
}

/// An interrupted wait, or a shortage of memory in the kernel: the next wait tries again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
}
