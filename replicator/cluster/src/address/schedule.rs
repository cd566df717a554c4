//! When an address is announced.

use std::time::Duration;

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

/// How long after the first announcement the one of that number is due; the first has number 0.
pub(super) fn due(number: u32) -> Duration {
    let last = BURST.len() as u32 - 1;
    BURST.get(number as usize).copied().unwrap_or_else(|| BURST[BURST.len() - 1] + EVERY * (number - last))
}

/// The number of the first announcement that is due later than `passed`.
pub(super) fn next(passed: Duration) -> u32 {
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
