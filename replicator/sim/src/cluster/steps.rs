//! The steps: scripts, addresses and processes that take their time, fail, or hang until they are forced.

use replicator_core::cluster::posture::Step;
use replicator_core::cluster::{Event, Role};

use super::mirror::End;
use super::node::UnderWay;
use super::saboteur::Sabotage;
use super::world::{Happening, MS, SECOND, World};

/// A script has so long.
const DEADLINE: u64 = 10 * SECOND;
/// So many steps of a node fail in a row at most.
const FAILURES: u32 = 3;

impl World {
    pub(super) fn step(&mut self, node: usize, step: Step) {
        let ordered = self.checks.one_step.ordered(node, step);
        self.check(ordered);
        self.break_off(node, step);
        let well = !self.step_fails(node);
        let delay = match step {
            Step::StartMirror { .. } => self.between(20 * MS, 900 * MS),
            Step::StopMirror => self.between(5 * MS, 400 * MS),
            Step::Drain => 2 * SECOND,
            Step::TakeAddresses => self.between(10 * MS, 900 * MS),
            Step::GiveUpAddresses => self.between(MS, 60 * MS),
            Step::StartApplication | Step::StopApplication { force: false } => {
                if well {
                    self.between(20 * MS, 3 * SECOND)
                } else {
                    self.between(20 * MS, DEADLINE)
                }
            }
            Step::StopApplication { force: true } => self.between(5 * MS, 800 * MS),
        };
        let id = self.number();
        self.say(|world| {
            let now = world.now / MS;
            format!("{node}: step {id} {step:?} until {} ms, well {well}", now + delay / MS)
        });
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let (epoch, until) = (daemon.epoch, self.now + delay);
        daemon.under_way.push(UnderWay { id, step, well, until });
        match step {
            Step::StartApplication => self.application_starts(node),
            // It is gone before it is known.
            Step::GiveUpAddresses if well => self.nodes[node].addresses = false,
            Step::Drain => return self.try_drain(node),
            _ => {}
        }
        self.after(delay, Happening::StepEnd { node, epoch, id });
    }

    fn step_fails(&mut self, node: usize) -> bool {
        let fails = !self.calm
            && self.nodes[node].failures < FAILURES
            && self.random.chance(self.shape.step_failures);
        self.nodes[node].failures = if fails { self.nodes[node].failures + 1 } else { 0 };
        fails
    }

    /// What is broken off is answered before what breaks it off.
    pub(super) fn break_off(&mut self, node: usize, by: Step) {
        let breaks = |step: Step| match by {
            Step::StopApplication { force } => {
                matches!(step, Step::StartApplication)
                    || (force && matches!(step, Step::StopApplication { force: false }))
            }
            Step::StopMirror => matches!(step, Step::StartMirror { .. } | Step::Drain),
            _ => false,
        };
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let epoch = daemon.epoch;
        for step in &mut daemon.under_way {
            if breaks(step.step) {
                (step.well, step.until) = (false, self.now);
            }
        }
        let broken: Vec<u64> =
            daemon.under_way.iter().filter(|step| breaks(step.step)).map(|step| step.id).collect();
        for id in broken {
            self.after(0, Happening::StepEnd { node, epoch, id });
        }
    }

    /// A drain ends when the peer has everything, or too late.
    pub(super) fn try_drain(&mut self, node: usize) {
        let drained = self.nodes[node]
            .process
            .as_ref()
            .is_some_and(|process| process.is_mirrored() && process.outstanding.is_empty());
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let (epoch, now) = (daemon.epoch, self.now);
        let Some(step) = daemon.under_way.iter_mut().find(|step| step.step == Step::Drain) else { return };
        (step.well, step.until) = if drained { (true, now) } else { (false, step.until) };
        let (id, until) = (step.id, step.until);
        self.at(until, Happening::StepEnd { node, epoch, id });
    }

    pub(super) fn step_end(&mut self, node: usize, epoch: u64, id: u64) {
        let Some(daemon) = self.nodes[node].daemon.as_mut().filter(|daemon| daemon.epoch == epoch) else {
            return;
        };
        let Some(at) = daemon.under_way.iter().position(|step| step.id == id && step.until <= self.now)
        else {
            return;
        };
        let UnderWay { step, mut well, .. } = daemon.under_way.remove(at);
        match step {
            Step::StartMirror { role: Role::Primary, term, alone, force } if well => {
                well = self.start_primary(node, term, alone, force);
            }
            Step::StartMirror { role: Role::Secondary, .. } if well => self.start_secondary(node),
            Step::StopMirror if well => self.end_process(node, End::Ordered),
            Step::TakeAddresses => self.nodes[node].addresses = well,
            Step::StartApplication if !well => self.nodes[node].application = self.random.chance(50),
            Step::StopApplication { .. } if well => {
                let leaves = self.sabotage == Sabotage::LeavesItRunning && self.random.chance(20);
                self.nodes[node].application &= leaves;
            }
            _ => {}
        }
        self.checks.one_step.ended(node, step);
        if !well {
            self.checks.no_flap.reason();
        }
        self.deliver(node, Event::Done(step, if well { Ok(()) } else { Err(()) }));
        if !self.nodes[node].up {
            return;
        }
        match step {
            Step::StopMirror if well && self.nodes[node].process.is_none() => self.tell_of_disk(node),
            _ => self.tell_of_mirror(node),
        }
    }
}
