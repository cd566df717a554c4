//! The arbiter: a register that is compared and set, reached over a network that loses answers.

use replicator_core::cluster::{Event, Verdict};
use replicator_core::ids::Term;

use super::saboteur::Sabotage;
use super::world::{Happening, MS, SECOND, World};

/// The highest term that was given, and to whom.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Register {
    pub term: Term,
    pub holder: usize,
}

/// A request, as the arbiter takes it.
pub fn decide(register: &mut Option<Register>, node: usize, term: Term) -> Verdict {
    match *register {
        Some(given) if term < given.term || (term == given.term && given.holder != node) => {
            Verdict::Lost { term: given.term, own: given.holder == node }
        }
        _ => {
            *register = Some(Register { term, holder: node });
            Verdict::Won
        }
    }
}

impl World {
    /// The daemon asks; without an answer in time that is one, too.
    pub(super) fn ask(&mut self, node: usize, term: Term) {
        let id = self.random.next();
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        daemon.asked = Some((id, term));
        let epoch = daemon.epoch;
        self.after(SECOND, Happening::Answer { to: node, epoch, id, term, verdict: Verdict::Unreachable });
        if self.arbiter_up[node] {
            let slow = !self.calm && self.random.chance(10);
            let delay = if slow { self.between(100 * MS, 4 * SECOND) } else { self.between(MS, 20 * MS) };
            self.after(delay, Happening::Ask { from: node, epoch, id, term });
        }
    }

    /// It reaches the arbiter.
    pub(super) fn asked(&mut self, from: usize, epoch: u64, id: u64, term: Term) {
        let verdict = if self.sabotage == Sabotage::GrantsTwice {
            Verdict::Won
        } else {
            decide(&mut self.register, from, term)
        };
        self.stats.granted += u64::from(verdict == Verdict::Won);
        self.say(|world| format!("arbiter: {from} asks for {term}: {verdict:?}, {:?}", world.register));
        let reached = self.arbiter_up[from];
        let lost = reached && self.random.chance(5) && !self.calm;
        if reached && !lost {
            let delay = self.between(MS, 20 * MS);
            self.after(delay, Happening::Answer { to: from, epoch, id, term, verdict });
        }
    }

    /// The first answer counts, be it that there is none.
    pub(super) fn answered(&mut self, to: usize, epoch: u64, id: u64, term: Term, verdict: Verdict) {
        let Some(daemon) = &mut self.nodes[to].daemon else { return };
        if daemon.epoch == epoch && daemon.asked.take_if(|asked| *asked == (id, term)).is_some() {
            self.deliver(to, Event::Arbiter(term, verdict));
        }
    }
}
