//! The peer's ticks beside the own clock.
//!
//! A guest that its hypervisor pauses may find its clocks as if nothing had happened. But the peer went on ticking: if its ticks
//! advanced by far more time than the own clock did, this node was not there. The peer's ticks are compared with the *clock*, not with
//! the own ticks, since a pause that the clock shows is noticed without the peer, and ticks that were not executed under load are none.

use std::time::Duration;

/// How long offsets are gathered before others are compared with them, in multiples of the limit.
const SPAN: u32 = 8;
/// Two clocks differ by less than one in this.
const DRIFT: i128 = 1000;
/// What makes a rise of the offset, in parts of the limit.
const RISE: i128 = 64;

/// How far the peer's ticks are ahead of the own clock.
///
/// Delays in the network, and ticks the peer did not execute, make this offset smaller. Only a pause of this node makes it greater than
/// the greatest of an earlier span: that of the current span would follow a queue of datagrams that is read in one go after a pause.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Pace {
    /// Greatest offset of the former span, in nanoseconds.
    former: Option<i128>,
    /// Greatest offset of this span.
    current: i128,
    /// When this span began.
    began: Duration,
    heard: Duration,
}

impl Pace {
    /// Another session begins.
    pub(super) fn reset(&mut self) {
        *self = Pace::default();
    }

    /// The peer has executed so many ticks. Returns for how long this node was not there, if for longer than `limit`.
    pub(super) fn observe(
        &mut self,
        now: Duration,
        ticks: u64,
        interval_us: u32,
        limit: Duration,
    ) -> Option<Duration> {
        let peer = i128::from(ticks) * i128::from(interval_us) * 1000;
        let offset = peer - nanoseconds(now);
        let Some(former) = self.former else {
            self.begin(now, offset);
            return None;
        };
        let age = now.saturating_sub(self.began);
        let excess = offset - former - nanoseconds(age) / DRIFT;
        if excess > nanoseconds(limit) {
            self.begin(now, offset);
            return Some(Duration::from_nanos(u64::try_from(excess).unwrap_or(u64::MAX)));
        }
        let span = limit.saturating_mul(SPAN);
        let silent = now.saturating_sub(self.heard);
        self.heard = now;
        if silent > span {
            // The clocks had time to part, and what comes first may have waited for long.
            self.former = Some(former + nanoseconds(age) / DRIFT);
            self.current = offset;
            self.began = now;
        } else if age > span && offset <= self.current + nanoseconds(limit) / RISE {
            self.former = Some(self.current.max(offset));
            self.current = offset;
            self.began = now;
        }
        self.current = self.current.max(offset);
        None
    }

    fn begin(&mut self, now: Duration, offset: i128) {
        *self = Pace { former: Some(offset), current: offset, began: now, heard: now };
    }
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(1500);
    const INTERVAL_US: u32 = 250_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_pause_that_no_clock_shows_is_seen() {
        let mut pace = Pace::default();
        for tick in 1..100 {
            assert_eq!(pace.observe(ms(tick * 250), tick, INTERVAL_US, LIMIT), None);
        }
        // The clock stood for 20 ticks of the peer. What had come in the meantime is heard in one go.
        let resumed = ms(100 * 250);
        let late: Vec<_> =
            (100..=120).filter_map(|tick| pace.observe(resumed, tick, INTERVAL_US, LIMIT)).collect();
        assert!(!late.is_empty() && late[0] > LIMIT, "{late:?}");
        for tick in 121..200 {
            assert_eq!(pace.observe(ms((tick - 20) * 250), tick, INTERVAL_US, LIMIT), None);
        }
    }

    #[test]
    fn it_is_seen_at_whatever_time_it_comes() {
        for before in 1..200 {
            let mut pace = Pace::default();
            for tick in 1..=before {
                assert_eq!(pace.observe(ms(tick * 250), tick, INTERVAL_US, LIMIT), None);
            }
            let resumed = ms((before + 1) * 250);
            let late = (1..=20).filter_map(|tick| pace.observe(resumed, before + tick, INTERVAL_US, LIMIT));
            assert!(late.count() > 0, "after {before} ticks");
        }
    }

    #[test]
    fn a_long_silence_with_clocks_that_differ_a_little_is_no_pause() {
        let mut pace = Pace::default();
        pace.observe(ms(0), 1, INTERVAL_US, LIMIT);
        let ticks = 4 * 86_400;
        // A day, and 43 seconds more by the peer's clock.
        let day = 86_400_000 - 43_000;
        for tick in 0..100 {
            assert_eq!(pace.observe(ms(day + tick * 250), ticks + tick, INTERVAL_US, LIMIT), None);
        }
    }

    #[test]
    fn a_queue_that_is_read_after_a_pause_which_the_clock_shows_is_no_other_pause() {
        let mut pace = Pace::default();
        for tick in 1..100 {
            assert_eq!(pace.observe(ms(tick * 250), tick, INTERVAL_US, LIMIT), None);
        }
        let resumed = 100 + 400;
        for tick in 100..resumed {
            assert_eq!(pace.observe(ms(resumed * 250), tick, INTERVAL_US, LIMIT), None);
        }
        for tick in resumed..resumed + 100 {
            assert_eq!(pace.observe(ms(tick * 250), tick, INTERVAL_US, LIMIT), None);
        }
        // And it is as attentive as before.
        let late = pace.observe(ms((resumed + 100) * 250), resumed + 110, INTERVAL_US, LIMIT);
        assert!(late > Some(LIMIT));
    }

    #[test]
    fn nonsense_is_no_panic() {
        let mut pace = Pace::default();
        pace.observe(ms(0), 0, 0, LIMIT);
        let late = pace.observe(ms(1), u64::MAX, u32::MAX, LIMIT);
        assert!(late > Some(LIMIT));
        pace.observe(Duration::MAX, 0, 0, LIMIT);
    }

    proptest! {
        #[test]
        fn delays_below_the_limit_and_skipped_ticks_are_no_pause(
            steps in prop::collection::vec((1u64..20, 0u64..1400), 1..200)
        ) {
            let mut pace = Pace::default();
            let (mut time, mut ticks) = (0, 0);
            for (skipped, delay) in steps {
                time += skipped * 250;
                ticks += 1;
                prop_assert_eq!(pace.observe(ms(time + delay), ticks, INTERVAL_US, LIMIT), None);
            }
        }
    }
}
