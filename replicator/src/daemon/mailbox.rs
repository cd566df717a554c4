//! The mailbox of a data-plane thread: how every other thread speaks to it.
//!
//! Order matters: messages are handled in the order in which they were posted, so that whoever holds the namespace
//! lock while posting decides the order of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::uring::Waker;

/// A queue with one reader that may sleep in its ring.
pub struct Mailbox<M> {
    queue: Mutex<Vec<M>>,
    pending: AtomicBool,
    closed: AtomicBool,
    waker: Waker,
}

impl<M> Mailbox<M> {
    /// An empty mailbox; `waker` ends the reader's sleep.
    pub fn new(waker: Waker) -> Mailbox<M> {
        Mailbox {
            queue: Mutex::new(Vec::new()),
            pending: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker,
        }
    }

    /// Post a message that may wait until the reader comes by (it does so at least every few milliseconds).
    pub fn post(&self, message: M) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            // What it holds is answered by being dropped.
            return;
        }
        queue.push(message);
        self.pending.store(true, Ordering::Release);
    }

    /// Post a message somebody waits for.
    pub fn post_urgent(&self, message: M) {
        self.post(message);
        self.wake();
    }

    /// Have the reader look now at what was posted.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Move everything posted so far into `into`, which must be empty. Costs one load when there is nothing.
    pub fn take(&self, into: &mut Vec<M>) {
        debug_assert!(into.is_empty());
        if !self.pending.load(Ordering::Acquire) {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.pending.store(false, Ordering::Release);
        std::mem::swap(&mut *queue, into);
    }

    /// Nobody reads any more: what is here and what comes is dropped, and so answers whoever waits for it.
    pub fn close(&self) {
        let left = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            self.closed.store(true, Ordering::Release);
            std::mem::take(&mut *queue)
        };
        drop(left);
    }
}
