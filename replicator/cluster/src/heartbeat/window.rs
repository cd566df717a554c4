//! Which sequence numbers of a session have come on a path.

/// How far behind the highest number an earlier one may come.
const WIDTH: u64 = 128;

/// A sliding window: each number counts once, and none that is too old to be remembered.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Window {
    highest: u64,
    /// Bit `n`: the number `highest - n` has come.
    seen: u128,
}

impl Window {
    /// The highest number so far, zero for none.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    pub(crate) fn is_fresh(&self, number: u64) -> bool {
        match self.highest.checked_sub(number) {
            None => true,
            Some(behind) => behind < WIDTH && self.seen & (1 << behind) == 0,
        }
    }

    /// Remember a number that [is fresh](Window::is_fresh).
    pub(crate) fn insert(&mut self, number: u64) {
        if let Some(ahead) = number.checked_sub(self.highest) {
            self.seen = if ahead < WIDTH { self.seen << ahead } else { 0 };
            self.highest = number;
        }
        let behind = self.highest - number;
        if behind < WIDTH {
            self.seen |= 1 << behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_counts_once_and_late_ones_within_the_width() {
        let mut window = Window::default();
        window.insert(1000);
        assert!(!window.is_fresh(1000));
        assert!(window.is_fresh(1001));
        assert!(window.is_fresh(1000 - WIDTH + 1));
        assert!(!window.is_fresh(1000 - WIDTH));
        window.insert(999);
        assert!(!window.is_fresh(999));
        window.insert(u64::MAX);
        assert!(!window.is_fresh(u64::MAX));
        assert!(!window.is_fresh(1000));
        assert!(window.is_fresh(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn never_twice_and_always_if_new_and_near(numbers in prop::collection::vec(1u64..600, 1..400)) {
            let mut window = Window::default();
            let mut all = BTreeSet::new();
            for number in numbers {
                let highest = all.last().copied().unwrap_or(0);
                let expected = !all.contains(&number) && number + WIDTH > highest;
                prop_assert_eq!(window.is_fresh(number), expected);
                if expected {
                    window.insert(number);
                    all.insert(number);
                }
            }
        }
    }
}
