//! All short sequences around a sync: every one of up to three operations out of a small alphabet, on two names in two
//! directories, the sync at each place after the first, of each file and each directory. The copy is held against the oracle
//! when the sync returns, and both trees are compared at the end.
//!
//! Many run in one mount, each in a directory of its own, so that only syncs cost time.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::ground::{Directories, Ground, named};
use super::observe::{self, Depth};
use super::operation::{Flags, Msync, Operation, Outcome, Rename, Space, Step, Target, Via, Write};
use super::oracle::History;
use super::state::State;
use crate::lab::{interrupt, wait};

const X: &str = "d/x";
const Y: &str = "e/y";
/// What is synced.
const SYNCED: &[&str] = &[X, Y, "d", "e"];
/// Bytes of a file at the beginning: two blocks and a part.
const SIZE: u64 = 10_000;
/// Sequences that are prepared, and compared at their end, together.
const BATCH: usize = 400;
const SAME_BOUND: Duration = Duration::from_secs(60);

/// What was run.
#[derive(Clone, Default, Debug)]
pub struct Found {
    /// Sequences.
    pub cases: usize,
    /// What differs, with the case; only the first few.
    pub differences: Vec<String>,
}

/// A sequence: what is done before the sync, the sync, and what is done after it.
#[derive(Clone, Debug)]
struct Case {
    words: String,
    /// Whether the second name is there at the beginning, too.
    both: bool,
    before: Vec<Operation>,
    sync: Operation,
    after: Vec<Operation>,
}

/// A letter of the alphabet: its name and its calls.
type Letter = (String, Vec<Operation>);

/// Run all sequences of up to `length` letters, or every `stride`th.
///
/// # Errors
/// A process or node is gone.
pub fn run(ground: &mut Ground, length: usize, stride: usize) -> Result<Found> {
    let mut found = Found::default();
    let cases: Vec<Case> = cases(length).into_iter().step_by(stride).collect();
    for (number, batch) in cases.chunks(BATCH).enumerate() {
        interrupt::check()?;
        found.differences.extend(run_batch(ground, batch)?);
        found.cases += batch.len();
        if found.differences.len() > 20 {
            break;
        }
        if number % 10 == 9 {
            println!("{} of {} sequences around a sync", found.cases, cases.len());
        }
    }
    Ok(found)
}

fn alphabet() -> Vec<Letter> {
    let mut letters = Vec::new();
    for (name, other) in [(X, Y), (Y, X)] {
        let path = || name.to_owned();
        let opened = |flags: Flags, operation: Operation| {
            vec![
                Operation::Open { slot: 0, path: path(), flags, mode: 0o644 },
                operation,
                Operation::Close { slot: 0 },
            ]
        };
        let there = Flags { read: true, write: true, ..Flags::default() };
        let write = |tag| Operation::Write {
            slot: 0,
            at: 3000,
            length: 3000,
            tag,
            how: Write::Plain,
            via: Via::Call,
        };
        let store = Operation::Store { slot: 0, at: 20, length: 30, tag: 3, sync: Msync::No };
        let punch = Operation::Allocate { slot: 0, space: Space::Punch, at: 4000, length: 5000 };
        let new = Flags { create: true, exclusive: true, ..there };
        let value = b"value".to_vec();
        let attribute = Operation::SetAttribute {
            target: Target::Path(path()),
            name: "user.k".to_owned(),
            value,
            flags: 0,
        };
        let to = || other.to_owned();
        for (word, operations) in [
            ("write", opened(there, write(1))),
            ("append", opened(Flags { append: true, ..there }, write(2))),
            ("truncate", vec![Operation::Truncate { path: path(), length: 5000 }]),
            ("rename", vec![Operation::Rename { from: path(), to: to(), how: Rename::Plain }]),
            ("link", vec![Operation::Link { from: path(), to: to() }]),
            ("unlink", vec![Operation::Unlink { path: path() }]),
            ("create", opened(new, write(4))),
            ("store", opened(there, store)),
            ("punch", opened(there, punch)),
            ("attribute", vec![attribute]),
        ] {
            letters.push((format!("{word} {name}"), operations));
        }
    }
    letters
}

/// What is there at the beginning.
fn setting(both: bool) -> Vec<Operation> {
    let mut steps: Vec<Operation> = ["d", "e"]
        .iter()
        .map(|path| Operation::MakeDirectory { path: (*path).to_owned(), mode: 0o755 })
        .collect();
    let names: &[&str] = if both { &[X, Y] } else { &[X] };
    for path in names {
        let flags = Flags { read: true, write: true, create: true, ..Flags::default() };
        steps.push(Operation::Open { slot: 0, path: (*path).to_owned(), flags, mode: 0o644 });
        steps.push(Operation::Write {
            slot: 0,
            at: 0,
            length: SIZE,
            tag: path.len() as u64 + u64::from(*path == Y) * 7,
            how: Write::Plain,
            via: Via::Call,
        });
        steps.push(Operation::Close { slot: 0 });
    }
    steps
}

/// Sequences in which every letter has an effect: the others are sequences of fewer.
fn words(length: usize, both: bool) -> Vec<Vec<Letter>> {
    let letters = alphabet();
    let mut all: Vec<Vec<Letter>> = vec![Vec::new()];
    let mut longest = all.clone();
    for _ in 0..length {
        longest = longest
            .iter()
            .flat_map(|word| {
                letters.iter().map(|letter| [word.as_slice(), std::slice::from_ref(letter)].concat())
            })
            .filter(|word| has_effect(word, both))
            .collect();
        all.extend(longest.clone());
    }
    all.retain(|word| !word.is_empty());
    all
}

fn has_effect(word: &[Letter], both: bool) -> bool {
    let mut state = after(&setting(both));
    let mut effects = word.iter().map(|(_, operations)| {
        operations.iter().all(|operation| matches!(take(&mut state, operation), Outcome::Done(_)))
    });
    effects.all(|effect| effect)
}

fn after(operations: &[Operation]) -> State {
    let mut state = State::new(1);
    for operation in operations {
        take(&mut state, operation);
    }
    state
}

fn take(state: &mut State, operation: &Operation) -> Outcome {
    state.take(&Step { actor: 0, operation: operation.clone() })
}

fn cases(length: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for both in [false, true] {
        for word in words(length, both) {
            for at in 1..=word.len() {
                let (before, later) = word.split_at(at);
                let operations =
                    |letters: &[Letter]| letters.iter().flat_map(|(_, all)| all.clone()).collect::<Vec<_>>();
                let before_words: Vec<&str> = before.iter().map(|(word, _)| word.as_str()).collect();
                let after_words: Vec<&str> = later.iter().map(|(word, _)| word.as_str()).collect();
                let (before, later) = (operations(before), operations(later));
                let state = after(&[setting(both), before.clone()].concat());
                for path in SYNCED.iter().filter(|path| state.find(path, true).is_ok()) {
                    let words = format!(
                        "{}; {}; sync {path}; {}",
                        if both { "two files" } else { "one file" },
                        before_words.join(", "),
                        after_words.join(", ")
                    );
                    let sync = Operation::SyncPath { path: (*path).to_owned() };
                    cases.push(Case { words, both, before: before.clone(), sync, after: later.clone() });
                }
            }
        }
    }
    cases
}

/// Run some, all prepared before the first and compared after the last.
fn run_batch(ground: &mut Ground, batch: &[Case]) -> Result<Vec<String>> {
    let directories = ground.begin()?;
    let found = within(ground, batch, &directories);
    ground.end(&directories)?;
    found
}

fn within(ground: &mut Ground, batch: &[Case], directories: &Directories) -> Result<Vec<String>> {
    let at = |root: &PathBuf, number: usize| root.join(number.to_string());
    for (number, case) in batch.iter().enumerate() {
        let own = at(&directories.gate, number);
        std::fs::create_dir(&own)?;
        do_all(ground, &own, &setting(case.both))?;
    }
    wait_same(directories)?;
    let mut found = Vec::new();
    for (number, case) in batch.iter().enumerate() {
        let own = at(&directories.gate, number);
        do_all(ground, &own, &case.before)?;
        let outcome = ground.through[0].take(std::slice::from_ref(&case.sync))?;
        let mut history = History::new(after(&setting(case.both)));
        history.all_synced();
        for operation in case.before.iter().chain(std::iter::once(&case.sync)) {
            let step = Step { actor: 0, operation: operation.clone() };
            let mut state = history.last().clone();
            let expected = state.take(&step);
            history.note(&step, &expected, state);
        }
        ensure!(outcome == [Outcome::Done(0)], "{}: the sync gave {outcome:?}", case.words);
        let copy = observe::directory(&at(&directories.copy, number)).context(case.words.clone())?;
        found.extend(named(&case.words, history.check(&copy)));
        if !case.after.is_empty() {
            ground.through[0].take(&case.after)?;
        }
    }
    wait_same(directories)?;
    for (number, case) in batch.iter().enumerate() {
        let operations = [&setting(case.both)[..], &case.before, &case.after].concat();
        let gate = observe::directory(&at(&directories.gate, number))?;
        let differences = observe::differences(&observe::model(&after(&operations)), &gate, Depth::Full);
        found.extend(named(&format!("{}: model / gate", case.words), differences));
    }
    Ok(found)
}

fn do_all(ground: &mut Ground, directory: &std::path::Path, operations: &[Operation]) -> Result<()> {
    ground.through[0].enter(directory)?;
    let outcomes = ground.through[0].take(operations)?;
    let bad = outcomes.iter().zip(operations).find(|(outcome, _)| !matches!(outcome, Outcome::Done(_)));
    ensure!(bad.is_none(), "{bad:?}");
    Ok(())
}

fn wait_same(directories: &Directories) -> Result<()> {
    let mut last = Vec::new();
    wait::until("the copies of a batch to be the same", SAME_BOUND, || {
        last = directories.differences();
        Ok(last.is_empty().then_some(()))
    })
    .with_context(|| last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_begins_a_sequence_and_none_is_without_effect() {
        assert_eq!(alphabet().len(), 20);
        let one = words(1, false);
        // Create and rename of the second name need it to be missing or there.
        assert!(one.iter().any(|word| word[0].0 == format!("create {Y}")));
        assert!(
            one.iter().all(|word| word[0].0 != format!("create {X}") && word[0].0 != format!("write {Y}"))
        );
        assert!(words(1, true).iter().any(|word| word[0].0 == format!("write {Y}")));
        assert!(cases(1).len() > 60);
    }
}
