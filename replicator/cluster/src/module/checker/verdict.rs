//! From single looks to a verdict: no clock, no I/O.
//!
//! ```text
//!            first success, or `successes` after a failure
//!  Unknown ---------------------------------------------> Up
//!     |                                                  |  ^
//!     | `failures` failures in a row                     |  | `successes` successes in a row
//!     |                                                  v  |
//!     +------------------------------------------------> Down
//! ```
//!
//! A checker that goes to and fro without ever reaching a threshold keeps its verdict. One that stays down asks for its action again
//! after each further `failures` failures: whoever could not act the first time, or was told not to, is told again.

/// What one look found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observation {
    /// All is well.
    Success,
    /// It is not, and why.
    Failure(String),
}

/// What is thought of the thing that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Verdict {
    /// Too little is known.
    #[default]
    Unknown,
    /// It works.
    Up,
    /// It does not.
    Down,
}

/// How many looks in a row make a verdict; each at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Failures that make it down.
    pub failures: u32,
    /// Successes that make it up again.
    pub successes: u32,
}

/// What one look changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    /// The verdict is another one now.
    pub changed: bool,
    /// The action is due.
    pub act: bool,
}

/// The verdict, and the looks it rests upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerdictState {
    thresholds: Thresholds,
    verdict: Verdict,
    failures: u32,
    successes: u32,
    failed_before: bool,
    reason: String,
}

impl VerdictState {
    /// Nothing is known yet.
    pub fn new(thresholds: Thresholds) -> VerdictState {
        VerdictState {
            thresholds,
            verdict: Verdict::Unknown,
            failures: 0,
            successes: 0,
            failed_before: false,
            reason: String::new(),
        }
    }

    /// The verdict now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Failures in a row until now; after an action was due they are counted anew.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What the last failure was, empty if there was none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Take note of a look.
    pub fn observe(&mut self, observation: Observation) -> Turn {
        match observation {
            Observation::Success => self.success(),
            Observation::Failure(reason) => self.failure(reason),
        }
    }

    fn success(&mut self) -> Turn {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        let at_once = self.verdict == Verdict::Unknown && !self.failed_before;
        if self.verdict == Verdict::Up || (!at_once && self.successes < self.thresholds.successes) {
            return Turn::default();
        }
        self.verdict = Verdict::Up;
        Turn { changed: true, act: false }
    }

    fn failure(&mut self, reason: String) -> Turn {
        self.reason = reason;
        self.failed_before = true;
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.thresholds.failures {
            return Turn::default();
        }
        self.failures = 0;
        let changed = self.verdict != Verdict::Down;
        self.verdict = Verdict::Down;
        Turn { changed, act: true }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks (`+` and `-`), and after each the verdict (`?`, `U`, `D`), in capitals with `!` where the action is due.
    fn course(failures: u32, successes: u32, looks: &str) -> String {
        let mut state = VerdictState::new(Thresholds { failures, successes });
        let mut course = String::new();
        for look in looks.chars() {
            let before = state.verdict();
            let turn = state.observe(match look {
                '+' => Observation::Success,
                _ => Observation::Failure("it failed".into()),
            });
            assert_eq!(turn.changed, state.verdict() != before);
            course.push(match state.verdict() {
                Verdict::Unknown => '?',
                Verdict::Up => 'U',
                Verdict::Down => 'D',
            });
            if turn.act {
                course.push('!');
            }
        }
        course
    }

    #[test]
    fn looks_make_verdicts() {
        let table = [
            // failures, successes, looks, verdicts
            (1, 1, "+-+", "UD!U"),
            (1, 1, "-+", "D!U"),
            (3, 1, "+--+--+", "UUUUUUU"),
            (3, 1, "+---", "UUUD!"),
            (3, 1, "---", "??D!"),
            (3, 1, "--+", "??U"),
            // Up at the first sight of a new application; after a failure it must show that it stays.
            (2, 3, "+", "U"),
            (2, 3, "-+++", "???U"),
            (2, 3, "--++-+++", "?D!DDDDDU"),
            // It stays down: the action is due again.
            (2, 2, "------", "?D!DD!DD!"),
            (1, 1, "---", "D!D!D!"),
            (2, 1, "+-+-+-", "UUUUUU"),
            (2, 2, "---+--", "?D!DDDD!"),
        ];
        for (failures, successes, looks, verdicts) in table {
            assert_eq!(course(failures, successes, looks), verdicts, "{failures}/{successes} {looks}");
        }
    }

    #[test]
    fn the_reason_is_that_of_the_last_failure() {
        let mut state = VerdictState::new(Thresholds { failures: 2, successes: 1 });
        state.observe(Observation::Failure("first".into()));
        state.observe(Observation::Failure("second".into()));
        assert_eq!(state.reason(), "second");
    }

    proptest! {
        /// An action is due only after so many failures in a row, and never twice for the same failure.
        #[test]
        fn no_action_without_failures(
            failures in 1..5u32,
            successes in 1..5u32,
            looks in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut state = VerdictState::new(Thresholds { failures, successes });
            let mut in_a_row = 0;
            for success in looks {
                let observation = if success { Observation::Success } else { Observation::Failure(String::new()) };
                in_a_row = if success { 0 } else { in_a_row + 1 };
                let turn = state.observe(observation);
                prop_assert_eq!(turn.act, in_a_row > 0 && in_a_row % failures == 0);
                if turn.act {
                    prop_assert_eq!(state.verdict(), Verdict::Down);
                }
            }
        }
    }
}
