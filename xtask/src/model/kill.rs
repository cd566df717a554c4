//! A sequence in whose midst the primary's side is killed -9: everything synced is on the copy, and the copy is legal; the
//! primary has lost nothing either, and after its return both trees are the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::actor::Actor;
use super::ground::{Directories, Ground, named};
use super::observe;
use super::operation::{Outcome, Step};
use super::oracle::History;
use super::state::State;
use super::turns::after_sync;
use crate::lab::wait;

/// Longest time a sequence may take until it is killed.
const BOUND: Duration = Duration::from_secs(60);
/// What a call on a dead gate gives.
const DEAD: &[i32] = &[libc::ENOTCONN, libc::ECONNABORTED];

/// Run it, and kill once `after` steps have been answered (or all of them).
///
/// # Errors
/// A node does not come back.
pub fn run(ground: &mut Ground, steps: &[Step], after: usize) -> Result<Vec<String>> {
    let actors = ground.through.len() as u8;
    let steps = allowed(steps, ground.state());
    let directories = ground.begin()?;
    let answered = drive_and_kill(ground, &steps, after)?;
    ground.mirror.secondary.wait_for("all that was received is applied", wait::SHORT, |status| {
        status.phase == "Waiting" && status.positions.applied >= status.positions.received
    })?;
    let (history, local, mut found) = remember(&steps, &answered, ground.state());
    found.extend(named("copy after the kill", after_sync(&history, &directories)));
    ground.mirror.start_nodes()?;
    found.extend(after_return(ground, &directories, &local)?);
    ground.start_actors(actors)?;
    ground.end(&directories)?;
    Ok(found)
}

/// The steps that may be done, so that whoever drives them needs no model.
fn allowed(steps: &[Step], mut state: State) -> Vec<Step> {
    let mut may = |step: &&Step| {
        let allowed = state.allows(step);
        if allowed {
            state.take(step);
        }
        allowed
    };
    steps.iter().filter(|step| may(step)).cloned().collect()
}

fn drive_and_kill(ground: &mut Ground, steps: &[Step], after: usize) -> Result<Vec<Outcome>> {
    let Ground { through, mirror, .. } = ground;
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| drive(through, steps, &answered));
        let reached = wait::until("the moment of the kill", BOUND, || {
            let reached = answered.load(Ordering::SeqCst) >= after || driver.is_finished();
            Ok(reached.then_some(()))
        });
        // Also if that failed: the driver ends only so.
        let killed = mirror.kill_primary_side();
        let driven = driver.join().map_err(|_| anyhow!("the driver panicked"))?;
        reached.and(killed)?;
        Ok(driven)
    })
}

/// What came of the first steps. Whatever step comes after them was under way when the gate died.
fn drive(actors: &mut [Actor], steps: &[Step], answered: &AtomicUsize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for step in steps {
        let actor = &mut actors[usize::from(step.actor)];
        let outcome = actor.take(std::slice::from_ref(&step.operation)).ok().and_then(|mut all| all.pop());
        match outcome {
            None => break,
            Some(Outcome::Refused(errno)) if DEAD.contains(&errno) => break,
            Some(outcome) => outcomes.push(outcome),
        }
        answered.fetch_add(1, Ordering::SeqCst);
    }
    outcomes
}

/// What is promised of the copy, what must be left on the primary, and what came out differently from the model.
fn remember(steps: &[Step], answered: &[Outcome], state: State) -> (History, History, Vec<String>) {
    let mut history = History::new(state);
    let mut found = Vec::new();
    for (step, outcome) in steps.iter().zip(answered) {
        let mut state = history.last().clone();
        let expected = state.take(step);
        if !expected.allows(outcome) {
            found.push(format!("{step}: gate {outcome:?}, model {expected:?}"));
        }
        history.note(step, outcome, state);
    }
    let mut local = history.clone();
    local.all_synced();
    if let Some(step) = steps.get(answered.len()) {
        history.perhaps(step);
        local.perhaps(step);
    }
    (history, local, found)
}

fn after_return(ground: &mut Ground, directories: &Directories, local: &History) -> Result<Vec<String>> {
    let gate = observe::directory(&directories.gate).context("the primary's own tree")?;
    let mut found = named("the primary after its return", local.check(&gate));
    found.extend(ground.settle(directories)?);
    Ok(found)
}
