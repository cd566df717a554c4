//! Operators and checkers of the application: this and that while things break, and what is needed afterwards.

use replicator_core::action::{DataState, StateRecord};
use replicator_core::cluster::{Cause, CheckAction, Command, Event, Readiness, Report, Standing, Word};
use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Lineage};

use super::checks::Kind;
use super::world::{Happening, MS, SECOND, World};

impl World {
    /// Most worlds begin with two nodes that hold the same; the others with nothing.
    pub(super) fn equip(&mut self) {
        let current = GenerationId { number: Generation(1), tag: self.tag() };
        for node in &mut self.nodes {
            node.disk.standing = Standing { started: true, ..Standing::default() };
            if !self.shape.fresh {
                node.disk.record = Some(StateRecord {
                    term: Term(1),
                    lineage: Lineage::beginning_with(current),
                    data: DataState::UpToDate,
                    ..StateRecord::unknown()
                });
            }
        }
    }

    pub(super) fn operator(&mut self) {
        if self.calm {
            self.after(5 * SECOND, Happening::Operator);
            self.help();
            return;
        }
        let pause = self.below(2 * self.shape.command_every);
        self.after(pause, Happening::Operator);
        let node = self.random.below(2);
        if self.shape.fresh && self.register.is_none() && self.random.chance(60) {
            return self.order(node, Command::Promote { force: false });
        }
        if !self.shape.commands {
            return;
        }
        if self.random.chance(15) {
            return self.checker(node);
        }
        let command = match self.random.below(if self.shape.forces { 12 } else { 11 }) {
            0..=2 => Command::Start,
            3 => Command::Standby { on: true },
            4 | 5 => Command::Stop,
            6 | 7 => Command::Swap,
            8 => Command::Restart,
            9 | 10 => Command::Promote { force: false },
            _ => Command::Promote { force: true },
        };
        self.order(node, command);
    }

    fn checker(&mut self, node: usize) {
        let wishes = [CheckAction::Restart, CheckAction::StopStart, CheckAction::Swap, CheckAction::Wait];
        let Some(wish) = self.random.one(&wishes) else { return };
        if self.nodes[node].decides() {
            self.checks.no_flap.reason();
            self.deliver(node, Event::Check(wish));
            if wish == CheckAction::Wait {
                self.nodes[node].able = false;
            }
        }
    }

    pub(super) fn order(&mut self, node: usize, command: Command) {
        if !self.nodes[node].decides() {
            return;
        }
        self.stats.commands += 1;
        self.checks.no_flap.reason();
        if command == (Command::Promote { force: true }) {
            // Whether it is taken or not: from here on nobody promises anything of histories.
            self.stats.forced += 1;
            self.checks.kind = Kind::Parting;
        }
        let number = self.number();
        self.deliver(node, Event::Command(number, command));
    }

    pub(super) fn report(&self, node: usize) -> Option<Report> {
        self.nodes[node].daemon.as_ref().map(|daemon| daemon.controller.report())
    }

    /// What an operator does when nothing breaks any more: what is stopped or blocked is started, what is on standby is not any more; and where the cluster says that
    /// it needs somebody, he decides.
    fn help(&mut self) {
        let calm = self.now - self.calm_since;
        for node in 0..2 {
            let Some(report) = self.report(node) else { continue };
            if !report.started {
                self.order(node, Command::Start);
            } else if report.cause == Cause::OnStandby {
                self.order(node, Command::Standby { on: false });
            }
        }
        let reports = [self.report(0), self.report(1)];
        let waits = |report: &Option<Report>| {
            report.is_some_and(|report| {
                report.active.is_none()
                    && report.word == Word::Waiting
                    && report.readiness == Readiness::NotReady
            })
        };
        if calm < 30 * SECOND || !(waits(&reports[0]) || waits(&reports[1])) {
            return;
        }
        if reports.iter().flatten().any(|report| report.active.is_some()) {
            return;
        }
        self.stats.helped += u64::from(self.settled_since.is_none() && calm < 36 * SECOND);
        let needed = |report: &Report| report.cause == Cause::OperatorNeeded;
        let node = usize::from(calm / SECOND % 2 == 1);
        if calm < 70 * SECOND {
            if reports.iter().flatten().any(needed) {
                self.order(node, Command::Promote { force: false });
            }
        } else if self.checks.kind == Kind::Parting || self.nobody_is_whole() {
            self.stats.forced_at_last += u64::from(self.checks.kind == Kind::Consistent);
            let first = self.random.below(2);
            self.order(first, Command::Promote { force: true });
        }
    }

    /// Each yielded to the other. Both say so, and wait for an operator.
    fn nobody_is_whole(&self) -> bool {
        (0..2).all(|node| {
            let whole = super::node::is_whole(&self.nodes[node].disk.record());
            !whole && self.report(node).is_some_and(|report| report.cause == Cause::NotWhole)
        })
    }

    // ---- the end ---------------------------------------------------------------------------------------------

    pub(super) fn look(&mut self) {
        self.after(100 * MS, Happening::Look);
        self.check_addresses();
        self.check_applications();
        if self.is_settled() {
            self.settled_since.get_or_insert(self.now);
        } else {
            self.settled_since = None;
        }
    }

    /// One node is active, and the other its mirror.
    fn is_settled(&self) -> bool {
        let is = |node: usize, word: Word, on: bool| {
            let (node, report) = (&self.nodes[node], self.report(node));
            let mirrored = node.process.as_ref().is_some_and(|process| process.is_mirrored());
            report.is_some_and(|report| report.word == word && report.readiness == Readiness::Ready)
                && mirrored
                && (node.application, node.addresses) == (on, on)
        };
        (0..2).any(|active| is(active, Word::Primary, true) && is(1 - active, Word::Secondary, false))
    }

    /// What is said when that does not come.
    pub(super) fn standing(&self) -> String {
        let words: Vec<String> = (0..2)
            .map(|node| {
                let Some(report) = self.report(node) else { return format!("{node} down") };
                format!("{node} {:?} {:?} {:?}", report.word, report.readiness, report.cause)
            })
            .collect();
        format!("{}; {:?}", words.join(", "), self.shape.policy)
    }

    pub(super) fn check_end(&mut self) {
        for node in 0..2 {
            let held = self.checks.durable.holds(&self.nodes[node].disk.data, "at the end", node);
            self.check(held);
        }
    }
}
