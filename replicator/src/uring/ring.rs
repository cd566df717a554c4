//! The ring: operations in, completions out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, squeue, types};

use super::buffer::{AppendBuffer, Buffer, Shared};
use super::operation::{Gather, Operation, Step, socket_has_more};
use super::probe::{self, UringError};
use super::waker::Waker;

/// Places that only sockets, polls and cancellations can take, so that a flood of file operations cannot keep the
/// connection from working.
const RESERVED: usize = 64;

/// How long a dropped ring waits for its operations to end, before it leaks their memory.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Wait before memory shortage in the kernel is tried again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);

/// The caller's number for an operation; comes back with its completion. The ring does not look at it, except to find
/// what is to be cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub u64);

/// As many operations are under way as the ring takes: try again after some have completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many operations under way")]
pub struct Full;

/// The end of one operation. Every operation that was accepted has exactly one, unless the ring is dropped.
#[derive(Debug)]
pub struct Completion {
    /// The caller's number.
    pub token: Token,
    /// Bytes read, written, sent or received; the events of a poll; zero for a sync. ECANCELED after [`Ring::cancel`].
    pub result: io::Result<usize>,
    /// The buffer of a read, as long as the bytes that were read; unspecified content on an error.
    pub buffer: Option<Buffer>,
    /// The buffer of a receive, with the received bytes added.
    pub received: Option<AppendBuffer>,
    /// After a receive: the kernel says that more is there already.
    pub more: bool,
}

struct Slot {
    /// Counts the uses of the slot, so that a completion can be told from one of an earlier use.
    generation: u32,
    token: Token,
    operation: Option<Operation>,
    /// Asked to be given up: it is not continued if the kernel did a part of it before.
    given_up: bool,
}

/// An io_uring and everything that is lent to the kernel through it.
///
/// It can be made in one thread and given to another. The thread that first waits is its thread from then on: in any
/// other one, waiting fails with EEXIST.
///
/// Dropping it cancels what is under way and waits a moment for the kernel to let go. What the kernel still holds then
/// (a read on a disk that does not answer) keeps its memory for the rest of the process: leaked, but never reused
/// under the kernel's hands.
pub struct Ring {
    ring: IoUring,
    setup: &'static str,
    enabled: bool,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Entries that found no place in the submission queue, in order.
    backlog: VecDeque<squeue::Entry>,
    waker: Waker,
    waker_armed: bool,
    /// Completions as the kernel wrote them, while they are worked off.
    reaped: Vec<(u64, i32, u32)>,
}

impl Ring {
    /// A ring whose submission queue has `entries` places (rounded up to a power of two). Up to twice as many file
    /// operations can be under way.
    ///
    /// # Errors
    /// [`UringError`]: io_uring is absent, forbidden or lacks a required part; or the system has no resources left.
    pub fn new(entries: u32) -> Result<Ring, UringError> {
        let (ring, setup) = probe::setup(entries.max(8))?;
        if let Some(missing) = probe::features(&ring, setup)?.missing() {
            return Err(UringError::Missing { name: missing.name, purpose: missing.purpose });
        }
        let waker =
            Waker::new().map_err(|source| UringError::System { operation: "make the eventfd of", source })?;
        let places = ring.params().cq_entries() as usize + RESERVED;
        let slots = (0..places)
            .map(|_| Slot { generation: 0, token: Token(0), operation: None, given_up: false })
            .collect();
        Ok(Ring {
            ring,
            setup,
            enabled: false,
            slots,
            free: (0..places as u32).rev().collect(),
            backlog: VecDeque::new(),
            waker,
            waker_armed: false,
            reaped: Vec::new(),
        })
    }

    /// How the ring was set up, see [`super::Features::setup`].
    #[must_use]
    pub fn setup(&self) -> &'static str {
        self.setup
    }

    /// A handle with which any thread makes [`Ring::wait`] return.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// How many file operations are accepted before [`Full`].
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len().saturating_sub(RESERVED)
    }

    /// Whether no operation at all is accepted, not even of a socket.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Number of operations under way (or queued), the ring's own among them.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Read `buffer.len()` bytes at `offset`. The result is smaller only if the file ends before: short reads are
    /// continued.
    ///
    /// # Errors
    /// [`Full`]; the buffer goes back to its pool.
    pub fn read(
        &mut self,
        file: Arc<OwnedFd>,
        offset: u64,
        buffer: Buffer,
        token: Token,
    ) -> Result<(), Full> {
        self.queue_file(token, Operation::Read { file, offset, buffer, done: 0 })
    }

    /// Write all of `bytes` at `offset`: short writes are continued. After an error an unknown part is written.
    ///
    /// # Errors
    /// [`Full`].
    pub fn write(
        &mut self,
        file: Arc<OwnedFd>,
        offset: u64,
        bytes: Shared,
        token: Token,
    ) -> Result<(), Full> {
        self.queue_file(token, Operation::Write { file, offset, bytes, done: 0 })
    }

    /// fdatasync(2) (`data_only`) or fsync(2). Covers what was *completed* before it was queued: operations of one ring
    /// run in any order.
    ///
    /// # Errors
    /// [`Full`].
    pub fn sync(&mut self, file: Arc<OwnedFd>, data_only: bool, token: Token) -> Result<(), Full> {
        self.queue_file(token, Operation::Sync { file, data_only })
    }

    /// Send all pieces, in order, on a connected blocking stream socket: short sends are continued. Empty pieces are
    /// allowed; no piece at all completes like any other, with zero. At most 1024 pieces (`IOV_MAX`).
    ///
    /// # Errors
    /// [`Full`].
    pub fn send(&mut self, socket: Arc<OwnedFd>, pieces: Vec<Shared>, token: Token) -> Result<(), Full> {
        self.queue(token, Operation::Send { socket, gather: Gather::new(pieces), done: 0 })
    }

    /// Receive once, at most `buffer.room()` bytes, from a connected blocking stream socket. A result of zero is the end
    /// of the stream. `poll_first`: nothing is expected to be there yet, so do not try before it is.
    ///
    /// # Errors
    /// The buffer comes back if the ring is full ([`Full`]).
    pub fn receive(
        &mut self,
        socket: Arc<OwnedFd>,
        buffer: AppendBuffer,
        poll_first: bool,
        token: Token,
    ) -> Result<(), AppendBuffer> {
        if self.free.is_empty() {
            return Err(buffer);
        }
        debug_assert!(buffer.room() > 0, "a receive without room looks like the end of the stream");
        // Free places were checked: it cannot be refused.
        self.queue(token, Operation::Receive { socket, buffer, poll_first }).unwrap_or_default();
        Ok(())
    }

    /// Complete once when one of the poll(2) `events` is there; the result is the events that are.
    ///
    /// # Errors
    /// [`Full`].
    pub fn poll(&mut self, file: Arc<OwnedFd>, events: i16, token: Token) -> Result<(), Full> {
        self.queue(token, Operation::Poll { file, events })
    }

    /// Ask the kernel to give up all operations with this token. Each still completes exactly once: with ECANCELED (then an
    /// unknown part of it was done), or as if nothing had been asked if it was too late.
    ///
    /// # Errors
    /// [`Full`]: some were not asked for.
    pub fn cancel(&mut self, token: Token) -> Result<(), Full> {
        let targets = self.give_up(|slot| {
            slot.token == token && slot.operation.as_ref().is_some_and(|operation| !operation.is_internal())
        });
        for target in targets {
            self.queue(token, Operation::Cancel { target })?;
        }
        Ok(())
    }

    /// Submit everything that is queued, wait until at least one operation has completed, or [`Waker::wake`] was called,
    /// or `timeout` is over (None: without limit), and add what has completed to `completions`. May return with
    /// nothing: the caller looks at its own queues and waits again.
    ///
    /// # Errors
    /// The ring cannot be used any more, or is used from a second thread (EEXIST).
    pub fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.enable()?;
        if !self.waker_armed {
            let wake = Operation::Wake { eventfd: self.waker.eventfd().clone(), word: Box::new([0; 8]) };
            self.waker_armed = self.queue(Token(0), wake).is_ok();
        }
        self.flush_backlog();
        let nothing_there = self.ring.completion().is_empty() && self.backlog.is_empty();
        let sleep =
            nothing_there && self.waker_armed && timeout != Some(Duration::ZERO) && self.waker.fall_asleep();
        let entered = self.enter(sleep, timeout);
        self.waker.awake();
        let some = self.reap(completions);
        match entered {
            Err(error) if is_shortage(&error) => {
                if some {
                    return Ok(());
                }
                self.wait_without_submitting(timeout.unwrap_or(SHORTAGE_PAUSE).min(SHORTAGE_PAUSE))?;
                self.reap(completions);
                Ok(())
            }
            other => other,
        }
    }

    /// Bind the ring to this thread, once.
    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    fn enter(&mut self, sleep: bool, timeout: Option<Duration>) -> io::Result<()> {
        let submission = self.ring.submission();
        let needed = sleep || !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if !needed {
            return Ok(());
        }
        let entered = match timeout {
            Some(timeout) if sleep => {
                let span = types::Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&span))
            }
            _ => self.ring.submitter().submit_and_wait(usize::from(sleep)),
        };
        ignore_interruption(entered)
    }

    /// Give the kernel time to finish something when it has no memory for more.
    fn wait_without_submitting(&mut self, timeout: Duration) -> io::Result<()> {
        let span = types::Timespec::from(timeout);
        let arguments = types::SubmitArgs::new().timespec(&span);
        let flags = io_uring::EnterFlags::GETEVENTS | io_uring::EnterFlags::EXT_ARG;
        // SAFETY: with EXT_ARG the argument is an io_uring_getevents_arg, which SubmitArgs is (transparently); it and the
        // timespec it points to outlive the call.
        let entered = unsafe { self.ring.submitter().enter(0, 1, flags.bits(), Some(&arguments)) };
        match ignore_interruption(entered) {
            Err(error) if is_shortage(&error) => Ok(()),
            other => other,
        }
    }

    fn queue_file(&mut self, token: Token, operation: Operation) -> Result<(), Full> {
        if self.room() == 0 {
            return Err(Full);
        }
        self.queue(token, operation)
    }

    fn queue(&mut self, token: Token, operation: Operation) -> Result<(), Full> {
        let index = self.free.pop().ok_or(Full)? as usize;
        let slot = &mut self.slots[index];
        slot.token = token;
        slot.operation = Some(operation);
        slot.given_up = false;
        self.submit(index);
        Ok(())
    }

    /// Queue the next step of the operation in this slot.
    fn submit(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(operation) = slot.operation.as_mut() else { return };
        let entry = operation.entry().user_data(user_data(index, slot.generation));
        self.backlog.push_back(entry);
        self.flush_backlog();
        if !self.backlog.is_empty() && self.enabled {
            // The queue is full: hand it over and go on. A failure here comes up again in `wait`.
            let _ = self.ring.submit();
            self.flush_backlog();
        }
    }

    fn flush_backlog(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whatever the entry points to belongs to the operation in its slot, lies on the heap, and stays there
            // until the kernel has completed it (or forever, see `Drop`). Its descriptor is kept open by the same slot.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Work off what the kernel has completed; says whether there was anything.
    fn reap(&mut self, completions: &mut Vec<Completion>) -> bool {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        let some = !reaped.is_empty();
        for (user_data, result, flags) in reaped.drain(..) {
            self.on_entry(user_data, result, flags, completions);
        }
        self.reaped = reaped;
        some
    }

    fn on_entry(&mut self, user_data: u64, result: i32, flags: u32, completions: &mut Vec<Completion>) {
        let (index, generation) = (user_data as u32 as usize, (user_data >> 32) as u32);
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.generation == generation) else {
            debug_assert!(false, "the kernel completes only what is under way");
            return;
        };
        let Some(operation) = slot.operation.as_mut() else { return };
        let result = match operation.on_result(result) {
            Step::Again if !slot.given_up => return self.submit(index),
            Step::Again => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            Step::Done(result) => result,
        };
        let token = slot.token;
        slot.generation = slot.generation.wrapping_add(1);
        let operation = slot.operation.take();
        self.free.push(index as u32);
        let Some(operation) = operation else { return };
        if matches!(operation, Operation::Wake { .. }) {
            self.waker_armed = false;
        }
        if operation.is_internal() {
            return;
        }
        let (buffer, received) = operation.into_memory();
        completions.push(Completion { token, result, buffer, received, more: socket_has_more(flags) });
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Entries that the kernel has not seen: their slots are simply freed.
        for entry in std::mem::take(&mut self.backlog) {
            if let Some(slot) = self.slots.get_mut(entry.get_user_data() as u32 as usize) {
                slot.operation = None;
            }
        }
        if self.enabled {
            self.drain(Instant::now() + DRAIN_LIMIT);
        }
        // Never enabled: the kernel took nothing, whatever is in the queue.
        let held = self.slots.iter().filter(|slot| slot.operation.is_some()).count();
        if self.enabled && held > 0 {
            tracing::warn!(operations = held, "the kernel holds on to operations; their memory is not freed");
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

impl Ring {
    /// Cancel everything and wait until the kernel has let go of it.
    fn drain(&mut self, deadline: Instant) {
        for target in self.give_up(|slot| slot.operation.is_some()) {
            // No place for the request: the operation ends by itself, or its memory is leaked.
            let _ = self.queue(Token(0), Operation::Cancel { target });
        }
        let mut completions = Vec::new();
        while self.slots.iter().any(|slot| slot.operation.is_some()) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            self.flush_backlog();
            let sleep = self.ring.completion().is_empty();
            if self.enter(sleep, Some(left)).is_err() && sleep {
                return;
            }
            self.reap(&mut completions);
            completions.clear();
        }
    }
}

impl Ring {
    /// Mark operations as given up; their user data.
    fn give_up(&mut self, which: impl Fn(&Slot) -> bool) -> Vec<u64> {
        let mut targets = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| which(slot)) {
            slot.given_up = true;
            targets.push(user_data(index, slot.generation));
        }
        targets
    }
}

fn user_data(index: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | index as u64
}

/// A wait that ended early or at its limit is no failure.
fn ignore_interruption(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The kernel has no memory for more operations now, or wants its completions to be taken first.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
}
