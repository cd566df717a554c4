//! The pace against simulated machines: callers whose latency follows from the rate of the resync.

use core::time::Duration;

use super::{FLOOR_MIN, FREE, IDLE_AFTER, Pacing, START};
use crate::config::Pace;
use crate::ids::Time;

const MIB: u64 = 1 << 20;
/// A call without a resync, in microseconds; one in fifty takes three times as long, so that is the usual p99.
const USUAL: u64 = 500;

/// A machine on which calls are slowed down by what a resync reads.
struct Machine {
    pacing: Pacing,
    now: Time,
    random: u64,
    /// Bytes per second that the resync may take without being felt: beyond it calls take in proportion longer.
    bears: u64,
    /// Bytes per second that the disks and the link take at most.
    takes: u64,
    /// Time between two calls; zero: there are none.
    every: Duration,
    called: Time,
    /// What was done in the last tenth of a second, which is what calls feel.
    recent: u64,
    recent_since: Time,
    load: u64,
    done: u64,
    late: u64,
    calls: u64,
}

impl Machine {
    fn new(pace: Pace, bears: u64, takes: u64, every: Duration) -> Machine {
        Machine {
            pacing: Pacing::new(pace),
            now: Time(1_000_000_000),
            random: 88_172_645_463_325_252,
            bears,
            takes,
            every,
            called: Time(0),
            recent: 0,
            recent_since: Time(0),
            load: 0,
            done: 0,
            late: 0,
            calls: 0,
        }
    }

    /// Xorshift64 (Marsaglia 2003).
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn call(&mut self) {
        self.pacing.on_asked(self.now);
        let slow = if self.below(50) == 0 { 3 } else { 1 };
        let felt = self.load.saturating_sub(self.bears) * 10 / self.bears.max(1);
        let took = USUAL * slow * (10 + felt) / 10 + self.below(100);
        self.calls += 1;
        self.late += u64::from(took > USUAL * 3 * 2 + 200);
        self.pacing.on_released(self.now, Duration::from_micros(took));
    }

    /// Let time pass in steps of a millisecond, with or without a resync that always has more to do.
    fn pass(&mut self, time: Duration, resync: bool) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(1));
            if self.now.since(self.recent_since) >= Duration::from_millis(100) {
                self.load = self.recent * 10;
                (self.recent, self.recent_since) = (0, self.now);
            }
            let mut left = if resync { self.takes / 1000 } else { 0 };
            while left > 0 && self.pacing.may_start(self.now) {
                let piece = self.pacing.piece(self.now, MIB).min(left.max(1));
                self.pacing.spend(piece);
                self.pacing.on_done(self.now, piece);
                (self.done, self.recent) = (self.done + piece, self.recent + piece);
                left -= piece.min(left);
            }
            while !self.every.is_zero() && self.now.since(self.called) >= self.every {
                self.called = if self.now.since(self.called) > self.every * 2 {
                    self.now
                } else {
                    self.called.after(self.every)
                };
                self.call();
            }
        }
    }

    /// Let the machine be known, then begin a resync.
    fn begin(&mut self) {
        self.pass(Duration::from_secs(10), false);
        self.pacing.begin(self.now);
        (self.done, self.late, self.calls) = (0, 0, 0);
    }
}

fn pace() -> Pace {
    Pace::default()
}

const BUSY: Duration = Duration::from_millis(1);

#[test]
fn it_comes_to_what_callers_bear_and_stays_there() {
    for bears in [20 * MIB, 100 * MIB, 300 * MIB] {
        let mut machine = Machine::new(pace(), bears, 400 * MIB, BUSY);
        machine.begin();
        machine.pass(Duration::from_secs(20), true);
        (machine.done, machine.late, machine.calls) = (0, 0, 0);
        machine.pass(Duration::from_secs(60), true);
        let rate = machine.done / 60;
        assert!(rate > bears / 2, "{} MiB/s of {} MiB/s", rate / MIB, bears / MIB);
        assert!(machine.late * 100 <= machine.calls, "{} of {} calls are late", machine.late, machine.calls);
    }
}

#[test]
fn the_beginning_is_not_felt_for_long() {
    let mut machine = Machine::new(pace(), 60 * MIB, 1000 * MIB, BUSY);
    machine.begin();
    machine.pass(Duration::from_secs(10), true);
    assert!(machine.late * 20 <= machine.calls, "{} of {} calls are late", machine.late, machine.calls);
}

#[test]
fn nothing_is_paced_without_callers() {
    let mut machine = Machine::new(pace(), MIB, 700 * MIB, Duration::ZERO);
    machine.begin();
    machine.pass(Duration::from_secs(2), true);
    assert!(machine.done >= 1300 * MIB);
    assert_eq!(machine.pacing.rate(machine.now), None);
}

#[test]
fn callers_that_come_slow_it_down_and_callers_that_leave_let_it_go() {
    let mut machine = Machine::new(pace(), 20 * MIB, 200 * MIB, BUSY);
    machine.begin();
    machine.pass(Duration::from_secs(5), true);
    assert!(machine.pacing.rate(machine.now).is_some_and(|rate| rate < 100 * MIB));
    machine.every = Duration::ZERO;
    machine.pass(IDLE_AFTER, true);
    machine.done = 0;
    machine.pass(Duration::from_secs(1), true);
    assert!(machine.done >= 190 * MIB, "{} MiB", machine.done / MIB);
    machine.every = BUSY;
    machine.done = 0;
    machine.pass(Duration::from_secs(1), true);
    // What went unpaced is not owed.
    assert!(machine.pacing.rate(machine.now).is_some() && machine.done >= FLOOR_MIN / 2);
}

#[test]
fn it_never_goes_below_the_floor_and_so_it_ends() {
    let floor = 30 * MIB;
    // Callers that bear nothing at all.
    let mut machine = Machine::new(Pace { floor, ..pace() }, 1, 1000 * MIB, BUSY);
    machine.begin();
    machine.pass(Duration::from_secs(30), true);
    let rate = machine.done / 30;
    // What a piece costs beside its bytes is part of the rate.
    assert!(rate >= floor * 7 / 10, "{} MiB/s", rate / MIB);
    assert!(machine.late > 0);
}

#[test]
fn the_floor_is_a_tenth_of_what_the_link_was_seen_to_take() {
    let mut machine = Machine::new(pace(), 1, 500 * MIB, BUSY);
    machine.begin();
    machine.every = Duration::ZERO;
    machine.pass(IDLE_AFTER + Duration::from_secs(3), true);
    machine.every = BUSY;
    machine.pass(Duration::from_secs(10), true);
    let rate = machine.pacing.rate(machine.now).unwrap();
    assert!((45 * MIB..=60 * MIB).contains(&rate), "{} MiB/s", rate / MIB);
}

#[test]
fn the_cap_holds_with_callers_and_without() {
    let cap = 10 * MIB;
    let pace = Pace { cap: Some(cap), floor: 50 * MIB, ..pace() };
    for every in [BUSY, Duration::ZERO] {
        let mut machine = Machine::new(pace, 500 * MIB, 500 * MIB, every);
        machine.begin();
        machine.pass(Duration::from_secs(10), true);
        let rate = machine.done / 10;
        assert!(rate <= cap + FREE as u64 / 10 && rate >= cap / 2, "{} MiB/s", rate / MIB);
    }
}

#[test]
fn without_a_past_it_learns_at_the_first_rate_what_a_call_takes() {
    let mut machine = Machine::new(pace(), 50 * MIB, 500 * MIB, Duration::from_millis(10));
    machine.pacing.begin(machine.now);
    machine.pass(Duration::from_millis(300), true);
    assert_eq!(machine.pacing.rate(machine.now), Some(START));
    machine.pass(Duration::from_secs(2), true);
    assert!(machine.pacing.rate(machine.now).is_some_and(|rate| rate > START));
}

#[test]
fn nothing_is_paced_outside_of_a_resync() {
    let mut pacing = Pacing::new(Pace { cap: Some(1), ..pace() });
    pacing.on_asked(Time(5));
    assert!(pacing.may_start(Time(6)));
    assert_eq!(
        (pacing.rate(Time(6)), pacing.piece(Time(6), MIB), pacing.starts_at(Time(6))),
        (None, MIB, None)
    );
}

#[test]
fn what_may_not_begin_now_may_at_the_time_that_is_said() {
    let mut machine = Machine::new(pace(), 50 * MIB, 500 * MIB, BUSY);
    machine.begin();
    machine.call();
    let now = machine.now;
    while machine.pacing.may_start(now) {
        machine.pacing.spend(MIB);
    }
    let at = machine.pacing.starts_at(now).unwrap();
    assert!(at > now && machine.pacing.may_start(at));
}
