//! FUSE over io_uring: a processor's queue of requests, and its thread.
//!
//! The kernel puts a request into a free [`Place`] of the queue that belongs to the processor it is made on, and wakes that queue's
//! thread there: no other processor is woken, and taking the next request is one system call with answering the last one. FORGET,
//! INTERRUPT and notifications still go through /dev/fuse (fs/fuse/dev_uring.c).
//!
//! ```text
//!            register                    a request                  answer
//!  new place ----------> with the kernel ----------> with the gate ---------> with the kernel
//!                                                     |        ^
//!                                                     `--------'  held callers, bytes moved by workers: answered by the port
//! ```
//!
//! **Places never run out.** The kernel lets a request wait where there is no free place, and no kind of request is exempt: a thousand
//! held fsyncs must not keep a lookup waiting. So [`FREE_PLACES`] are with the kernel whenever the thread sleeps, and each one
//! that stays with the gate is made up for. Still, more requests than that can come before the thread runs, and the kernel looks at who
//! waits only when a place comes *back*, not when one is new. Where that is possible (see [`Doubt`]) the thread has the kernel send a
//! request that is answered at once, until a place came back and nobody was waiting.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use replicator_core::ids::{Errno, FileKind};

use super::abi::{RING_COMMIT_AND_FETCH, RING_REGISTER, ROOT_NODE, opcode};
use super::credentials::Identity;
use super::place::Place;
use super::server::{ReplyBuffer, Server};
use super::session::{Ending, Processed, REQUEST_BYTES_MAX, process};
use crate::uring::{Commands, Seat, Waker};

/// Places with the kernel whenever the thread sleeps. Each costs address space for the largest request, and memory for what was used
/// of it: two pages for most.
const FREE_PLACES: usize = 64;
/// Numbers of the requests that the gate itself provokes: the kernel's own count from one.
const PROVOKED: u64 = 1 << 63;
/// A WRITE above that is left to a worker.
const INLINE_BYTES_MAX: u32 = 64 << 10;

/// Where answers are handed back to a queue's thread.
#[derive(Debug)]
pub struct Port {
    answered: Mutex<Vec<Place>>,
    waker: Waker,
    closed: AtomicBool,
}

impl Port {
    /// The connection is over: the thread ends as soon as the kernel has let go of all places.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn put(&self, place: Place) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        self.waker.wake();
    }

    fn take(&self) -> Vec<Place> {
        std::mem::take(&mut *self.answered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request that a worker serves: it moves bytes, and may wait for a disk.
#[derive(Debug)]
pub struct Job {
    place: Place,
    port: Arc<Port>,
}

/// Whether somebody may wait in the kernel although there are free places.
///
/// Before the thread slept there were [`FREE_PLACES`] free ones. The kernel can have run out of them only if it handed out as many
/// until the thread saw them all, which is three rounds: those taken from the kernel and not made up for yet, those that came, and
/// those given out that come in the next round.
#[derive(Debug, Default)]
struct Doubt {
    rounds: [usize; 3],
    raised: bool,
    /// A request was provoked and has not come.
    provoked: bool,
}

impl Doubt {
    /// A round is over: so many requests came, and so many answers had been handed over before. `drained`: no more has come.
    fn round(&mut self, came: usize, answered: usize, drained: bool) {
        // Each answer takes the next request along if there is one.
        if drained && came < answered {
            self.raised = false;
        }
        self.rounds = [self.rounds[1], self.rounds[2], came];
        if self.rounds.iter().sum::<usize>() >= FREE_PLACES {
            self.raised = true;
        }
    }
}

/// One processor's queue. Made in one thread, run in its own.
#[derive(Debug)]
pub struct Queue {
    number: u16,
    commands: Commands,
    port: Arc<Port>,
    places: u32,
    /// Places with requests that are answered later, and the nodes these are about.
    out: HashMap<u32, u64>,
    /// Answers that go to the kernel with the next call.
    answered: usize,
    doubt: Doubt,
    /// The kernel takes no more places.
    ending: bool,
    /// It refused a new one just now.
    refused: bool,
    jobs: mpsc::Sender<Job>,
}

/// Who serves a thread's requests.
struct Servant<'a> {
    server: &'a Arc<Server>,
    identity: &'a mut Identity,
    reply: ReplyBuffer,
}

/// How a place comes back.
enum Served {
    Now(Place),
    ByPort,
    /// With its answer, if that was not given away; nothing more may be served.
    Panicked(Option<Place>),
}

impl Servant<'_> {
    fn serve(&mut self, mut place: Place, port: &Arc<Port>) -> Served {
        let unique = place.header().unique;
        let Processed { end, .. } = process(self.server, self.identity, &mut self.reply, place.request());
        match end {
            // Whether the kernel took the answer is not told. It refuses one only after the connection's end, when all is closed.
            Ending::Reply(_) => place.answer(unique, Ok(self.reply.body())),
            Ending::Silent => place.answer(unique, Ok(&[])),
            Ending::Refused(errno) => place.answer(unique, Err(errno)),
            Ending::Held(held) => {
                let port = Arc::clone(port);
                let handed_on = self.server.hold(held, move |_, result| {
                    place.answer(unique, result);
                    port.put(place);
                });
                return if handed_on { Served::ByPort } else { Served::Panicked(None) };
            }
            Ending::Aside(work) => {
                let port = Arc::clone(port);
                work.start(self.server, move |_, result| {
                    place.answer(unique, result);
                    port.put(place);
                });
                return Served::ByPort;
            }
            Ending::Panicked => {
                place.answer(unique, Err(Errno(libc::EIO)));
                return Served::Panicked(Some(place));
            }
        }
        Served::Now(place)
    }
}

/// How a queue's or a worker's thread ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The connection is over.
    Over,
    /// The ring broke.
    Broken,
}

impl Queue {
    /// The queue of a processor.
    #[must_use]
    pub fn new(number: u16, commands: Commands, jobs: mpsc::Sender<Job>) -> Queue {
        let port =
            Port { answered: Mutex::default(), waker: commands.waker(), closed: AtomicBool::new(false) };
        Queue {
            number,
            commands,
            port: Arc::new(port),
            places: 0,
            out: HashMap::new(),
            answered: 0,
            doubt: Doubt::default(),
            ending: false,
            refused: false,
            jobs,
        }
    }

    /// Where answers are handed back.
    #[must_use]
    pub fn port(&self) -> Arc<Port> {
        Arc::clone(&self.port)
    }

    /// Register the first places. The kernel uses the queues when each has some.
    ///
    /// # Errors
    /// What the kernel says; it goes on without queues then.
    pub fn register(&mut self) -> io::Result<()> {
        self.replenish();
        let mut completed = Vec::new();
        // Returns at once.
        self.port.waker.wake();
        self.commands.wait(&mut completed)?;
        for (seat, result) in completed {
            drop(seat);
            result?;
        }
        if self.commands.lent() < FREE_PLACES {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        Ok(())
    }

    /// Serve until the connection ends. `cut_off` is called if an operation panics: it must end the connection, in another thread, since
    /// the kernel waits for this one then.
    pub fn run(mut self, server: &Arc<Server>, identity: &mut Identity, cut_off: impl Fn()) -> End {
        let mut servant = Servant { server, identity, reply: ReplyBuffer::new(REQUEST_BYTES_MAX) };
        let mut completed = Vec::new();
        loop {
            if let Err(error) = self.commands.wait(&mut completed) {
                tracing::error!(%error, "the io_uring of a queue cannot be used");
                server.failed.store(true, Ordering::Release);
                return End::Broken;
            }
            let answered = std::mem::take(&mut self.answered);
            let mut came = 0;
            for (seat, result) in completed.drain(..) {
                match result {
                    Ok(()) => {
                        came += 1;
                        if !self.on_request(Place::from_seat(seat), &mut servant) {
                            cut_off();
                        }
                    }
                    Err(error) => self.on_end(seat, &error),
                }
            }
            self.doubt.round(came, answered, self.commands.is_drained());
            for place in self.port.take() {
                self.out.remove(&place.number());
                self.hand_back(place);
            }
            if self.port.closed.load(Ordering::Acquire) && self.commands.lent() == 0 {
                return End::Over;
            }
            self.refused &= came == 0;
            self.replenish();
            self.settle_doubt(server);
        }
    }

    /// False if that panicked.
    fn on_request(&mut self, mut place: Place, servant: &mut Servant<'_>) -> bool {
        let header = place.header();
        if header.opcode == opcode::NOTIFY_REPLY {
            self.doubt.provoked = false;
            place.answer(header.unique, Ok(&[]));
            self.hand_back(place);
            return true;
        }
        let number = place.number();
        if moves_bytes(header.opcode, header.len) {
            self.out.insert(number, header.nodeid);
            if let Err(mpsc::SendError(job)) = self.jobs.send(Job { place, port: self.port() }) {
                // No worker is left: the gate is ending.
                let mut place = job.place;
                place.answer(header.unique, Err(Errno(libc::EIO)));
                self.port.put(place);
            }
            return true;
        }
        match servant.serve(place, &self.port) {
            Served::Now(place) => self.hand_back(place),
            Served::ByPort => drop(self.out.insert(number, header.nodeid)),
            Served::Panicked(place) => {
                match place {
                    Some(place) => self.hand_back(place),
                    None => drop(self.out.insert(number, header.nodeid)),
                }
                return false;
            }
        }
        true
    }

    /// The kernel lets go of a place, or does not take it.
    fn on_end(&mut self, seat: Seat, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED) => self.ending = true,
            _ => {
                self.refused = true;
                tracing::warn!(%error, queue = self.number, "the kernel does not take a place for requests");
                // Perhaps it was an answer, and the kernel has kept the address.
                std::mem::forget(seat);
            }
        }
    }

    fn hand_back(&mut self, place: Place) {
        self.answered += 1;
        self.submit(RING_COMMIT_AND_FETCH, place);
    }

    fn submit(&mut self, command: u32, place: Place) {
        let arguments = place.arguments(self.number);
        // SAFETY: the kernel copies to and from the registered parts only between a command with this place and its completion, in this
        // thread (fuse_uring_send_in_task, fuse_uring_commit): a place is told apart by the number of the request that lies in it.
        unsafe { self.commands.submit(command, arguments, place.into_seat()) };
    }

    /// New places for those that stay with the gate.
    fn replenish(&mut self) {
        while !self.ending && !self.refused && self.commands.lent() < FREE_PLACES {
            match Place::new(self.places) {
                Ok(place) => {
                    self.places = self.places.wrapping_add(1);
                    self.submit(RING_REGISTER, place);
                }
                Err(error) => {
                    tracing::warn!(%error, queue = self.number, "no memory for requests");
                    self.refused = true;
                }
            }
        }
    }

    /// While answers are on their way they take along who waits. Otherwise somebody has to.
    fn settle_doubt(&mut self, server: &Server) {
        let idle = self.answered == 0 && !self.out.is_empty();
        if !self.doubt.raised || self.doubt.provoked || !idle || self.ending {
            return;
        }
        let unique = PROVOKED | u64::from(self.number) << 32;
        let mut nodes = self.known_files(server).chain([ROOT_NODE]);
        let provoked = nodes.any(|node| server.device.provoke(node, unique).is_ok());
        drop(nodes);
        self.doubt.provoked = provoked;
        if !self.doubt.provoked {
            tracing::debug!(queue = self.number, "no request could be provoked");
        }
    }

    /// Regular files that the kernel knows: those somebody waits for, and those that are open.
    fn known_files<'a>(&'a self, server: &'a Server) -> impl Iterator<Item = u64> {
        const TRIES: usize = 8;
        let waiting = self
            .out
            .values()
            .copied()
            .filter(|node| server.inodes.get(*node).is_ok_and(|inode| inode.kind == FileKind::Regular));
        let open =
            || server.handles.files().into_iter().filter_map(|number| server.handles.file(number).ok());
        let open = std::iter::once_with(open).flatten().map(|open| open.inode.node);
        waiting.take(TRIES).chain(open.take(TRIES))
    }
}

/// What may take long, or moves many bytes, is not done by the thread of a queue: everybody on that processor would wait.
fn moves_bytes(kind: u32, length: u32) -> bool {
    match kind {
        opcode::READ | opcode::FALLOCATE | opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => true,
        opcode::WRITE => length > INLINE_BYTES_MAX,
        _ => false,
    }
}

/// Serve what queues leave to others, until all of them have ended.
pub fn work(
    jobs: &Mutex<mpsc::Receiver<Job>>,
    server: &Arc<Server>,
    identity: &mut Identity,
    cut_off: impl Fn(),
) {
    let mut servant = Servant { server, identity, reply: ReplyBuffer::new(REQUEST_BYTES_MAX) };
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { place, port }) = job else { return };
        match servant.serve(place, &port) {
            Served::Now(place) => port.put(place),
            Served::ByPort => {}
            Served::Panicked(place) => {
                place.into_iter().for_each(|place| port.put(place));
                cut_off();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_rises_when_all_places_can_have_been_given_out() {
        let mut doubt = Doubt::default();
        for came in [FREE_PLACES / 2, FREE_PLACES / 4, FREE_PLACES / 4 - 1] {
            doubt.round(came, 0, true);
            assert!(!doubt.raised);
        }
        doubt.round(FREE_PLACES / 2 + 1, 0, true);
        assert!(doubt.raised, "three rounds in a row count");
    }

    #[test]
    fn a_doubt_ends_when_an_answer_found_nobody_waiting() {
        let mut doubt = Doubt::default();
        doubt.round(FREE_PLACES, 0, true);
        doubt.round(0, 0, true);
        doubt.round(1, 1, true);
        assert!(doubt.raised, "each answer may have taken one along");
        doubt.round(0, 1, false);
        assert!(doubt.raised, "it may come yet");
        doubt.round(0, 1, true);
        assert!(!doubt.raised);
    }
}
