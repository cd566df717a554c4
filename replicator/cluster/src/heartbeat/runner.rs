//! The thread: waits, receives, tells the time, sends. Nothing is decided here, nothing is logged, and no disk is touched.

use std::array;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::config::PATHS_MAX;
use super::event::Event;
use super::keys::Key;
use super::privilege::{Capabilities, lock_memory, prefer_this_thread};
use super::pulse::{Input, Output, Pulse};
use super::snapshot::Snapshot;
use super::socket::PathSocket;
use super::wire::{DATAGRAM_MAX, PIECES_MAX};

/// Datagrams that are taken from a socket before the time is looked at.
const DRAIN_MAX: usize = 256;
/// How long a socket that had more than those, or an error, must wait: no flood is to keep the processor.
const CROWDED_PAUSE: Duration = Duration::from_millis(1);

/// What others leave for the thread.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) payload: Option<Vec<u8>>,
    pub(super) key: Option<Key>,
    pub(super) stop: bool,
}

/// What the thread shares with others. It never waits for a lock: who puts mail in wakes it *after* unlocking, and a snapshot that is
/// being read is written next time.
pub(super) struct Shared {
    pub(super) mail: Mutex<Mail>,
    pub(super) snapshot: Mutex<Snapshot>,
    pub(super) wake: EventFd,
}

fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Time since the machine started, its sleep included: an interruption is to be seen.
pub(super) fn clock() -> Duration {
    // This clock exists since Linux 2.6.39. Without it, time would stand, and the peer would find this node dead.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Owner of the logic and the sockets.
pub(super) struct Runner<'a, E> {
    pub(super) pulse: Box<Pulse>,
    pub(super) sockets: Vec<PathSocket>,
    pub(super) shared: &'a Shared,
    pub(super) events: E,
    out: Vec<Output>,
    buffer: Box<[u8]>,
}

impl<'a, E: Fn(Event)> Runner<'a, E> {
    pub(super) fn new(
        pulse: Pulse,
        sockets: Vec<PathSocket>,
        shared: &'a Shared,
        events: E,
    ) -> Runner<'a, E> {
        // As many as there can be at one moment, and one byte more than the longest datagram, to see a longer one.
        let out = Vec::with_capacity((PIECES_MAX * PATHS_MAX).max(64) + 2 * PATHS_MAX);
        let buffer = vec![0; DATAGRAM_MAX + 1].into_boxed_slice();
        Runner { pulse: Box::new(pulse), sockets, shared, events, out, buffer }
    }

    /// Make the calling thread one that is not kept from its work. From then on there is a snapshot.
    pub(super) fn prepare(&self) -> Capabilities {
        if let Some(mut snapshot) = try_lock(&self.shared.snapshot) {
            self.pulse.snapshot(&mut snapshot);
        }
        let [pulse, paths, assembly, rounds] = self.pulse.places();
        let memory = lock_memory(&[
            pulse,
            paths,
            assembly,
            rounds,
            (std::ptr::from_ref(self.shared).cast(), size_of::<Shared>()),
            (self.out.as_ptr().cast(), self.out.capacity() * size_of::<Output>()),
            (self.buffer.as_ptr(), self.buffer.len()),
        ]);
        Capabilities { memory, scheduling: prefer_this_thread() }
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut crowded = false;
        self.pulse.begin(clock());
        loop {
            self.wait(crowded);
            let stop = self.take_mail();
            crowded = self.receive();
            if clock() >= self.pulse.next_deadline() {
                self.handle(Input::Time);
            }
            if stop {
                return self.handle(Input::Finish);
            }
            if let Some(mut snapshot) = try_lock(&self.shared.snapshot) {
                self.pulse.snapshot(&mut snapshot);
            }
        }
    }

    fn wait(&self, crowded: bool) {
        let until = self.pulse.next_deadline().saturating_sub(clock());
        let (polled, timeout) =
            if crowded { (1, until.min(CROWDED_PAUSE)) } else { (1 + self.sockets.len(), until) };
        let mut polls: [PollFd<'_>; 1 + PATHS_MAX] = array::from_fn(|index| {
            let socket = index.checked_sub(1).and_then(|index| self.sockets.get(index));
            PollFd::new(socket.map_or(self.shared.wake.as_fd(), PathSocket::as_fd), PollFlags::POLLIN)
        });
        let polls = polls.get_mut(..polled).unwrap_or_default();
        // An error is an interruption, or the lack of memory for a moment: what there is to do is looked for in any case.
        if ppoll(polls, Some(TimeSpec::from_duration(timeout)), None).is_err() {
            std::thread::sleep(CROWDED_PAUSE);
        }
    }

    /// Returns whether this is the end.
    fn take_mail(&mut self) -> bool {
        // Empties the counter, or says that it is empty.
        let _ = self.shared.wake.read();
        let Some(mut mail) = try_lock(&self.shared.mail) else { return false };
        let Mail { payload, key, stop } = &mut *mail;
        let (payload, key, stop) = (payload.take(), key.take(), *stop);
        drop(mail);
        if let Some(key) = key {
            self.handle(Input::Rekey(&key));
        }
        if let Some(payload) = payload {
            self.handle(Input::Publish(payload));
        }
        stop
    }

    /// Take what has come. Returns whether there may be more than should be taken now.
    fn receive(&mut self) -> bool {
        let mut crowded = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        for path in 0..self.sockets.len() {
            let mut left = DRAIN_MAX;
            while let Some(socket) = self.sockets.get(path) {
                match socket.receive(&mut buffer) {
                    Ok(bytes) => self.handle(Input::Datagram { path, bytes }),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => left = 1,
                }
                left -= 1;
                if left == 0 {
                    crowded = true;
                    break;
                }
            }
        }
        self.buffer = buffer;
        crowded
    }

    fn handle(&mut self, input: Input<'_>) {
        self.pulse.handle(clock(), input, &mut self.out);
        for output in self.out.drain(..) {
            match output {
                Output::Event(event) => (self.events)(event),
                Output::Send { path, datagram } => {
                    let sent =
                        self.sockets.get(path).is_some_and(|socket| socket.send(datagram.bytes()).is_ok());
                    if !sent {
                        self.pulse.count_send_failure(path);
                    }
                }
            }
        }
    }
}
