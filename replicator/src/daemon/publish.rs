//! What the node says of itself: collected by the data-plane thread, read by the control socket.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use replicator_core::action::{Notice, Phase};
use replicator_core::ids::Errno;
use replicator_core::resume::Beginning;
use replicator_core::reunion::Reunion;
use replicator_core::snapshot::Snapshot;
use tracing::{error, info, warn};

use super::progress::Progress;
use super::safe_set::Size;
use crate::config::Role;
use crate::gate::{Counters, GateReport};
use crate::link::handshake::Established;
use crate::link::{LinkError, Statistics};
use crate::notify::Change;
use crate::notify::local_changes::Found;
use crate::status::{self, BehindStatus, SafeSet, StateStatus, Status};
use crate::tracer::TracerReport;

/// Percentiles are over the barriers of the last one to two such spans.
const WINDOW: Duration = Duration::from_secs(10);

/// How often a person is told that files are changed behind the gate.
const BEHIND_TOLD_EVERY: Duration = Duration::from_secs(600);
/// Changes of the copy by others are logged no more often.
const LOCAL_CHANGES_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// The status others read.
pub type Published = Arc<Mutex<Status>>;

/// Collects and publishes.
pub struct Publisher {
    status: Status,
    published: Published,
    began: Instant,
    recent: Histogram<u64>,
    before: Histogram<u64>,
    window: Instant,
    rates: Rates,
    /// Bytes reported changed since the start.
    captured: u64,
    link: Statistics,
    link_before: Statistics,
    /// Requests of the gates, in the order of the volumes.
    gates: Vec<Arc<Counters>>,
    /// When a person was last told of changes behind the gate.
    behind_told: Option<Instant>,
    local_changes_logged: Option<Instant>,
    missed_changes_logged: Option<Instant>,
    progress: Progress,
}

/// Byte counters of the last second, for rates.
#[derive(Default)]
struct Rates {
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Rates {
    /// Bytes per second captured and sent, over the last second or so.
    fn sample(&mut self, captured: u64, sent: u64) -> (u64, u64) {
        let now = Instant::now();
        self.samples.push_back((now, captured, sent));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, ..)| now - *at > Duration::from_secs(1))
        {
            self.samples.pop_front();
        }
        let Some((at, captured_then, sent_then)) = self.samples.front() else { return (0, 0) };
        let seconds = (now - *at).as_secs_f64();
        if seconds < 0.05 {
            return (0, 0);
        }
        let rate = |then: u64, now: u64| (now.saturating_sub(then) as f64 / seconds) as u64;
        (rate(*captured_then, captured), rate(*sent_then, sent))
    }
}

impl Publisher {
    /// A publisher that starts from what never changes (name, role, volumes, capture).
    pub fn new(status: Status) -> (Publisher, Published) {
        let published = Arc::new(Mutex::new(status.clone()));
        let publisher = Publisher {
            status,
            published: Arc::clone(&published),
            began: Instant::now(),
            recent: new_histogram(),
            before: new_histogram(),
            window: Instant::now(),
            rates: Rates::default(),
            captured: 0,
            link: Statistics::default(),
            link_before: Statistics::default(),
            gates: Vec::new(),
            behind_told: None,
            local_changes_logged: None,
            missed_changes_logged: None,
            progress: Progress::default(),
        };
        (publisher, published)
    }

    /// How many files may differ from the peer's after a crash.
    pub fn on_safe_set(&mut self, size: Size) {
        let Size { is_on, files, narrowed, commits } = size;
        let (files, narrowed) = (files as u64, narrowed as u64);
        self.status.safe_set = SafeSet { on: is_on, files, narrowed, commits };
    }

    /// Whether a crash of this secondary is followed by a comparison of little.
    pub fn on_register(&mut self, on: bool) {
        self.status.register = status::Register { on };
    }

    /// A caller was let go.
    pub fn on_released(&mut self, waited: Duration, result: Result<(), Errno>) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.recent.saturating_record(micros);
        self.status.barriers.answered += 1;
        if result.is_err() {
            self.status.barriers.failed += 1;
        }
        self.status.barriers.max_us = self.status.barriers.max_us.max(micros);
    }

    /// That many callers wait now.
    pub fn on_waiting(&mut self, waiting: usize) {
        self.status.barriers.waiting = waiting as u64;
    }

    /// Kernel events were taken.
    pub fn on_traced(&mut self, taken: u64, unguarded_syncs: u64) {
        self.status.counters.events += taken;
        self.status.counters.unguarded_syncs += unguarded_syncs;
    }

    /// Bytes were reported changed.
    pub fn on_captured(&mut self, bytes: u64) {
        self.captured += bytes;
    }

    /// Kernel events were lost.
    pub fn on_lost(&mut self, lost: u64) {
        self.status.counters.events_lost += lost;
    }

    /// Whether changes behind the gate are watched.
    pub fn on_watch(&mut self, behind: BehindStatus) {
        self.status.capture.behind = behind;
    }

    /// Changes behind the gate.
    pub fn on_behind(&mut self, changes: &[Change], last: Option<String>) {
        let behind = &mut self.status.capture.behind;
        let before = behind.names + behind.attributes + behind.contents;
        for change in changes {
            match change {
                Change::Names { .. } => behind.names += 1,
                Change::Attributes { .. } => behind.attributes += 1,
                Change::Content { .. } => behind.contents += 1,
                Change::Lost => behind.lost += 1,
                Change::Ended => {
                    behind.lost += 1;
                    behind.watched = false;
                    behind.why = "broken off: see the log".to_owned();
                }
                // Part of a change of names, or possibly of one that came through the gate.
                Change::Moved { .. } | Change::Closed { .. } => {}
            }
        }
        if let Some(last) = last {
            behind.last = last;
        }
        let now = behind.names + behind.attributes + behind.contents;
        if now > before && is_due(self.behind_told, BEHIND_TOLD_EVERY) {
            self.behind_told = Some(Instant::now());
            warn!(
                changes = now,
                last = behind.last,
                "files are changed behind the gate (another mount, or a process from before it): mirrored, but no fsync waits for it; \
                 \"replicator doctor\" finds who passes by"
            );
        }
    }

    /// Something an operator must look at.
    pub fn on_error(&mut self) {
        self.status.counters.errors += 1;
    }

    /// A frame or connection was refused.
    pub fn on_refused(&mut self) {
        self.status.counters.frames_refused += 1;
    }

    /// A connection broke.
    pub fn on_link_error(&mut self, reason: &LinkError) {
        if reason.is_nonsense() {
            self.on_refused();
        }
    }

    /// How changes are captured.
    pub fn on_capture(&mut self, row: &str, why: &str, report: Option<&TracerReport>) {
        self.status.capture.row = row.to_owned();
        self.status.capture.why = why.to_owned();
        self.status.capture.hooks = report.map(super::capture::hooks_of).unwrap_or_default();
    }

    /// The gates as they are now, in the order of the volumes.
    pub fn on_gates(&mut self, gates: Vec<(GateReport, Arc<Counters>)>) {
        self.gates.clear();
        for (volume, (report, counters)) in self.status.volumes.iter_mut().zip(gates) {
            volume.gate = "mounted".to_owned();
            volume.passthrough = report.passthrough;
            volume.why = report.passthrough_refusal.unwrap_or_default();
            volume.transport = if report.io_uring { "io-uring" } else { "read" }.to_owned();
            volume.transport_why = report.io_uring_refusal.unwrap_or_default();
            volume.strict = report.strict;
            self.gates.push(counters);
        }
    }

    /// What is mounted inside the volumes, in their order.
    pub fn on_nested_mounts(&mut self, points: &[Vec<PathBuf>]) {
        for (volume, points) in self.status.volumes.iter_mut().zip(points) {
            volume.nested_mounts = points.iter().map(|point| point.display().to_string()).collect();
        }
    }

    /// Others changed the copy. All are counted; the log names one of them now and then.
    pub fn on_local_changes(&mut self, found: &Found) {
        self.status.counters.local_changes += found.changes;
        if let Some(path) =
            found.last.as_ref().filter(|_| is_due(self.local_changes_logged, LOCAL_CHANGES_LOGGED_EVERY))
        {
            self.local_changes_logged = Some(Instant::now());
            warn!(
                path = %path.display(),
                changes = self.status.counters.local_changes,
                "somebody else changed the copy; the next session's comparison sets it right: restart this node"
            );
        }
        if found.missed && is_due(self.missed_changes_logged, LOCAL_CHANGES_LOGGED_EVERY) {
            self.missed_changes_logged = Some(Instant::now());
            warn!("more changes in the copy's file system than could be told: some by others may be missing");
        }
    }

    /// Somebody was turned away.
    pub fn on_stranger(&mut self) {
        self.status.counters.handshakes_refused += 1;
    }

    /// A session was opened.
    pub fn on_connected(&mut self, peer: &str, established: &Established) {
        self.status.counters.sessions += 1;
        self.status.peer.name = peer.to_owned();
        self.status.peer.address =
            established.stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
        self.status.peer.authenticated = established.authenticated;
        self.status.peer.encrypted = established.records.is_some();
        self.status.peer.version = established.version;
        self.link_before = sum(self.link_before, self.link);
        self.link = Statistics::default();
        self.progress.restart();
    }

    /// A state change the core reports.
    pub fn on_notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Phase { from, to } => info!(?from, ?to, "phase changed"),
            Notice::Begun { beginning: Beginning::Resumed } => {
                info!("the session goes on where the last one ended");
            }
            Notice::Begun { beginning: Beginning::Succeeded } => {
                info!("the session goes on from what both nodes had before they changed roles");
            }
            Notice::Begun { beginning: Beginning::Recovered } => {
                info!("the session goes on from what the secondary had durably when it crashed");
            }
            Notice::Begun { beginning } => info!(why = beginning.text(), "everything is compared"),
            Notice::Refused { reunion } => {
                let found = super::meeting::text(self.of_primary(*reunion));
                error!(found, "no session begins: {}", super::meeting::WHAT_TO_DO);
                self.status.counters.errors += 1;
            }
            Notice::Overruled { reunion } => {
                let found = super::meeting::text(*reunion);
                warn!(found, "as an operator said, the peer's data is replaced by this node's");
            }
            Notice::Widened { file } => {
                self.status.counters.widened += 1;
                tracing::debug!(%file, "marks widened");
            }
            Notice::Deposed { term } => {
                error!(
                    term = term.0,
                    "a later primacy was heard of: this node lets no fsync return; stop it, and start it as the secondary"
                );
                self.status.counters.errors += 1;
            }
            Notice::HoldExpired { tickets } => {
                error!(tickets, "held syncs failed: no peer within hold-limit");
                self.status.counters.errors += 1;
            }
            #[allow(unreachable_patterns)]
            other => warn!(?other, "notice"),
        }
    }

    /// A finding, seen from the primary.
    fn of_primary(&self, found: Reunion) -> Reunion {
        if self.status.role == Role::Primary { found } else { found.mirrored() }
    }

    /// An operator asked for a resync.
    pub fn on_resync_asked(&mut self, number: u64) {
        self.status.resync.asked = number;
        self.status.resync.asked_done = false;
        self.status.resync.asked_failed.clear();
        self.progress.restart();
    }

    /// It could not be begun.
    pub fn on_resync_failed(&mut self, number: u64, why: String) {
        if self.status.resync.asked == number {
            self.status.resync.asked_failed = why;
        }
    }

    /// Take over what the core and the connection show; `listed`: bytes of all files that lists have named.
    pub fn renew(&mut self, snapshot: &Snapshot, link: Option<Statistics>, listed: u64) {
        if let Some(link) = link {
            self.link = link;
        }
        let total = sum(self.link_before, self.link);
        let status = &mut self.status;
        for (volume, gate) in status.volumes.iter_mut().zip(&self.gates) {
            volume.requests = gate.by_name();
        }
        status.uptime_seconds = self.began.elapsed().as_secs_f64();
        status.memory_bytes = resident_bytes();
        status.phase = status::phase_name(snapshot.phase).to_owned();
        (status.word, status.colour) = status::word(snapshot.phase);
        status.peer.connected = link.is_some();
        status.positions.queued = snapshot.positions.queued.0;
        status.positions.sent = snapshot.positions.sent.0;
        status.positions.received = snapshot.positions.received.0;
        status.positions.applied = snapshot.positions.applied.0;
        status.positions.synced = snapshot.positions.synced.0;
        status.dirty.bytes = snapshot.dirty_bytes;
        status.dirty.files = snapshot.dirty_files;
        status.dirty.in_flight_bytes = snapshot.in_flight_bytes;
        status.resync.active = matches!(snapshot.phase, Phase::Resyncing | Phase::Receiving);
        status.resync.directories = snapshot.resync.directories_left;
        status.resync.files = snapshot.resync.files_found;
        status.resync.bytes_sent = snapshot.resync.bytes_sent;
        status.resync.files_compared = snapshot.resync.files_compared;
        status.resync.bytes_compared = snapshot.resync.bytes_compared;
        self.progress.show(status, snapshot, listed, Instant::now());
        status.resync.resumed = matches!(
            snapshot.beginning,
            Some(Beginning::Resumed | Beginning::Succeeded | Beginning::Recovered)
        );
        status.resync.why = snapshot.beginning.map_or_else(String::new, |how| how.text().to_owned());
        status.reunion = super::meeting::status_of(snapshot);
        status.state = StateStatus::of_running(snapshot);
        status.counters.widened = snapshot.counters.widened;
        status.counters.frames_sent = total.frames_queued;
        status.counters.frames_received = total.frames_received;
        status.counters.bytes_sent = total.bytes_sent;
        status.counters.bytes_received = total.bytes_received;
        let (captured, sent) = self.rates.sample(self.captured, total.bytes_sent);
        status.rate.captured_bytes_per_second = captured;
        status.rate.sent_bytes_per_second = sent;
        status.lag.bytes = snapshot.dirty_bytes + snapshot.in_flight_bytes;
        status.lag.seconds = if sent > 0 { status.lag.bytes as f64 / sent as f64 } else { 0.0 };
        self.percentiles();
    }

    fn percentiles(&mut self) {
        if self.window.elapsed() > WINDOW {
            self.window = Instant::now();
            std::mem::swap(&mut self.recent, &mut self.before);
            self.recent.reset();
        }
        let mut both = self.before.clone();
        // Same bounds, so adding cannot fail.
        let _ = both.add(&self.recent);
        self.status.barriers.p50_us = both.value_at_quantile(0.50);
        self.status.barriers.p90_us = both.value_at_quantile(0.90);
        self.status.barriers.p99_us = both.value_at_quantile(0.99);
    }

    /// Let others read it.
    pub fn publish(&mut self) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = self.status.clone();
    }
}

/// Whether something that was said then may be said again.
fn is_due(said: Option<Instant>, every: Duration) -> bool {
    said.is_none_or(|said| said.elapsed() >= every)
}

fn new_histogram() -> Histogram<u64> {
    // One microsecond to one hour, two significant digits: constants the constructor accepts.
    Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("constant bounds")
}

/// Resident memory of this process in bytes (proc(5), statm); zero if it cannot be read.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4096)
}

fn sum(a: Statistics, b: Statistics) -> Statistics {
    Statistics {
        frames_received: a.frames_received + b.frames_received,
        bytes_received: a.bytes_received + b.bytes_received,
        frames_queued: a.frames_queued + b.frames_queued,
        bytes_sent: a.bytes_sent + b.bytes_sent,
        operations: a.operations + b.operations,
    }
}
