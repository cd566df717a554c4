//! What the daemon owes to the controller: events in the right order, orders carried out one after another, answers that come once.

use replicator_core::action::{DataState, StateRecord};
use replicator_core::cluster::posture::Step;
use replicator_core::cluster::{Action, Controller, Event, MirrorView};
use replicator_core::ids::{Term, Time};

use super::heartbeat::{BEAT, Heart};
use super::mirror::End;
use super::node::{Daemon, copy_of, is_whole};
use super::saboteur::Sabotage;
use super::world::{Happening, MS, SECOND, Told, World};

/// A node that did not run for so long knows that it was late.
const LATE: u64 = SECOND;

impl World {
    /// The time of the node's clock.
    pub(super) fn clock(&self, node: usize) -> Time {
        Time(self.now.saturating_sub(self.nodes[node].behind))
    }

    pub(super) fn boot(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        self.nodes[node].up = true;
        self.nodes[node].inbox.clear();
        self.start_daemon(node);
    }

    pub(super) fn start_daemon(&mut self, node: usize) {
        if !self.nodes[node].up || self.nodes[node].daemon.is_some() {
            return;
        }
        let epoch = self.number();
        let now = self.clock(node);
        let controller = Controller::new(self.shape.config(node), self.nodes[node].disk.standing, now);
        self.nodes[node].daemon = Some(Daemon {
            controller,
            epoch,
            say: None,
            heart: Heart::default(),
            under_way: Vec::new(),
            asked: None,
            timer: None,
            told: None,
        });
        self.checks.no_flap.reason();
        self.say(|world| format!("{node}: the daemon starts, {:?}", world.nodes[node].disk.standing));
        let able = self.nodes[node].able;
        self.deliver(node, Event::Able(able));
        let first = self.below(BEAT);
        self.after(first, Happening::Beat { node, epoch });
    }

    /// One event for the controller, and what it orders.
    pub(super) fn deliver(&mut self, node: usize, event: Event) {
        let now = self.clock(node);
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let event = match (self.sabotage, event) {
            (Sabotage::NeverLate, Event::Late) => Event::Tick,
            (Sabotage::AlwaysWhole, Event::Mirror(view, mut copy)) => {
                copy.account.data = DataState::UpToDate;
                Event::Mirror(view, copy)
            }
            (_, event) => event,
        };
        let mut actions = Vec::new();
        daemon.controller.handle(now, event, &mut actions);
        let epoch = daemon.epoch;
        self.stats.handled += 1;
        if self.trace && !(matches!(event, Event::Heard(_) | Event::Tick) && actions.is_empty()) {
            self.say(|_| format!("{node}: {event:?}"));
            for action in &actions {
                self.say(|_| format!("{node}:    -> {action:?}"));
            }
        }
        let answered = self.checks.answered_once.handled(&event, &actions);
        self.check(answered);
        // Somebody may end the daemon between any two orders.
        let ends = self.cut(node, actions.len());
        for (at, action) in actions.into_iter().enumerate() {
            if ends == Some(at) {
                self.say(|_| format!("{node}: cut off before order {at}"));
                if self.random.chance(50) {
                    self.crash_daemon(node)
                } else {
                    self.crash_machine(node)
                }
                return;
            }
            self.carry_out(node, action);
            if self.nodes[node].daemon.as_ref().is_none_or(|daemon| daemon.epoch != epoch) {
                return;
            }
        }
        self.set_timer(node);
    }

    fn carry_out(&mut self, node: usize, action: Action) {
        match action {
            Action::Publish(report) => {
                if let Some(daemon) = &mut self.nodes[node].daemon {
                    daemon.say = Some(*report);
                }
                self.send_beat(node);
            }
            Action::Remember(standing) => self.nodes[node].disk.standing = standing,
            Action::Step(step) => self.step(node, step),
            Action::Outdate(term) => self.outdate(node, term),
            Action::GoAlone(term) => {
                let Some(run) = self.nodes[node].process.as_ref().map(|process| process.run) else { return };
                let delay = self.between(MS / 10, 5 * MS);
                self.after(delay, Happening::GoAlone { node, run, term });
            }
            Action::AskArbiter(term) => match self.sabotage {
                Sabotage::AloneWithoutGrant => {
                    let verdict = replicator_core::cluster::Verdict::Won;
                    let Some(daemon) = &mut self.nodes[node].daemon else { return };
                    daemon.asked = Some((0, term));
                    let epoch = daemon.epoch;
                    self.after(MS, Happening::Answer { to: node, epoch, id: 0, term, verdict });
                }
                _ => self.ask(node, term),
            },
            Action::Announce | Action::Answer(..) | Action::Tell(_) => {}
        }
    }

    fn set_timer(&mut self, node: usize) {
        let behind = self.nodes[node].behind;
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let Some(at) = daemon.controller.next_deadline().map(|at| at.0 + behind) else { return };
        if daemon.timer != Some(at) {
            daemon.timer = Some(at);
            let epoch = daemon.epoch;
            self.at(at.max(self.now), Happening::Timer { node, epoch, at });
        }
    }

    pub(super) fn timer(&mut self, node: usize, epoch: u64, at: u64) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        if daemon.epoch == epoch && daemon.timer == Some(at) {
            daemon.timer = None;
            self.deliver(node, Event::Tick);
        }
    }

    // ---- a pause -------------------------------------------------------------------------------------------

    pub(super) fn pause(&mut self, node: usize, span: u64) {
        if !self.nodes[node].runs() {
            return;
        }
        self.say(|_| format!("{node}: paused for {} ms", span / MS));
        self.nodes[node].paused = Some(self.now);
        self.after(span, Happening::Resume { node });
        self.silent_end(node, span);
    }

    pub(super) fn resume(&mut self, node: usize) {
        let Some(since) = self.nodes[node].paused.take() else { return };
        let span = self.now - since;
        self.say(|_| format!("{node}: goes on"));
        self.checks.no_flap.reason();
        if self.shape.clock_stops {
            self.nodes[node].behind += span;
        }
        let replaced = span > LATE && self.is_replaced(node);
        self.checks.addresses.resumed(node, self.now, replaced);
        if span > LATE && self.nodes[node].daemon.is_some() {
            if let Some(daemon) = &mut self.nodes[node].daemon {
                daemon.heart.awaits = Some(daemon.heart.sequence + 1);
                daemon.timer = None;
            }
            self.deliver(node, Event::Late);
        }
        self.set_timer(node);
        let inbox = std::mem::take(&mut self.nodes[node].inbox);
        for happening in inbox {
            self.after(0, happening);
        }
    }

    // ---- the copy -------------------------------------------------------------------------------------------

    fn outdate(&mut self, node: usize, term: Term) {
        if self.nodes[node].process.is_some() {
            self.fail("orders", "a copy is to be outdated while the mirror runs");
        }
        self.stats.yields += 1;
        let fails = self.write_fails();
        let written = !fails || self.random.chance(50);
        let Some(epoch) = self.nodes[node].daemon.as_ref().map(|daemon| daemon.epoch) else { return };
        let delay = self.between(MS, 40 * MS);
        let happening = Happening::Outdated { node, epoch, term, well: !fails, written };
        if self.sabotage == Sabotage::EarlyOutdated {
            let written = self.random.chance(20);
            self.after(0, Happening::Outdated { node, epoch, term, well: true, written });
        } else {
            self.after(delay, happening);
        }
    }

    pub(super) fn outdated(&mut self, node: usize, epoch: u64, term: Term, well: bool, written: bool) {
        if self.nodes[node].daemon.as_ref().is_none_or(|daemon| daemon.epoch != epoch) {
            return;
        }
        if written {
            let found = self.nodes[node].disk.record();
            let data = if is_whole(&found) { DataState::Outdated } else { found.data };
            let record = StateRecord { term: found.term.max(term), data, alone: false, ..found };
            self.nodes[node].disk.record = Some(record);
        }
        self.deliver(node, Event::Outdated(term, if well { Ok(()) } else { Err(()) }));
        if !well && self.nodes[node].process.is_none() {
            // It may be there nevertheless.
            self.tell_of_disk(node);
        }
    }

    /// The mirror does not run: its record is read from the disk.
    pub(super) fn tell_of_disk(&mut self, node: usize) {
        let record = self.nodes[node].disk.record();
        self.deliver(node, Event::Mirror(MirrorView::default(), copy_of(&record, false)));
    }

    /// The mirror says what it is, a little later.
    pub(super) fn tell_of_mirror(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let told: Told = (process.run, process.view(), copy_of(&process.durable, process.is_primary()));
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        if daemon.told == Some(told) || !daemon.controls(told.0) {
            return;
        }
        daemon.told = Some(told);
        let epoch = daemon.epoch;
        // In the order in which it is said: all take the same time.
        self.after(2 * MS, Happening::View { node, epoch, told: Box::new(told) });
    }

    pub(super) fn view(&mut self, node: usize, epoch: u64, told: Told) {
        let runs = self.nodes[node].process.as_ref().is_some_and(|process| process.run == told.0);
        let mine = self.nodes[node].daemon.as_ref().is_some_and(|daemon| daemon.epoch == epoch);
        if runs && mine {
            self.deliver(node, Event::Mirror(told.1, told.2));
        }
    }

    pub(super) fn mirror_ended(&mut self, node: usize, epoch: u64, run: u64) {
        let mine = self.nodes[node]
            .daemon
            .as_ref()
            .is_some_and(|daemon| daemon.epoch == epoch && daemon.controls(run));
        let drains = |daemon: &Daemon| daemon.under_way.iter().any(|step| step.step == Step::Drain);
        if mine && self.nodes[node].daemon.as_ref().is_some_and(drains) {
            // What was asked of it is answered first.
            self.break_off(node, Step::StopMirror);
            self.after(0, Happening::MirrorEnded { node, epoch, run });
            return;
        }
        if mine && self.nodes[node].process.is_none() {
            self.deliver(node, Event::MirrorEnded);
            self.tell_of_disk(node);
        }
    }

    // ---- ends -----------------------------------------------------------------------------------------------

    /// The daemon's process ends. What it started goes on, or ends with it.
    pub(super) fn crash_daemon(&mut self, node: usize) {
        if self.nodes[node].daemon.take().is_none() {
            return;
        }
        self.say(|_| format!("{node}: the daemon is killed"));
        self.checks.no_flap.reason();
        self.checks.one_step.forget(node);
        if self.random.chance(50) {
            self.end_process(node, End::Killed);
        }
        let pause = self.between(200 * MS, 6 * SECOND);
        self.after(pause, Happening::StartDaemon { node });
    }

    pub(super) fn crash_machine(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.say(|_| format!("{node}: the machine loses its power"));
        self.checks.no_flap.reason();
        self.checks.one_step.forget(node);
        self.end_process(node, End::Power);
        let it = &mut self.nodes[node];
        (it.up, it.daemon, it.application, it.addresses, it.paused) = (false, None, false, false, None);
        it.inbox.clear();
        let pause = self.between(2 * SECOND, 25 * SECOND);
        self.after(pause, Happening::Boot { node });
    }

    pub(super) fn write_fails(&mut self) -> bool {
        !self.calm && self.random.chance(self.shape.write_failures)
    }
}

impl Daemon {
    /// The run of the mirror is one that this run of the daemon started.
    pub fn controls(&self, run: u64) -> bool {
        run > self.epoch
    }
}
