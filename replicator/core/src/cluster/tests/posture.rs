//! Every pair of a posture and a goal, walked to its end.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::super::posture::{Goal, Haste, Posture, Step, Thing};
use super::super::types::Role;
use crate::ids::Term;

const HASTES: [Haste; 3] = [Haste::None, Haste::Drain, Haste::Fenced];

fn goals() -> Vec<Goal> {
    let active = Goal::Active { term: Term(3), alone: true, force: false };
    alloc::vec![Goal::Nothing, Goal::Secondary, active]
}

/// What of a posture is told apart.
type Key = (Thing, Option<bool>, Thing, Thing, bool, Option<bool>, bool);

fn key(posture: &Posture) -> Key {
    let role = posture.role.map(|role| role == Role::Primary);
    (
        posture.mirror,
        role,
        posture.addresses,
        posture.application,
        posture.draining,
        posture.drained,
        posture.by_force,
    )
}

/// What is under way in a posture: each may end at any time, well or not.
fn under_way(posture: &Posture) -> Vec<Step> {
    let mut steps = Vec::new();
    let role = posture.role.unwrap_or(Role::Secondary);
    match posture.mirror {
        Thing::Starting => steps.push(Step::StartMirror { role, term: Term(3), alone: true, force: false }),
        Thing::Stopping => steps.push(Step::StopMirror),
        _ => {}
    }
    if posture.draining {
        steps.push(Step::Drain);
    }
    match posture.addresses {
        Thing::Starting => steps.push(Step::TakeAddresses),
        Thing::Stopping => steps.push(Step::GiveUpAddresses),
        _ => {}
    }
    match posture.application {
        Thing::Starting => steps.push(Step::StartApplication),
        Thing::Stopping => steps.push(Step::StopApplication { force: posture.by_force }),
        _ => {}
    }
    steps
}

/// All postures that a node can come to, whatever it wants in between and however steps end.
fn reachable() -> Vec<Posture> {
    let mut seen: BTreeMap<Key, Posture> = BTreeMap::new();
    let mut queue = VecDeque::from([Posture::unclear(), Posture::default()]);
    while let Some(posture) = queue.pop_front() {
        if seen.insert(key(&posture), posture).is_some() {
            continue;
        }
        for goal in goals() {
            for haste in HASTES {
                if let Some(step) = posture.next(goal, haste) {
                    check(&posture, goal, haste, step);
                    let mut next = posture;
                    next.begin(step);
                    queue.push_back(next);
                }
            }
        }
        for step in under_way(&posture) {
            for well in [true, false] {
                let mut next = posture;
                assert!(next.end(step, well), "{posture:?} does not know {step:?}");
                queue.push_back(next);
            }
        }
        if matches!(posture.mirror, Thing::Starting | Thing::On) {
            // It ended by itself.
            queue.push_back(Posture { mirror: Thing::Off, draining: false, ..posture });
        }
    }
    seen.into_values().collect()
}

/// What holds for each step.
fn check(posture: &Posture, goal: Goal, haste: Haste, step: Step) {
    let text = alloc::format!("{posture:?} towards {goal:?}, {haste:?}: {step:?}");
    let serves = posture.mirror == Thing::On && posture.role == Some(Role::Primary);
    match step {
        Step::StartApplication => {
            assert!(serves && posture.addresses == Thing::On && posture.application == Thing::Off, "{text}");
            assert!(matches!(goal, Goal::Active { .. }), "{text}");
        }
        Step::TakeAddresses => {
            assert!(matches!(goal, Goal::Active { .. }), "{text}");
            assert!(posture.addresses == Thing::Off, "{text}");
        }
        Step::GiveUpAddresses => {
            let up = matches!(goal, Goal::Active { .. });
            let off = posture.application == Thing::Off;
            assert!(off || haste == Haste::Fenced || up, "{text}");
            assert!(!up || posture.addresses == Thing::Unclear, "{text}");
        }
        Step::StopMirror => {
            let primary = posture.role == Some(Role::Primary);
            let unclear = posture.mirror == Thing::Unclear;
            // Who is fenced lets go what waits in the kernel, so that it can be ended.
            let forced = haste == Haste::Fenced
                && (posture.application, posture.by_force) == (Thing::Stopping, true)
                && posture.addresses == Thing::Off;
            assert!(posture.application == Thing::Off || unclear || !primary || forced, "{text}");
        }
        Step::StartMirror { role, .. } => {
            assert_eq!(posture.mirror, Thing::Off, "{text}");
            let active = matches!(goal, Goal::Active { .. });
            assert_eq!(role == Role::Primary, active, "{text}");
        }
        Step::Drain => {
            assert!(serves && haste == Haste::Drain && posture.drained.is_none(), "{text}");
            assert!(posture.application == Thing::Off && posture.addresses == Thing::Off, "{text}");
        }
        Step::StopApplication { .. } => assert_ne!(posture.application, Thing::Off, "{text}"),
    }
    // Nothing that is under way is ordered again.
    assert!(!under_way(posture).contains(&step), "{text}");
    if haste == Haste::Fenced && !matches!(goal, Goal::Active { .. }) {
        let has = matches!(posture.addresses, Thing::On | Thing::Unclear);
        let receives = posture.role == Some(Role::Secondary) && posture.addresses == Thing::Off;
        assert!(!has || step == Step::GiveUpAddresses || receives, "{text}");
    }
}

/// Take all steps that can be taken.
fn order(posture: &mut Posture, goal: Goal, haste: Haste) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(step) = posture.next(goal, haste) {
        posture.begin(step);
        steps.push(step);
        assert!(steps.len() <= 6, "{posture:?} towards {goal:?}: {steps:?}");
    }
    steps
}

/// How many ends of steps it takes to the goal, where the first so many fail.
fn walk(from: Posture, goal: Goal, haste: Haste, mut failures: usize) -> usize {
    let mut posture = from;
    for ends in 0..60 {
        order(&mut posture, goal, haste);
        if posture.is_at(goal) && under_way(&posture).is_empty() {
            return ends;
        }
        let steps = under_way(&posture);
        let step = steps.first().copied();
        let Some(step) = step else {
            panic!("{from:?} towards {goal:?}, {haste:?}: stuck in {posture:?}");
        };
        let well = failures == 0;
        failures = failures.saturating_sub(1);
        posture.end(step, well);
    }
    panic!("{from:?} towards {goal:?}, {haste:?}: no end");
}

#[test]
fn every_posture_leads_to_every_goal() {
    let all = reachable();
    assert!(all.len() > 300, "{} postures", all.len());
    let mut longest = 0;
    for posture in &all {
        for goal in goals() {
            for haste in HASTES {
                for failures in [0, 1, 2, 5, 20] {
                    let ends = walk(*posture, goal, haste, failures);
                    if failures == 0 {
                        longest = longest.max(ends);
                    }
                }
            }
        }
    }
    // From a primary that is everything to a secondary and the other way round: as many steps as there are things, twice.
    assert!(longest <= 9, "{longest} steps");
}

#[test]
fn a_goal_that_is_reached_needs_no_step() {
    for posture in reachable() {
        for goal in goals() {
            for haste in HASTES {
                if posture.is_at(goal) && under_way(&posture).is_empty() {
                    assert_eq!(posture.next(goal, haste), None, "{posture:?} at {goal:?}");
                }
            }
        }
    }
}

#[test]
fn an_end_of_what_is_not_under_way_changes_nothing() {
    let every = [
        Step::StartMirror { role: Role::Primary, term: Term(3), alone: true, force: false },
        Step::StopMirror,
        Step::Drain,
        Step::TakeAddresses,
        Step::GiveUpAddresses,
        Step::StartApplication,
        Step::StopApplication { force: true },
        Step::StopApplication { force: false },
    ];
    for posture in reachable() {
        let going: BTreeSet<_> = under_way(&posture).iter().map(|step| alloc::format!("{step:?}")).collect();
        for step in every {
            let same = |name: &alloc::string::String| {
                *name == alloc::format!("{step:?}")
                    || (name.starts_with("StartMirror") && matches!(step, Step::StartMirror { .. }))
            };
            for well in [true, false] {
                let mut after = posture;
                if !going.iter().any(same) {
                    assert!(!after.end(step, well), "{posture:?}: {step:?}");
                    assert_eq!(after, posture);
                }
            }
        }
    }
}
