//! The primary: marks what changed, sends the current state of it, and lets callers go when both nodes hold it.

pub(crate) mod activity;
mod asked;
mod barrier;
mod buried;
mod callers;
mod capture;
mod checkpoint;
mod compare;
mod drain;
mod fresh;
mod local_sync;
mod nameless;
mod names;
mod pacing;
mod passing;
mod record;
mod recorded;
mod resumption;
mod resync;
mod reunion;
mod session;
mod status;
mod succession;
mod verify;
mod waiter;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, Notice, Phase, StateRecord};
use crate::config::{PrimaryConfig, WhenAlone};
use crate::dirty::{DirtySet, WaiterId};
use crate::event::Event;
use crate::ids::{FileId, LocalSyncId, ReadId, SessionId, Term, Time, VolumeId};
use crate::record::Record;
use crate::resume::{Beginning, LastStream, StreamId, Why};
use crate::snapshot::Counters;
use crate::succession::Inheritance;
use crate::verify::VerifyState;
use asked::Asked;
use buried::Buried;
use capture::Logged;
use local_sync::{LocalSync, Protection};
use nameless::Nameless;
use names::Names;
use pacing::Pacing;
use passing::Passing;
use resumption::Greeting;
use reunion::Meeting;
use session::{Dial, Session};
use verify::Verify;
use waiter::Waiter;

/// Longest time between two calls that counts as passed for the peer and for waiting callers: a machine that was
/// paused does not take its own absence for the peer's.
const ABSENCE: Duration = Duration::from_millis(500);
/// After a failed read or local sync of a file, or a failed listing: pause before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Files with something to send, by when they may.
#[derive(Debug, Default)]
struct Queues {
    /// Marked a short time ago; ascending.
    settling: VecDeque<(Time, FileId)>,
    /// May be sent now.
    ready: VecDeque<FileId>,
    /// A caller waits for them: before all others.
    urgent: VecDeque<FileId>,
    /// To be sent at the resync's pace.
    recorded: VecDeque<FileId>,
    /// To be digested.
    compare: VecDeque<FileId>,
    /// Failed before; not before this time.
    delayed: BTreeSet<(Time, FileId)>,
    /// Stored to through mappings: to be synced here at this time.
    mapped: BTreeSet<(Time, FileId)>,
    /// Not to be sent as things are.
    nameless: Nameless,
}

/// The next number of each kind.
#[derive(Debug, Default)]
struct Numbers {
    session: SessionId,
    read: ReadId,
    sync: LocalSyncId,
    waiter: u64,
    tag: u64,
}

/// The primary's state machine.
#[derive(Debug)]
pub(crate) struct Primary {
    config: PrimaryConfig,
    phase: Phase,
    record: Record,
    /// A peer with this higher term was heard: this node answers nobody any more.
    deposed: Option<Term>,
    /// It may go on alone in the present absence of the peer; always, where nobody is to be asked.
    permitted: bool,
    /// Counts the absences of the peer.
    absence: u64,
    /// Told to stop: nobody is connected to any more.
    stopping: bool,
    now: Time,
    /// Time in which this node was running: like `now`, without its own absences.
    awake: Time,
    marks: DirtySet,
    buried: Buried,
    log: VecDeque<Logged>,
    queues: Queues,
    /// Where each outstanding read belongs; `None`: its session is gone.
    reads: BTreeMap<ReadId, Option<FileId>>,
    /// Lists that were ordered, in whatever session, and of which the edge has not said that they came.
    lists_ordered: usize,
    reading_bytes: u64,
    digests_reading: usize,
    pacing: Pacing,
    /// Files with frames that are not confirmed durable.
    unconfirmed: BTreeSet<FileId>,
    in_flight_bytes: u64,
    in_flight_frames: u64,
    session: Option<Session>,
    /// A connection on which the peer has not said yet what it holds.
    greeting: Option<Greeting>,
    /// What the peer knows of the tree; without a session, while it is to be gone on from, what it is known to have.
    names: Names,
    /// The stream that ended last, if it is to be gone on from, or why not.
    last: Result<LastStream, Why>,
    /// Streams of a run that crashed: the peer may hold any of them.
    former: Vec<StreamId>,
    /// What this node knows of the copy that the primary before it has, until that knows which file is which here.
    inheritance: Option<Box<Inheritance>>,
    /// What the peer may have forgotten if it crashed.
    passing: Passing,
    /// The present session, or the last one, was not to be gone on from.
    untold: bool,
    beginning: Option<Beginning>,
    /// The protocol version of the connection that was opened last.
    version: u16,
    verify: Option<Box<Verify>>,
    asked: Option<Asked>,
    meeting: Meeting,
    dial: Dial,
    waiters: BTreeMap<WaiterId, Waiter>,
    /// Waiters whose marks are all on their way, in that order.
    ready: VecDeque<WaiterId>,
    /// Callers' conditions may have changed.
    review: bool,
    syncs: BTreeMap<LocalSyncId, LocalSync>,
    unprotected: BTreeMap<VolumeId, Protection>,
    numbers: Numbers,
    counters: Counters,
    out: Vec<Action>,
}

impl Primary {
    pub fn new(config: PrimaryConfig, record: StateRecord, now: Time) -> Primary {
        let mut primary = Primary {
            phase: Phase::Holding,
            record: Record::new(record),
            deposed: None,
            permitted: config.go_alone || config.when_alone != WhenAlone::Ask,
            absence: 1,
            stopping: false,
            now,
            awake: now,
            marks: DirtySet::new(config.limits),
            buried: Buried::default(),
            log: VecDeque::new(),
            queues: Queues::default(),
            reads: BTreeMap::new(),
            lists_ordered: 0,
            reading_bytes: 0,
            digests_reading: 0,
            pacing: Pacing::new(config.pace),
            unconfirmed: BTreeSet::new(),
            in_flight_bytes: 0,
            in_flight_frames: 0,
            session: None,
            greeting: None,
            names: Names::default(),
            last: Err(Why::Started),
            former: Vec::new(),
            inheritance: None,
            passing: Passing::default(),
            untold: false,
            beginning: None,
            version: 0,
            verify: None,
            asked: None,
            meeting: Meeting::default(),
            dial: Dial::new(config.seed, now),
            waiters: BTreeMap::new(),
            ready: VecDeque::new(),
            review: false,
            syncs: BTreeMap::new(),
            unprotected: BTreeMap::new(),
            numbers: Numbers::default(),
            counters: Counters::default(),
            out: Vec::new(),
            config,
        };
        if primary.is_alone() {
            primary.phase = Phase::Alone;
        }
        primary.unprotect();
        // A run that was alone begins with a generation of its own ([`StateRecord::begin_primary`]): the one before may have ended after it told
        // the peer that both hold the same, and before it recorded that.
        primary.decide_without_peer(false);
        primary
    }

    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.advance_clock(now);
        match event {
            Event::WriteTraced { file, extent } => self.on_write_traced(file, extent),
            Event::StoreMapped { file, extent } => self.on_store_mapped(file, extent),
            Event::AttributesChanged { file } => self.on_attributes_changed(file),
            Event::CaptureLost { file } => {
                // What was logged before may forget a former file with the number, but not this.
                self.flush_log();
                self.on_capture_lost(file);
            }
            Event::NamespaceLogged { entry, change } => self.on_namespace_logged(entry, change),
            Event::DirectoryChanged { directory } => self.on_directory_changed(directory),
            Event::FileForgotten { file } => self.on_file_forgotten(file),
            event => {
                self.flush_log();
                self.on_event(event);
                self.schedule();
            }
        }
        actions.append(&mut self.out);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::SyncRequested { ticket, scope } => self.on_sync_requested(ticket, scope),
            Event::LocalSynced { sync, result } => self.on_local_synced(sync, result),
            Event::ExtentRead { read, outcome } => self.on_extent_read(read, outcome),
            Event::AttributesRead { read, outcome } => self.on_attributes_read(read, outcome),
            Event::DigestsRead { read, outcome } => self.on_digests_read(read, outcome),
            Event::DirectoryRead { read, outcome } => self.on_directory_read(read, outcome),
            Event::VerifyRead { read, outcome } => self.on_verify_read(read, outcome),
            Event::CaptureAwaited { read } => self.on_capture_awaited(read),
            Event::VerifyRequested(request) => self.on_verify_requested(request),
            Event::VerifyStopped => self.stop_verify(VerifyState::Stopped),
            Event::ResyncRequested { number, files } => self.on_resync_requested(number, &files),
            Event::StatePersisted { persist, result } => self.on_state_persisted(persist, result),
            Event::Untold { lasting } => self.on_untold(lasting),
            Event::SessionOpened { session, version } => self.on_session_opened(session, version),
            Event::FrameReceived { session, header, body } => self.on_frame_received(session, header, body),
            Event::FramesSent { session, upto } => self.on_frames_sent(session, upto),
            Event::SessionLost { session } => self.on_session_lost(session),
            Event::Overrule => self.on_overrule(),
            Event::GoAlone { term, absence } => self.on_go_alone(term, absence),
            Event::Stop => self.on_stop(),
            // Not a primary's: the edge answers nothing that was not ordered.
            Event::Applied { .. }
            | Event::MadeDurable { .. }
            | Event::CopyChanged
            | Event::Outdate { .. } => {}
            _ => {}
        }
    }

    fn schedule(&mut self) {
        self.check_silence();
        self.check_greeting();
        self.check_callers();
        self.protect_volumes();
        self.list_directories();
        self.sync_mapped();
        self.drain();
        self.drop_nameless();
        self.review_callers();
        self.send_barriers();
        self.advance_resync();
        self.send_confirm_barrier();
        // Behind all that somebody waits for.
        self.advance_verify();
        self.advance_asked();
        // What a caller waits for may have become complete by the steps above.
        self.review_callers();
        self.persist();
        self.keep_alive();
        self.connect();
    }

    fn advance_clock(&mut self, now: Time) {
        let passed = now.since(self.now);
        self.now = self.now.max(now);
        self.awake = self.awake.after(passed.min(ABSENCE));
        if let Some(session) = &mut self.session {
            session.silence += passed.min(ABSENCE);
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let session = self.session.as_ref();
        [
            session.map(|session| session.last_sent.after(self.config.link.keep_alive)),
            session.and_then(|session| session.confirm_at),
            session.and_then(|_| self.pace_deadline()),
            session.and_then(|_| self.names.retry_at()),
            self.greeting_deadline(),
            session.and_then(|_| self.closing_deadline()),
            self.dial.deadline().filter(|_| self.may_dial()),
            self.record.retry_at(),
            self.queues.settling.front().map(|(due, _)| *due),
            self.queues.delayed.first().map(|(due, _)| *due),
            self.queues.mapped.first().map(|(due, _)| *due),
            self.caller_deadline(),
            self.protection_deadline(),
            self.verify_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn set_phase(&mut self, to: Phase) {
        if self.phase != to {
            self.report(Notice::Phase { from: self.phase, to });
            self.phase = to;
            self.review = true;
        }
    }

    fn report(&mut self, notice: Notice) {
        self.out.push(Action::Report(notice));
    }
}
