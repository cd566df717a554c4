//! Waking a ring's thread from another one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The ring's thread runs and will look at its queues before it sleeps.
const AWAKE: u8 = 0;
/// The ring's thread sleeps in the kernel (or is about to): it needs the eventfd.
const ASLEEP: u8 = 1;
/// A wake-up is pending.
const NOTIFIED: u8 = 2;

/// Makes [`super::Ring::wait`] return, from any thread.
///
/// A wake-up is never lost: what a thread does before [`Waker::wake`] is seen by the ring's thread after the `wait` that
/// returns for it. Several wake-ups may become one.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<WakerShared>,
}

#[derive(Debug)]
struct WakerShared {
    state: AtomicU8,
    eventfd: Arc<OwnedFd>,
}

impl Waker {
    pub(super) fn new() -> io::Result<Waker> {
        // Blocking on purpose: io_uring answers EAGAIN at once on a non-blocking descriptor instead of waiting for it.
        // SAFETY: eventfd takes no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        let eventfd = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Waker { shared: Arc::new(WakerShared { state: AtomicU8::new(AWAKE), eventfd }) })
    }

    /// Make the ring's current or next `wait` return. A system call is made only if its thread sleeps and nobody has woken
    /// it yet.
    pub fn wake(&self) {
        if self.shared.state.swap(NOTIFIED, Ordering::AcqRel) != ASLEEP {
            return;
        }
        let one = 1u64.to_ne_bytes();
        loop {
            // SAFETY: `one` is 8 readable bytes, as an eventfd asks for.
            let written =
                unsafe { libc::write(self.shared.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            if written >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                // No other failure is possible: the counter cannot come near its limit, because it is written only
                // when the ring was asleep and is read back by the ring.
                return;
            }
        }
    }

    pub(super) fn eventfd(&self) -> &Arc<OwnedFd> {
        &self.shared.eventfd
    }

    /// The ring's thread wants to sleep: false if a wake-up is pending.
    pub(super) fn fall_asleep(&self) -> bool {
        self.shared.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The ring's thread runs again and is going to look at its queues: takes the pending wake-up.
    pub(super) fn awake(&self) {
        self.shared.state.swap(AWAKE, Ordering::AcqRel);
    }
}
