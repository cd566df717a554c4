//! A sequence in strict turns: each call on the gate, natively and in the model, with the same result; after each sync the copy
//! is held against the oracle; at the end all trees are compared.

use anyhow::Result;

use super::ground::{Directories, Ground, named, unreadable};
use super::observe::{self, Depth};
use super::operation::{Outcome, Step};
use super::oracle::History;
use super::state::State;

/// What a sequence was found to do.
#[derive(Clone, Default, Debug)]
pub struct Found {
    /// What differs; nothing if all is well.
    pub differences: Vec<String>,
    /// Syncs after which the copy was looked at.
    pub syncs: u64,
}

/// How a sequence is run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Manner {
    /// Show each step.
    pub show: bool,
    /// Require that nothing is left dirty once all is deleted.
    pub settled: bool,
}

/// Run it.
///
/// # Errors
/// A process or node is gone.
pub fn run(ground: &mut Ground, steps: &[Step], manner: Manner) -> Result<Found> {
    let directories = ground.begin()?;
    let mut found = within(ground, steps, &directories, manner.show)?;
    ground.end(&directories)?;
    if manner.settled && found.differences.is_empty() {
        found.differences = ground.left_dirty()?;
    }
    Ok(found)
}

fn within(ground: &mut Ground, steps: &[Step], directories: &Directories, show: bool) -> Result<Found> {
    let mut found = Found::default();
    let mut history = History::new(ground.state());
    for (number, step) in steps.iter().enumerate() {
        let mut state = history.last().clone();
        if !state.allows(step) {
            continue;
        }
        let expected = state.take(step);
        let (gate, plain) = ground.take(step.actor, &step.operation)?;
        if show {
            println!("step {number} {step}: {gate:?}");
        }
        let same = gate == plain || matches!(expected, Outcome::RefusedOrProtected(_));
        if !same || !expected.allows(&gate) || !expected.allows(&plain) {
            let words =
                format!("step {number} {step}: gate {gate:?}, natively {plain:?}, model {expected:?}");
            found.differences.push(words);
            return Ok(found);
        }
        if history.note(step, &gate, state) {
            found.syncs += 1;
            let differences = after_sync(&history, directories);
            if !differences.is_empty() {
                found.differences = named(&format!("copy after step {number} {step}"), differences);
                return Ok(found);
            }
        }
    }
    found.differences = at_end(ground, directories, history.last())?;
    Ok(found)
}

/// What of the copy is against the promises, just after a sync has returned.
#[must_use]
pub fn after_sync(history: &History, directories: &Directories) -> Vec<String> {
    observe::directory(&directories.copy).map(|copy| history.check(&copy)).unwrap_or_else(unreadable)
}

fn at_end(ground: &mut Ground, directories: &Directories, state: &State) -> Result<Vec<String>> {
    let (gate, plain) = (observe::directory(&directories.gate)?, observe::directory(&directories.plain)?);
    let mut found = named("gate / natively", observe::differences(&gate, &plain, Depth::NoTimes));
    let model = observe::model(state);
    found.extend(named("model / natively", observe::differences(&model, &plain, Depth::Full)));
    found.extend(named("model / gate", observe::differences(&model, &gate, Depth::Full)));
    if found.is_empty() {
        found = ground.settle(directories)?;
    }
    Ok(found)
}
