//! The register of a secondary: which file is the copy of which is on record before anything is confirmed ([`crate::storage::register`]).
//!
//! ```text
//!  Off --all is held, the map is whole--> Beginning --the log is there--> Begun --the map was copied--> Storing --the base is there--> On
//!   ^                                         ^                                                                                  |
//!   |                                         +---------------------------------- the log is nearly full ------------------------+
//!   +--- nothing is held, everything is compared, a write failed: made void ---- any
//! ```
//!
//! Each barrier has what changed in the map appended, beside the syncs of its files. One thread writes, and makes one append of all that wait for it.
//!
//! After a crash, a change time that is later than the node may have set itself is somebody else's. How late that may be is said before it comes, and renewed
//! while the node applies: durably for [`LEASE`], and in the page cache, which outlives a crash of the daemon alone, for [`MOMENT`]. What others change within
//! that time after a crash does not show by it.

mod scribe;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::time::ClockId;
use replicator_core::ids::{Errno, Sequence, SessionId};
use replicator_core::lineage::GenerationId;
use replicator_core::resume::StreamId;
use tracing::{debug, info, warn};

use self::scribe::{Job, Scribe};
use super::mailbox::Mailbox;
use super::message::Message;
use super::workers::Workers;
use crate::clock;
use crate::storage::register::{Base, Entry, Moment, RegisterDirectory};
use crate::storage::replica::Replica;
use crate::storage::succession::UNSURE;

/// So far ahead is on record that the node may change files.
const LEASE: Duration = Duration::from_secs(10);
/// It is renewed when less is left.
const LEASE_LEFT: Duration = Duration::from_secs(7);
/// So far ahead is written, and not synced, that it may.
const MOMENT: Duration = Duration::from_millis(20);
/// It is renewed when less is left.
pub const MOMENT_LEFT: Duration = Duration::from_millis(10);
/// After a failure it is begun anew no sooner.
const AGAIN: Duration = Duration::from_secs(10);

/// The stream that a later one may go on from, and the generation that the node's state has.
pub type Held = (StreamId, GenerationId);

/// Up to when the node may change its files, as the page cache has it. Whoever is about to change some says so first.
#[derive(Default)]
pub struct Vouched(Mutex<Option<(Moment, Instant)>>);

impl Vouched {
    /// Something is about to be changed, or may be, now.
    pub fn applies(&self, now: Instant) {
        let mut said = self.lock();
        let Some((moment, until)) = &mut *said else { return };
        if until.saturating_duration_since(now) < MOMENT_LEFT && moment.note(now_and(MOMENT)).is_ok() {
            *until = now + MOMENT;
        }
    }

    fn begin(&self, moment: Moment) {
        let now = Instant::now();
        *self.lock() = Some((moment, now));
        self.applies(now);
    }

    fn end(&self) -> Option<Moment> {
        self.lock().take().map(|(moment, _)| moment)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Moment, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Off,
    /// The log with the present number is being made.
    Beginning,
    /// It is there; the map is to be copied.
    Begun,
    /// The base is being written.
    Storing,
    /// A crash is followed by a comparison of little.
    On,
}

/// What the scribe and the workers tell.
#[derive(Debug)]
pub enum Told {
    /// The log with that number takes what comes from now on.
    Begun(u64),
    /// The base with that number is there.
    Stored(u64),
    /// It is time for the next log.
    NearlyFull(u64),
    /// What is on record is made void, because something could not be written.
    Lost(u64),
}

/// The data plane's part.
pub struct Registrar {
    /// `None`: this node keeps no register.
    keeper: Option<Keeper>,
    step: Step,
    /// A base may be there: what changes is to be on record.
    based: bool,
    /// It is there.
    stored: bool,
    /// Of the present log.
    number: u64,
    /// What is held, by the record.
    held: Held,
    /// Up to when the node may change its files, in nanoseconds since 1970, by the record.
    until: i64,
    /// The same, written and not synced.
    vouched: Arc<Vouched>,
    /// Appends that are not answered.
    pending: usize,
    /// When something could not be written.
    failed: Option<Instant>,
}

struct Keeper {
    directory: RegisterDirectory,
    identity: [u8; 32],
    replica: Arc<Replica>,
    mailbox: Arc<Mailbox<Message>>,
    scribe: Scribe,
}

impl Registrar {
    /// One that keeps nothing.
    pub fn none() -> Registrar {
        Registrar {
            keeper: None,
            step: Step::Off,
            based: false,
            stored: false,
            number: 0,
            held: Held::default(),
            until: 0,
            vouched: Arc::default(),
            pending: 0,
            failed: None,
        }
    }

    /// One that follows this replica. `identity`: what bases are for.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        directory: RegisterDirectory,
        identity: [u8; 32],
        replica: Arc<Replica>,
        mailbox: Arc<Mailbox<Message>>,
    ) -> io::Result<Registrar> {
        let scribe = Scribe::start(directory.clone(), Arc::clone(&mailbox))?;
        let keeper = Keeper { directory, identity, replica, mailbox, scribe };
        Ok(Registrar { keeper: Some(keeper), ..Registrar::none() })
    }

    /// Whether a crash is followed by a comparison of little.
    pub fn is_on(&self) -> bool {
        self.stored
    }

    /// Take the next step. `whole`: all of its trees is known. `applies`: something was applied a moment ago.
    pub fn follow(&mut self, held: Option<Held>, whole: bool, applies: bool, workers: &Workers) {
        let Some(keeper) = &self.keeper else { return };
        let rests = self.failed.is_some_and(|failed| failed.elapsed() < AGAIN);
        let Some(held) = held else {
            if !rests {
                // Tried again, if it fails.
                let _ = self.make_void();
            }
            return;
        };
        match self.step {
            Step::Off if whole && !rests => {
                self.number += 2;
                self.step = Step::Beginning;
                keeper.scribe.order(Job::Begin(self.number));
            }
            Step::Begun => {
                if let Some(entries) = keeper.replica.record() {
                    self.store(held, entries, workers);
                }
            }
            Step::Off | Step::Beginning | Step::Storing | Step::On => {}
        }
        if self.based && (self.held != held || applies && is_late(self.until)) {
            self.append(held, None);
        }
    }

    fn store(&mut self, held: Held, entries: Vec<Entry>, workers: &Workers) {
        let Some(keeper) = &self.keeper else { return };
        match keeper.directory.begin_moment() {
            Ok(moment) => self.vouched.begin(moment),
            Err(error) => {
                warn!(%error, "the register cannot be kept: after a crash everything is compared");
                return self.give_up();
            }
        }
        (self.step, self.based) = (Step::Storing, true);
        (self.held, self.until) = (held, now_and(LEASE));
        keeper.store(self.number, held, self.until, entries, workers);
    }

    /// For the thread that changes files.
    pub fn vouched(&self) -> Arc<Vouched> {
        Arc::clone(&self.vouched)
    }

    /// A barrier is to be answered. Whether something has to be on record before: [`Message::Recorded`] tells when it is.
    pub fn record(&mut self, held: Option<Held>, session: SessionId, barrier: Sequence) -> bool {
        held.is_some_and(|held| self.based && self.append(held, Some((session, barrier))))
    }

    /// Have all that changed appended. Whether there was anything, or is anything under way.
    fn append(&mut self, held: Held, told: Option<(SessionId, Sequence)>) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let mut entries = keeper.replica.take_news();
        if self.held != held {
            self.held = held;
            entries.extend([Entry::Stream(held.0), Entry::Generation(held.1)]);
        }
        if is_late(self.until) {
            self.until = now_and(LEASE);
            entries.push(Entry::Until(self.until));
        }
        let waits = !entries.is_empty() || self.pending > 0;
        if waits {
            self.pending += 1;
            keeper.scribe.order(Job::Append { entries, told });
        }
        waits
    }

    /// Nothing that is on record is to be gone on from.
    ///
    /// # Errors
    /// It may still be there.
    pub fn make_void(&mut self) -> Result<(), Errno> {
        let Some(keeper) = self.keeper.as_ref().filter(|_| self.step != Step::Off) else { return Ok(()) };
        keeper.replica.end_record();
        if let Err(error) = keeper.directory.make_void() {
            warn!(%error, "what is on record of the copy cannot be taken away");
            self.failed = Some(Instant::now());
            return Err(Errno(error.raw_os_error().unwrap_or(libc::EIO)));
        }
        self.step = Step::Off;
        self.vouched.end();
        (self.based, self.stored) = (false, false);
        Ok(())
    }

    /// An append is answered.
    pub fn on_recorded(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    /// What the scribe or a worker has to say.
    pub fn on_told(&mut self, told: &Told) {
        match *told {
            Told::Begun(number) if number == self.number && self.step == Step::Beginning => {
                self.step = Step::Begun;
            }
            Told::Stored(number) if number == self.number && self.step == Step::Storing => {
                (self.step, self.stored) = (Step::On, true);
                info!(
                    "a crash of this node is followed by a comparison of what was not confirmed, and no more"
                );
            }
            Told::NearlyFull(number) if number == self.number => self.renew(),
            Told::Lost(number) if number == self.number => self.give_up(),
            _ => debug!(?told, "of a register that was made void"),
        }
    }

    /// The next log, and a base for it.
    fn renew(&mut self) {
        let Some(keeper) = self.keeper.as_ref().filter(|_| self.step == Step::On) else {
            // It comes to its end before there is a base.
            return self.give_up();
        };
        self.step = Step::Beginning;
        self.number += 1;
        keeper.scribe.order(Job::Begin(self.number));
    }

    fn give_up(&mut self) {
        self.failed = Some(Instant::now());
        // Where it stays, it is tried again when nothing is held; until then it is as good as it was.
        let _ = self.make_void();
    }

    /// The node ends, and changes nothing any more: what has a later time from now on is somebody else's. `rests`: nobody waits for the end.
    pub fn end(&mut self, rests: bool) {
        let Some(mut keeper) = self.keeper.take() else { return };
        // File times go in ticks; what the node changed last is older.
        let until = now().saturating_sub(length_of(UNSURE));
        if let Some(moment) = self.vouched.end() {
            // Where it cannot be said, what was said before holds.
            let _ = moment.note(until);
        }
        if self.based {
            let mut entries = keeper.replica.take_news();
            entries.push(Entry::Until(until));
            keeper.scribe.order(Job::Note(entries));
        }
        keeper.scribe.end(rests);
    }
}

impl Keeper {
    fn store(&self, number: u64, held: Held, until: i64, mut entries: Vec<Entry>, workers: &Workers) {
        let (directory, mailbox, identity) =
            (self.directory.clone(), Arc::clone(&self.mailbox), self.identity);
        let voided = directory.voided();
        entries.extend([Entry::Stream(held.0), Entry::Generation(held.1), Entry::Until(until)]);
        workers.run(move || {
            let told = match directory.store_base(&Base { number, identity, entries }, voided) {
                Ok(()) => Told::Stored(number),
                Err(error) => {
                    debug!(%error, "the register's base is not there");
                    Told::Lost(number)
                }
            };
            mailbox.post(Message::Register(told));
        });
    }
}

/// This moment, in nanoseconds since 1970. Where it is not known nothing is vouched for.
fn now() -> i64 {
    clock::nanoseconds(ClockId::CLOCK_REALTIME).unwrap_or(0)
}

/// Whether the clock is behind what it showed when that end of a lease was put on record.
pub fn was_set_back(until: i64) -> bool {
    now() < until.saturating_sub(length_of(LEASE))
}

fn length_of(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

fn now_and(span: Duration) -> i64 {
    now().saturating_add(length_of(span))
}

/// Whether the node may change files at times soon that are not on record, or the clock was set back.
fn is_late(until: i64) -> bool {
    let left = until.saturating_sub(now());
    left < length_of(LEASE_LEFT) || left > length_of(LEASE)
}
