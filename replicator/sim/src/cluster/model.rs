//! Going alone, looked at in full: every order in which a few things can happen to two controllers as they are, up to a depth.
//!
//! Steps end at once and well; what is left open is what is dangerous: when reports are heard, when a node takes its peer for lost, when the session
//! ends at either end and how far a resync comes, when an order to the mirror or to the record is carried out, when the arbiter takes a request,
//! whether its answer arrives, when time passes, and where a node crashes. Each state is looked at once (by a hash of all of it).
//!
//! Held in every state: **one-acknowledger**.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

mod node;
mod state;

use state::{Budget, State};

/// How far it goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events after the cluster has come up.
    pub depth: usize,
    /// So many things may break: a peer taken for lost, a session ended, a node crashed, an answer lost.
    pub faults: u8,
    /// The arbiter gives a term to whoever asks: that has to be found.
    pub sabotage: bool,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// Different states.
    pub states: u64,
    /// In which somebody is active alone.
    pub alone: u64,
    /// The deepest.
    pub depth: usize,
    /// All states were seen that there are within the limits.
    pub complete: bool,
}

/// The way to a state.
struct Way {
    event: String,
    before: Option<Rc<Way>>,
}

fn way(mut from: &Rc<Way>) -> Vec<String> {
    let mut events = vec![from.event.clone()];
    while let Some(before) = &from.before {
        events.push(before.event.clone());
        from = before;
    }
    events.reverse();
    events
}

fn hash(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{state:?}").hash(&mut hasher);
    hasher.finish()
}

/// Look at all states, the nearest first; no more than `states_max`.
///
/// # Errors
/// The shortest way to a state in which two acknowledge.
pub fn explore(limits: Limits, states_max: u64) -> Result<Explored, Vec<String>> {
    let first = State::mirrored(Budget { faults: limits.faults, time: 3 }, limits.sabotage)?;
    let mut seen = BTreeSet::from([hash(&first)]);
    let mut queue = VecDeque::from([(first, 0, Rc::new(Way { event: "both mirror".into(), before: None }))]);
    let mut explored = Explored { complete: true, ..Explored::default() };
    while let Some((state, depth, before)) = queue.pop_front() {
        explored.states += 1;
        explored.alone += u64::from(state.is_alone());
        explored.depth = depth;
        if depth == limits.depth {
            continue;
        }
        for happening in state.possible() {
            let mut next = state.clone();
            next.happen(happening);
            let way_there = || Rc::new(Way { event: format!("{happening:?}"), before: Some(before.clone()) });
            if let Some(broken) = next.broken.take() {
                let mut events = way(&way_there());
                events.push(broken);
                return Err(events);
            }
            if !seen.insert(hash(&next)) {
                continue;
            }
            if explored.states + queue.len() as u64 >= states_max {
                explored.complete = false;
                continue;
            }
            queue.push_back((next, depth + 1, way_there()));
        }
    }
    Ok(explored)
}
