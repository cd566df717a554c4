//! The pace of a resync: as fast as it goes while the application rests, and while it works as fast as its own syncs allow.
//!
//! What is controlled is what the application feels: a call is *late* if it took longer than [`Pace::late_factor`] times what 99 of
//! 100 calls took before the resync. Each late call lowers the rate, each other one raises it, by amounts that are in balance when one
//! call in [`CALLS_PER_LATE`] is late: a little less than the promise (one in a hundred) allows. Nothing is known of disks, links or queues, and
//! nothing needs to be. (DRBD's controller holds the amount under way instead, see drbd_receiver.c, and steps back to a fixed
//! minimum when it sees other traffic: an application may still be slowed down, and the minimum may take days.)
//!
//! ```text
//!             no caller for a while                    a caller asks
//!  Free ------------------------------ Paced at a rate <------------- Free
//!                                        |  slow start: doubled again and again until a call is late
//!                                        |  then: + a little for each call in time, - a tenth for each late one
//!                                        `- never below the floor, never above the cap
//! ```
//!
//! The floor makes the resync end: the larger of what the operator's limit in time needs and a tenth of what went through in the best
//! second so far.
//! Live marks are not paced: they are what callers wait for.

use alloc::vec::Vec;
use core::time::Duration;

use crate::config::Pace;
use crate::ids::Time;

/// Callers are not there if none asked for this long.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// The last so many calls outside of a resync say what a call takes without one.
const REMEMBERED: usize = 2048;
/// Fewer calls say nothing.
const REMEMBERED_MIN: usize = 64;
/// The first rate with callers, in bytes per second, if the floor is lower.
const START: u64 = 8 << 20;
/// The least floor, in bytes per second.
const FLOOR_MIN: u64 = 4 << 20;
/// The floor's share of what was seen to go through.
const LINK_SHARE: u64 = 10;
/// What goes through is looked at over this time.
const SEEN_OVER: Duration = Duration::from_secs(1);
/// Changes of the rate are bounded within such steps of time.
const STEP: Duration = Duration::from_millis(100);
/// In slow start the rate is doubled so often.
const DOUBLED_EVERY: Duration = Duration::from_millis(200);
/// One call in so many is late when the rate stays as it is.
const CALLS_PER_LATE: u64 = 125;
/// A late call takes away one part in so many,
const CUT: u64 = 10;
/// at most so often in a step.
const CUTS_MAX: u32 = 7;
/// In a step the rate rises by one part in so many at most.
const RISE_MAX: u64 = 32;
/// Unused rate is kept for this long: a burst is no longer.
const KEPT: Duration = Duration::from_millis(20);
/// One piece of work takes no longer than this at the present rate, and is no smaller than that many bytes.
const PIECE: Duration = Duration::from_millis(10);
const PIECE_MIN: u64 = 64 << 10;
/// What a piece of work costs beside its bytes, in bytes: names, attributes, a file's place on a disk.
const OPERATION: u64 = 4 << 10;
/// So much is not paced: a resync of little is over before it is felt.
const FREE: i64 = 8 << 20;

/// What a call took, and the rate that follows. Lives as long as the node: what callers are used to outlives sessions.
#[derive(Debug)]
pub(super) struct Pacing {
    config: Pace,
    /// How long calls took outside of resyncs, in nanoseconds; a ring.
    usual: Vec<u64>,
    next: usize,
    /// When a caller last asked or was let go.
    asked: Option<Time>,
    /// Bytes per second that were compared or went to a peer at best.
    seen: u64,
    run: Option<Run>,
}

/// A resync under way.
#[derive(Debug)]
struct Run {
    /// A call that takes longer is late. `None`: it is not known yet what a call takes.
    late_after: Option<u64>,
    rate: u64,
    slow_start: bool,
    doubled: Time,
    /// The step of time that bounds changes, when it began, with the rate at that time and the cuts within.
    step: (Time, u64, u32),
    /// Bytes that may be spent now; less than nothing after a piece that was larger.
    credit: i64,
    credited: Time,
    /// More would have been done than the rate allowed.
    limited: bool,
    /// When bytes began to be counted, and how many there are.
    counted: (Time, u64),
}

impl Pacing {
    pub fn new(config: Pace) -> Pacing {
        Pacing { config, usual: Vec::new(), next: 0, asked: None, seen: 0, run: None }
    }

    /// A resync begins.
    pub fn begin(&mut self, now: Time) {
        let rate = START.max(self.floor());
        self.run = Some(Run {
            late_after: self
                .usual_p99()
                .map(|usual| usual.saturating_mul(u64::from(self.config.late_factor))),
            rate,
            slow_start: true,
            doubled: now,
            step: (now, rate, 0),
            credit: FREE,
            credited: now,
            limited: false,
            counted: (now, 0),
        });
    }

    /// What is left is not to be paced, or there is nothing left.
    pub fn end(&mut self) {
        self.run = None;
    }

    /// A caller asks.
    pub fn on_asked(&mut self, now: Time) {
        if self.is_idle(now)
            && let Some(run) = &mut self.run
        {
            // While nothing was limited, nothing was saved up, and nothing is owed.
            (run.credit, run.credited, run.doubled) = (run.credit.clamp(0, FREE), now, now);
            run.step = (now, run.rate, 0);
        }
        self.asked = Some(now);
    }

    /// A caller was let go after this time, for which nothing but its own sync and the peer's was waited for.
    pub fn on_released(&mut self, now: Time, took: Duration) {
        self.asked = Some(now);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let floor = self.floor();
        match &mut self.run {
            Some(run) => match run.late_after {
                Some(late_after) => run.steer(now, took > late_after, floor),
                None => self.learn(took),
            },
            None => self.remember(took),
        }
    }

    fn remember(&mut self, took: u64) {
        if self.usual.len() < REMEMBERED {
            self.usual.push(took);
        } else if let Some(oldest) = self.usual.get_mut(self.next) {
            *oldest = took;
            self.next = (self.next + 1) % REMEMBERED;
        }
    }

    /// Nothing was known when the resync began: it does not go beyond its first rate until enough is.
    fn learn(&mut self, took: u64) {
        self.remember(took);
        let late_after =
            self.usual_p99().map(|usual| usual.saturating_mul(u64::from(self.config.late_factor)));
        if let Some(run) = &mut self.run {
            run.late_after = late_after;
        }
    }

    /// What 99 of 100 calls took at most. `None`: too few are known.
    fn usual_p99(&self) -> Option<u64> {
        if self.usual.len() < REMEMBERED_MIN {
            return None;
        }
        let mut sorted = self.usual.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).copied()
    }

    fn is_idle(&self, now: Time) -> bool {
        self.asked.is_none_or(|asked| now.since(asked) >= IDLE_AFTER)
    }

    /// The lowest rate, in bytes per second.
    fn floor(&self) -> u64 {
        let floor = self.config.floor.max(self.seen / LINK_SHARE).max(FLOOR_MIN);
        self.config.cap.map_or(floor, |cap| floor.min(cap))
    }

    /// The rate now, in bytes per second; `None`: as fast as it goes.
    pub fn rate(&self, now: Time) -> Option<u64> {
        let run = self.run.as_ref()?;
        if self.is_idle(now) {
            return self.config.cap;
        }
        let rate = if run.late_after.is_none() { START.max(self.floor()) } else { run.rate };
        Some(self.config.cap.map_or(rate, |cap| rate.min(cap)).max(1))
    }

    /// Whether a further piece of work may be begun.
    pub fn may_start(&mut self, now: Time) -> bool {
        let Some(rate) = self.rate(now) else { return true };
        let Some(run) = &mut self.run else { return true };
        let passed = now.since(run.credited);
        run.credited = run.credited.max(now);
        let gained = i64::try_from(bytes_in(rate, passed)).unwrap_or(i64::MAX);
        let most = i64::try_from(bytes_in(rate, KEPT).max(PIECE_MIN)).unwrap_or(i64::MAX);
        run.credit = run.credit.saturating_add(gained).min(most.max(run.credit));
        let may = run.credit > 0;
        run.limited |= !may;
        may
    }

    /// When a piece may be begun that may not now.
    pub fn starts_at(&self, now: Time) -> Option<Time> {
        let rate = self.rate(now)?;
        let run = self.run.as_ref().filter(|run| run.credit <= 0)?;
        let owed = run.credit.unsigned_abs() + 1;
        Some(now.after(Duration::from_nanos(owed.saturating_mul(1_000_000_000).div_ceil(rate))))
    }

    /// Bytes of the next piece, of at most `most`: a whole number of `PIECE_MIN`, or `most`.
    pub fn piece(&self, now: Time, most: u64) -> u64 {
        match self.rate(now) {
            Some(rate) => most.min((bytes_in(rate, PIECE) / PIECE_MIN * PIECE_MIN).max(PIECE_MIN)),
            None => most,
        }
    }

    /// A piece of so many bytes was begun.
    pub fn spend(&mut self, bytes: u64) {
        self.spend_operations(1);
        if let Some(run) = &mut self.run {
            run.credit = run.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// So many names are to be made or found at the peer.
    pub fn spend_operations(&mut self, operations: u64) {
        if let Some(run) = &mut self.run {
            let cost = operations.saturating_mul(OPERATION);
            run.credit = run.credit.saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        }
    }

    /// A piece had so many bytes less than it was begun with.
    pub fn give_back(&mut self, bytes: u64) {
        if let Some(run) = &mut self.run {
            run.credit = run.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// So many bytes are on their way to the peer, or were compared.
    pub fn on_done(&mut self, now: Time, bytes: u64) {
        let Some(run) = &mut self.run else { return };
        let (since, counted) = &mut run.counted;
        *counted += bytes;
        let passed = now.since(*since);
        if passed >= SEEN_OVER {
            let rate = u128::from(*counted) * 1_000_000_000 / passed.as_nanos().max(1);
            self.seen = self.seen.max(u64::try_from(rate).unwrap_or(u64::MAX));
            (*since, *counted) = (now, 0);
        }
    }
}

impl Run {
    fn steer(&mut self, now: Time, late: bool, floor: u64) {
        if now.since(self.step.0) >= STEP {
            self.step = (now, self.rate, 0);
        }
        let (_, began, cuts) = &mut self.step;
        if late {
            self.slow_start = false;
            if *cuts < CUTS_MAX {
                *cuts += 1;
                self.rate = (self.rate - self.rate / CUT).max(floor);
            }
        } else if self.limited {
            self.limited = false;
            if self.slow_start {
                if now.since(self.doubled) >= DOUBLED_EVERY {
                    self.doubled = now;
                    self.rate = self.rate.saturating_mul(2);
                }
            } else {
                let most = began.saturating_add(*began / RISE_MAX);
                let risen = self.rate + self.rate / (CUT * CALLS_PER_LATE);
                self.rate = risen.min(most).max(self.rate);
            }
        }
        self.rate = self.rate.max(floor);
    }
}

/// Bytes in that time at a rate in bytes per second.
fn bytes_in(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
