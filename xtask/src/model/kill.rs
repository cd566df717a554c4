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

/// How far a sequence came.
struct Driven {
    /// What came of the first steps.
    outcomes: Vec<Outcome>,
    /// Whether the next one was begun.
    begun: bool,
}

/// Run it, and kill once `after` steps have been answered (or all of them).
///
/// # Errors
/// A node does not come back.
pub fn run(ground: &mut Ground, steps: &[Step], after: usize) -> Result<Vec<String>> {
    let actors = ground.through.len() as u8;
    let steps = allowed(steps, actors);
    let directories = ground.begin()?;
    let driven = drive_and_kill(ground, &steps, after)?;
    ground.mirror.secondary.wait_for("all that was received is applied", wait::SHORT, |status| {
        status.phase == "Waiting" && status.positions.applied >= status.positions.received
    })?;
    let (history, local, mut found) = remember(&steps, &driven, actors);
    found.extend(named("copy after the kill", after_sync(&history, &directories)));
    ground.mirror.start_nodes()?;
    found.extend(after_return(ground, &directories, &local)?);
    ground.start_actors(actors)?;
    ground.end(&directories)?;
    Ok(found)
}

/// The steps that may be done, so that whoever drives them needs no model.
fn allowed(steps: &[Step], actors: u8) -> Vec<Step> {
    let mut state = State::new(usize::from(actors));
    let mut may = |step: &&Step| {
        let allowed = state.allows(step);
        if allowed {
            state.take(step);
        }
        allowed
    };
    steps.iter().filter(|step| may(step)).cloned().collect()
}

fn drive_and_kill(ground: &mut Ground, steps: &[Step], after: usize) -> Result<Driven> {
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

fn drive(actors: &mut [Actor], steps: &[Step], answered: &AtomicUsize) -> Driven {
    let mut driven = Driven { outcomes: Vec::new(), begun: false };
    for step in steps {
        let actor = &mut actors[usize::from(step.actor)];
        let outcome = actor.take(std::slice::from_ref(&step.operation)).ok().and_then(|mut all| all.pop());
        match outcome {
            Some(Outcome::Refused(errno)) if DEAD.contains(&errno) => {
                driven.begun = true;
                break;
            }
            Some(outcome) => driven.outcomes.push(outcome),
            None => {
                driven.begun = true;
                break;
            }
        }
        answered.fetch_add(1, Ordering::SeqCst);
    }
    driven
}

/// What is promised of the copy, what must be left on the primary, and what came out differently from the model.
fn remember(steps: &[Step], driven: &Driven, actors: u8) -> (History, History, Vec<String>) {
    let mut history = History::new(State::new(usize::from(actors)));
    let mut found = Vec::new();
    for (step, outcome) in steps.iter().zip(&driven.outcomes) {
        let mut state = history.last().clone();
        let expected = state.take(step);
        if !expected.allows(outcome) {
            found.push(format!("{step}: gate {outcome:?}, model {expected:?}"));
        }
        history.note(step, outcome, state);
    }
    let mut local = history.clone();
    local.all_synced();
    if driven.begun
        && let Some(step) = steps.get(driven.outcomes.len())
    {
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
