//! The heartbeat: does the other node live, does it hear this one, and what does it say?
//!
//! Both nodes send a small datagram over each network between them, every 250 ms and whenever one has something new to say. It says
//! who sends it, what the sender has heard on each path (so loss in one direction is seen by the other side), and carries what the
//! daemon publishes. A node is dead that was silent on all paths for twelve beats.
//!
//! The heartbeat has a thread of its own, with locked memory and real-time priority where that is granted. It touches no disk, writes no
//! log, and waits for no lock. Its logic is a state machine without sockets and clock, `Pulse`.
//!
//! # Whom to believe
//!
//! A datagram is authenticated before anything of it is looked at: a MAC by a key both nodes share, over the datagram and the
//! receiver's id. What has no valid MAC is counted, and changes nothing. That leaves recordings. Each node draws a random *session* at
//! its start, and has an *era* within it, which rises when it begins to believe another session of its peer. Each datagram says the
//! sender's session and era, what the sender has *heard* (session and era of the peer it believes), and may *answer* another session
//! which the sender does not believe yet.
//!
//! | a datagram of | says | is |
//! |---|---|---|
//! | the believed session | a number above the one with which the session was proven, not seen on this path | believed |
//! | the believed session | another number | a replay: counted |
//! | another session | in `heard` or `answer`: this node's session and current era | proof: that session is believed from now on, the era rises |
//! | another session | anything else | unproven: counted, and answered in the next datagrams |
//!
//! A session and its era were said by this node only after they began, so who repeats them is there *now*, and a recording of a former
//! session of either node proves nothing: it repeats another session or a former era. Datagrams of the believed session are new if
//! their number is higher than the one of the proof, since numbers only rise.
//!
//! ```text
//!   both start, or both restart at once        B goes on, A restarts (session a -> a')
//!
//!   A: believes none   B: believes none        A: believes none     B: believes a, era 1
//!      a,0 ------------->  answers a,0            a',0 ------------->  answers a',0
//!      <------------- b,0 answer a,0              <----- b,1 heard a,0 answer a',0
//!   believes b, era 1                          believes b, era 1
//!      a,1 heard b,0 --->                         a',1 heard b,1 --->
//!                      believes a, era 1                             believes a', era 2: NewSession
//! ```
//!
//! | state of a node | hears | does | is then |
//! |---|---|---|---|
//! | believes none | unproven session | answers at once | believes none |
//! | believes none | proof by session b | `PeerAlive`, says so at once | believes b, alive |
//! | believes b, alive | b, fresh | counts silence from zero | the same |
//! | believes b, alive | nothing for N own ticks | `PeerDead` | believes b, dead |
//! | believes b, dead | b, fresh | `PeerAlive` | believes b, alive |
//! | believes b, alive or dead | unproven session c | answers at once | the same |
//! | believes b, alive | proof by c | `NewSession` | believes c, alive |
//! | believes b, dead | proof by c | `NewSession`, `PeerAlive` | believes c, alive |
//! | any | garbage, stranger, wrong MAC, replay, own datagram | counts it | the same |
//!
//! Who sits on the network can hold datagrams back and let them through later, each once. That makes a node look alive for longer, which
//! takes nothing over; what it says is never replaced by something older.
//!
//! # Time
//!
//! Silence is counted in ticks that this node itself executed: a paused process finds nobody dead when it goes on. A node that
//! notices that it was not there tells [`Event::Late`] before anything else, and counts from zero. It notices by a tick that comes later
//! than half the time until death, by a clock that counts the machine's sleep; or, since the clock of a paused guest may show
//! nothing, by ticks of the peer that advanced by more than that beyond the own clock.
//!
//! Half the time until death, and not all of it: who was away for so long and comes back gives up its authority before the other node,
//! which counts the full time, takes it.

mod config;
mod error;
mod event;
mod keys;
mod pieces;
mod privilege;
mod pulse;
mod runner;
mod snapshot;
mod socket;
mod window;
mod wire;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::abort;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;

pub use config::{HeartbeatConfig, PATHS_MAX, Path, Preset};
pub use error::HeartbeatError;
pub use event::{Event, PathState};
#[cfg(test)]
pub(crate) use keys::Keyring;
pub use keys::{Key, KeyId};
pub use privilege::{Capabilities, Memory, Scheduling};
pub use snapshot::{PathCounters, PathSnapshot, Snapshot};
pub use wire::PAYLOAD_BYTES_MAX;

use crate::held::lock;
use pulse::Pulse;
use runner::{Mail, Runner, Shared, clock};
use socket::PathSocket;
use wire::Session;

const THREAD_STACK_BYTES: usize = 512 << 10;

/// A heartbeat that runs until it is dropped.
///
/// Dropping it sends what was published and not sent yet, and returns when the thread has ended: no event is told afterwards.
#[derive(Debug)]
pub struct Heartbeat {
    shared: Arc<Shared>,
    capabilities: Capabilities,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Begin to send and to listen. `events` is called by the heartbeat's thread and must not wait: no disk, no lock that is held for
    /// long, no full channel. If it panics the process is aborted, since a node that cannot know whether its peer lives must not go on.
    ///
    /// # Errors
    /// [`HeartbeatError::Config`], [`HeartbeatError::Socket`] or [`HeartbeatError::System`].
    pub fn start(
        config: HeartbeatConfig,
        events: impl Fn(Event) + Send + 'static,
    ) -> Result<Heartbeat, HeartbeatError> {
        config.validate()?;
        let sockets = config.paths.iter().map(PathSocket::open).collect::<Result<Vec<_>, _>>()?;
        let refused = |operation| move |source| HeartbeatError::System { operation, source };
        let session = draw_session().map_err(refused("draw a random session"))?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| refused("open an eventfd")(errno.into()))?;
        let shared = Arc::new(Shared { mail: Mutex::default(), snapshot: Mutex::default(), wake });
        let (report, reported) = sync_channel(1);
        let body = {
            let shared = Arc::clone(&shared);
            move || {
                // Signals are for others.
                let _ = SigSet::all().thread_block();
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    let pulse = Pulse::new(&config, session, clock());
                    let runner = Runner::new(pulse, sockets, &shared, events);
                    let _ = report.send(runner.prepare());
                    runner.run();
                }));
                if ended.is_err() {
                    abort();
                }
            }
        };
        let thread = thread::Builder::new().name("heartbeat".to_owned()).stack_size(THREAD_STACK_BYTES);
        let thread = thread.spawn(body).map_err(refused("start a thread"))?;
        let gone = |_| refused("start a thread")(io::Error::other("it ended at once"));
        let capabilities = reported.recv().map_err(gone)?;
        Ok(Heartbeat { shared, capabilities, thread: Some(thread) })
    }

    /// Say something new, on all paths, at once; several in quick succession are sent at most 50 times a second, the last one always.
    /// What was said before counts no more. The same again is not sent again.
    ///
    /// # Errors
    /// [`HeartbeatError::TooLong`] above [`PAYLOAD_BYTES_MAX`]: then this node goes on to say what it said.
    pub fn publish(&self, payload: Vec<u8>) -> Result<(), HeartbeatError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(HeartbeatError::TooLong { length: payload.len(), limit: PAYLOAD_BYTES_MAX });
        }
        self.post(|mail| mail.payload = Some(payload));
        Ok(())
    }

    /// Accept another key beside the one in use. It is used once the peer accepts it, too, and the old one is forgotten soon after that:
    /// until both nodes were told, [`Snapshot::key_changing`] is true and nothing is interrupted.
    pub fn rekey(&self, key: Key) {
        self.post(|mail| mail.key = Some(key));
    }

    /// What is known now. Never waits for the network.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.shared.snapshot).clone()
    }

    /// What the system has granted to the thread.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn post(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut lock(&self.shared.mail));
        // After the lock is free, since the thread does not wait for it. It fails only if the counter is full: then the thread wakes anyway.
        let _ = self.shared.wake.write(1);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.post(|mail| mail.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

fn draw_session() -> io::Result<Session> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    // Zero means none, and is as likely as guessing a key.
    Ok(Session(u128::from_le_bytes(bytes).max(1)))
}
