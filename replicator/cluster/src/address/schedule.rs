//! When an address is announced.

use std::time::Duration;

use tokio::time::Instant;

/// At once and twice more, as one packet may be lost; then as long as switches and neighbours may still come up after a failure.
const BURST: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// And for good: a switch or router that missed all of the burst, or that a passing rival misled, learns it within a minute.
const EVERY: Duration = Duration::from_secs(60);

/// A claim is answered so much later: a node that slept through the loss of its authority hears the other's claims and its own late
/// tick at the same time, and must have the time to give up instead.
const DEFENCE_DELAY: Duration = Duration::from_millis(100);
/// Claims that come sooner after one that was answered are passed over: two that both insist must not fill the LAN.
const DEFENCE_PAUSE: Duration = Duration::from_secs(1);
/// An announcement that is later than this was slept through.
const SLEPT: Duration = Duration::from_secs(1);
/// After a sleep nothing is announced for so long, unless the daemon asks: it may be about to give the address up.
const GRACE: Duration = Duration::from_secs(3);

/// Where an address is in its schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    start: Instant,
    number: u32,
    defended: Option<Instant>,
}

/// What to do when an announcement is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Announce,
    /// Nothing: this node slept, for so long at least.
    Slept(Duration),
}

impl Pace {
    /// The first announcement was sent just now.
    pub fn begun(now: Instant) -> Pace {
        Pace { start: now, number: 1, defended: None }
    }

    /// When the next announcement is due.
    pub fn due(&self) -> Instant {
        self.start + due(self.number)
    }

    /// From the start, at once.
    pub fn anew(&mut self, now: Instant) {
        self.start = now;
        self.number = 0;
    }

    /// An announcement is due; the schedule goes on behind it.
    pub fn on_due(&mut self, now: Instant) -> Due {
        let late = now - self.due();
        if late > SLEPT {
            self.anew(now + GRACE);
            return Due::Slept(late);
        }
        self.number = next(now - self.start);
        Due::Announce
    }

    /// Somebody else claims the address: whether that is to be told. If so it will be answered.
    pub fn on_claim(&mut self, now: Instant) -> bool {
        if self.defended.is_some_and(|last| now - last < DEFENCE_PAUSE) {
            return false;
        }
        self.defended = Some(now);
        self.anew(now + DEFENCE_DELAY);
        true
    }
}

/// How long after the first announcement the one of that number is due; the first has number 0.
fn due(number: u32) -> Duration {
    let last = BURST.len() as u32 - 1;
    BURST.get(number as usize).copied().unwrap_or_else(|| BURST[BURST.len() - 1] + EVERY * (number - last))
}

/// The number of the first announcement that is due later than `passed`.
fn next(passed: Duration) -> u32 {
    match BURST.iter().position(|due| *due > passed) {
        Some(number) => number as u32,
        None => {
            let periods = (passed - BURST[BURST.len() - 1]).as_secs() / EVERY.as_secs() + 1;
            u32::try_from(periods).unwrap_or(u32::MAX / 2) + BURST.len() as u32 - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_and_then_every_minute() {
        let due: Vec<u128> = (0..10).map(|number| due(number).as_millis()).collect();
        assert_eq!(due, [0, 50, 100, 1_000, 2_000, 5_000, 10_000, 70_000, 130_000, 190_000]);
    }

    #[test]
    fn what_was_missed_is_not_made_up_for() {
        assert_eq!(next(Duration::ZERO), 1);
        assert_eq!(next(Duration::from_millis(99)), 2);
        assert_eq!(next(Duration::from_millis(100)), 3);
        assert_eq!(next(Duration::from_secs(10)), 7);
        assert_eq!(next(Duration::from_secs(3_600)), 66);
    }

    /// When announcements are sent from then on, in milliseconds, by somebody who is always in time.
    fn sent(pace: &mut Pace, from: Instant, number: usize) -> Vec<u128> {
        let mut sent = Vec::new();
        for _ in 0..number {
            let due = pace.due();
            assert_eq!(pace.on_due(due), Due::Announce);
            sent.push((due - from).as_millis());
        }
        sent
    }

    #[test]
    fn asked_for_it_begins_at_once() {
        let start = Instant::now();
        let mut pace = Pace::begun(start);
        assert_eq!(sent(&mut pace, start, 3), [50, 100, 1_000]);
        let asked = start + Duration::from_secs(100);
        pace.anew(asked);
        assert_eq!(sent(&mut pace, asked, 4), [0, 50, 100, 1_000]);
    }

    #[test]
    fn a_claim_is_answered_soon_and_a_flood_of_them_once_a_second() {
        let start = Instant::now();
        let mut pace = Pace::begun(start);
        let told = (0..2_500).filter(|millis| pace.on_claim(start + Duration::from_millis(*millis))).count();
        assert_eq!(told, 3);
        let claimed = start + Duration::from_secs(10);
        assert!(pace.on_claim(claimed));
        assert!(!pace.on_claim(claimed + Duration::from_millis(10)));
        assert_eq!(sent(&mut pace, claimed, 4), [100, 150, 200, 1_100]);
    }

    #[test]
    fn who_slept_says_nothing_until_there_was_time_to_give_up() {
        let start = Instant::now();
        let mut pace = Pace::begun(start);
        let woken = start + Duration::from_secs(30);
        assert_eq!(pace.on_due(woken), Due::Slept(Duration::from_millis(29_950)));
        assert_eq!(pace.due(), woken + GRACE);
        assert_eq!(sent(&mut pace, woken, 3), [3_000, 3_050, 3_100]);
        // The daemon knows better.
        assert_eq!(pace.on_due(woken + Duration::from_secs(60)), Due::Slept(Duration::from_secs(56)));
        pace.anew(woken + Duration::from_secs(60));
        assert_eq!(pace.on_due(woken + Duration::from_secs(60)), Due::Announce);
    }

    #[test]
    fn late_is_not_asleep() {
        let start = Instant::now();
        let mut pace = Pace::begun(start);
        assert_eq!(pace.on_due(start + Duration::from_millis(1_040)), Due::Announce);
        assert_eq!(pace.due(), start + Duration::from_secs(2), "what was missed is not made up for");
    }

    proptest! {
        #[test]
        fn the_next_one_is_the_first_that_is_later(millis in 0_u64..1 << 40) {
            let passed = Duration::from_millis(millis);
            let number = next(passed);
            prop_assert!(due(number) > passed);
            prop_assert!(due(number - 1) <= passed);
        }
    }
}
