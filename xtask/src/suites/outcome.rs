//! What the tests of a suite gave, and in what both sides differ.

use std::collections::BTreeMap;

/// How one test ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should; with the suite's words.
    Failed(String),
    /// The suite itself left it out; with its words.
    Skipped(String),
}

/// One test of a suite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// Its name, the same on both sides.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// A digest of what it left behind, where that is the same in each run.
    pub left: Option<u64>,
}

impl Case {
    /// A test whose remains are not compared.
    #[must_use]
    pub fn new(name: &str, outcome: Outcome) -> Case {
        Case { name: name.to_owned(), outcome, left: None }
    }
}

/// Counts, for a line of a report.
#[must_use]
pub fn count(cases: &[Case]) -> String {
    let of = |wanted: fn(&Outcome) -> bool| cases.iter().filter(|case| wanted(&case.outcome)).count();
    format!(
        "{} passed {} failed {} skipped",
        of(|outcome| matches!(outcome, Outcome::Passed)),
        of(|outcome| matches!(outcome, Outcome::Failed(_))),
        of(|outcome| matches!(outcome, Outcome::Skipped(_)))
    )
}

/// In what the gate differs from the native side.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Differences {
    /// Passed natively and not on the gate.
    pub worse: Vec<String>,
    /// The same, with the reason that is documented.
    pub documented: Vec<String>,
    /// Did not pass natively and did on the gate, or fails on both sides: shown, no fault of the gate.
    pub notes: Vec<String>,
}

impl Differences {
    /// Whether the gate passes all it must.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.worse.is_empty()
    }

    /// One line for each, each after a line break.
    #[must_use]
    pub fn lines(&self) -> String {
        let of = |word: &str, lines: &[String]| -> String {
            lines.iter().map(|line| format!("\n{word}: {line}")).collect()
        };
        of("note", &self.notes) + &of("documented", &self.documented) + &of("WORSE", &self.worse)
    }
}

/// Compare test by test. `reason` gives the documented reason why a test cannot pass on the gate.
#[must_use]
pub fn compare(native: &[Case], gate: &[Case], reason: impl Fn(&str) -> Option<&'static str>) -> Differences {
    let by_name: BTreeMap<&str, &Case> = gate.iter().map(|case| (case.name.as_str(), case)).collect();
    let mut found = Differences::default();
    if native.is_empty() {
        found.worse.push("no test was run natively: nothing is compared".to_owned());
    }
    for case in native {
        let name = case.name.as_str();
        let other = by_name.get(name).map(|case| &case.outcome);
        let left = by_name.get(name).and_then(|case| case.left);
        match (&case.outcome, other) {
            (Outcome::Passed, Some(Outcome::Passed)) if case.left == left => (),
            (Outcome::Passed, Some(Outcome::Passed)) => {
                found.worse.push(format!("{name}: passed on both sides, but left other bytes"));
            }
            (Outcome::Passed, other) => {
                let words = other.map_or("not there".to_owned(), describe);
                match reason(name) {
                    Some(reason) => found.documented.push(format!("{name}: {words}; {reason}")),
                    None => found.worse.push(format!("{name}: passed natively; on the gate {words}")),
                }
            }
            (one, Some(Outcome::Passed)) => {
                found.notes.push(format!("{name}: natively {}; passed on the gate", describe(one)));
            }
            (one @ Outcome::Failed(_), _) => found.notes.push(format!("{name}: natively {}", describe(one))),
            (Outcome::Skipped(_), Some(other @ Outcome::Failed(_))) => {
                found.worse.push(format!("{name}: skipped natively; on the gate {}", describe(other)));
            }
            (Outcome::Skipped(_), _) => (),
        }
    }
    found
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Failed(words) => format!("failed ({})", words.trim()),
        Outcome::Skipped(words) => format!("skipped ({})", words.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: Outcome) -> Case {
        Case::new(name, outcome)
    }

    fn failed() -> Outcome {
        Outcome::Failed("x".into())
    }

    #[test]
    fn what_passes_natively_must_pass_on_the_gate() {
        let native = [case("a", Outcome::Passed)];
        let worse = |gate: &[Case]| compare(&native, gate, |_| None).worse.len();
        assert_eq!(worse(&native), 0);
        assert_eq!(worse(&[case("a", failed())]), 1);
        assert_eq!(worse(&[case("a", Outcome::Skipped("y".into()))]), 1);
        assert_eq!(worse(&[case("b", Outcome::Passed)]), 1, "a test that was not run");
        assert_eq!(compare(&[], &[], |_| None).worse.len(), 1, "an empty run proves nothing");
    }

    #[test]
    fn a_documented_difference_is_shown_and_no_fault() {
        let native = [case("a", Outcome::Passed), case("b", Outcome::Passed)];
        let gate = [case("a", failed()), case("b", failed())];
        let found = compare(&native, &gate, |name| (name == "a").then_some("the kernel refuses"));
        assert_eq!((found.worse.len(), found.documented.len()), (1, 1));
        assert!(!found.is_good());
    }

    #[test]
    fn what_fails_natively_is_a_note() {
        let native = [case("a", failed()), case("b", failed())];
        let gate = [case("a", failed()), case("b", Outcome::Passed)];
        let found = compare(&native, &gate, |_| None);
        assert_eq!((found.worse.len(), found.notes.len()), (0, 2));
    }

    #[test]
    fn other_bytes_are_a_difference() {
        let native = [Case { left: Some(1), ..case("a", Outcome::Passed) }];
        let gate = [Case { left: Some(2), ..case("a", Outcome::Passed) }];
        assert!(!compare(&native, &gate, |_| None).is_good());
        assert!(compare(&native, &native, |_| None).is_good());
    }
}
