//! **one-step**: no step is ordered while one of the same thing is under way, but one that breaks it off: a stop a start, a stop by force a stop in
//! order, an end of the mirror a drain.

use replicator_core::cluster::posture::Step;

use super::Broken;

#[derive(Default)]
pub struct Check {
    under_way: [Vec<Step>; 2],
}

#[derive(PartialEq, Eq)]
enum Thing {
    Mirror,
    Addresses,
    Application,
}

fn thing(step: Step) -> Thing {
    match step {
        Step::StartMirror { .. } | Step::StopMirror | Step::Drain => Thing::Mirror,
        Step::TakeAddresses | Step::GiveUpAddresses => Thing::Addresses,
        Step::StartApplication | Step::StopApplication { .. } => Thing::Application,
    }
}

fn breaks(step: Step, other: Step) -> bool {
    matches!(
        (step, other),
        (Step::StopMirror, Step::StartMirror { .. } | Step::Drain)
            | (Step::StopApplication { .. }, Step::StartApplication)
            | (Step::StopApplication { force: true }, Step::StopApplication { force: false })
    )
}

impl Check {
    pub fn ordered(&mut self, node: usize, step: Step) -> Result<(), Broken> {
        let other = self.under_way[node]
            .iter()
            .copied()
            .find(|other| thing(*other) == thing(step) && !breaks(step, *other));
        self.under_way[node].push(step);
        match other {
            None => Ok(()),
            Some(other) => Err(("one-step", format!("{node}: {step:?} while {other:?} is under way"))),
        }
    }

    pub fn ended(&mut self, node: usize, step: Step) {
        if let Some(at) = self.under_way[node].iter().position(|other| *other == step) {
            self.under_way[node].remove(at);
        }
    }

    /// The daemon is gone, and with it all that it had under way.
    pub fn forget(&mut self, node: usize) {
        self.under_way[node].clear();
    }
}
