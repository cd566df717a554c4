//! The mirror as a model: its record, and when callers are answered.
//!
//! A primary answers a write when the peer has confirmed it in a session in which both hold the same, or when what is on its disk says
//! that it runs alone. **Before it sends the end of a resync it has on record that it is not alone**: from then on the peer may take itself for up to
//! date, and whoever is lost afterwards asks again, also after a crash.

use replicator_core::action::StateRecord;
use replicator_core::begin::Start;
use replicator_core::cluster::{MirrorView, Role};
use replicator_core::config::WhenAlone;
use replicator_core::ids::Term;

use super::node::is_whole;
use super::saboteur::Sabotage;
use super::session::{Message, Stage};
use super::world::{Happening, MS, SECOND, World};

/// How a process of the mirror ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Ordered,
    Killed,
    /// With its machine.
    Power,
}

/// The mirror's process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Numbers it; higher than the run of the daemon that started it.
    pub run: u64,
    pub role: Role,
    /// What it knows to be on disk.
    pub durable: StateRecord,
    pub wanted: StateRecord,
    pub pending: Option<StateRecord>,
    /// A write failed: which of the two is there is not known.
    pub uncertain: bool,
    pub session: Option<(u64, Stage)>,
    /// A peer with that term was heard.
    pub deposed: Option<Term>,
    /// Callers that wait, and whether the peer confirmed.
    pub outstanding: Vec<(u64, bool)>,
    /// So much of the data was sent with the end of the resync.
    pub snapshot: usize,
    /// It was alone when the session began.
    pub was_alone: bool,
}

impl Process {
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    pub fn is_mirrored(&self) -> bool {
        matches!(self.session, Some((_, Stage::Done | Stage::Following)))
    }

    /// Whatever is on disk says that this node runs alone.
    fn says_alone(&self) -> bool {
        self.durable.alone
            && self.durable.lineage.current == self.wanted.lineage.current
            && self.pending.is_none_or(|record| record.alone)
            && !self.uncertain
    }

    /// Callers are answered by this node alone.
    fn answers_alone(&self) -> bool {
        let open = matches!(self.session, None | Some((_, Stage::Scanning)));
        open && self.says_alone() && self.deposed.is_none()
    }

    pub fn view(&self) -> MirrorView {
        MirrorView {
            connected: self.session.is_some(),
            mirrored: self.is_mirrored(),
            asks: self.is_primary() && self.session.is_none() && !self.answers_alone(),
        }
    }
}

impl World {
    fn start(&mut self, node: usize, role: Role, record: StateRecord) {
        let found = self.nodes[node].disk.record();
        self.nodes[node].disk.record = Some(record);
        let run = self.number();
        self.nodes[node].process = Some(Process {
            run,
            role,
            durable: record,
            wanted: record,
            pending: None,
            uncertain: false,
            session: None,
            deposed: None,
            outstanding: Vec::new(),
            snapshot: 0,
            was_alone: false,
        });
        self.say(|_| format!("{node}: mirror {run} {role:?}, {found:?} becomes {record:?}"));
        if role == Role::Primary {
            self.after(MS, Happening::Dial { node, run });
        }
    }

    pub(super) fn start_secondary(&mut self, node: usize) {
        let record = StateRecord::begin_secondary(self.nodes[node].disk.record);
        self.start(node, Role::Secondary, record);
    }

    /// Whether it may.
    pub(super) fn start_primary(&mut self, node: usize, term: Term, alone: bool, force: bool) -> bool {
        let found = self.nodes[node].disk.record;
        let new = found.is_none_or(|record| {
            record.lineage.current.is_none() && record.lineage.former().next().is_none()
        });
        let whole = found.is_some_and(|record| is_whole(&record));
        if !whole && !force && !new && self.sabotage != Sabotage::AlwaysWhole {
            let found = self.nodes[node].disk.record();
            let sound = self.checks.stale_never_promotes.primary(&found, false);
            self.check(sound);
            return false;
        }
        let tag = self.tag();
        let start = Start {
            tag,
            term: Some(term),
            when_alone: WhenAlone::Ask,
            go_alone: alone,
            // The sabotage is a node that takes any copy for whole.
            forced: force || !whole && !new,
        };
        let Ok(mut record) = StateRecord::begin_primary(found.filter(|_| !new), start) else { return false };
        if !alone {
            record.alone = false;
        }
        self.start(node, Role::Primary, record);
        true
    }

    /// The process ends, by itself, by order, or with the machine.
    pub(super) fn end_process(&mut self, node: usize, end: End) {
        let Some(process) = self.nodes[node].process.take() else { return };
        let ordered = end == End::Ordered;
        if let Some(pending) = process.pending
            && (ordered || self.random.chance(50))
        {
            self.nodes[node].disk.record = Some(pending);
        }
        if ordered && let Some(record) = &mut self.nodes[node].disk.record {
            record.running = false;
        }
        if let Some((session, _)) = process.session {
            self.leave_session(node, session, end == End::Power);
        }
    }

    /// Order the wanted record to be written, if that is due.
    pub(super) fn persist(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.pending.is_some() || (process.wanted == process.durable && !process.uncertain) {
            return;
        }
        process.pending = Some(process.wanted);
        let run = process.run;
        let fails = self.write_fails();
        let written = !fails || self.random.chance(50);
        let slow = self.random.chance(5) && !self.calm;
        let delay = if slow { self.between(50 * MS, SECOND) } else { self.between(MS / 2, 20 * MS) };
        self.after(delay, Happening::Persisted { node, run, well: !fails, written });
    }

    pub(super) fn persisted(&mut self, node: usize, run: u64, well: bool, written: bool) {
        let Some(process) = self.nodes[node].process.as_mut().filter(|process| process.run == run) else {
            return;
        };
        let Some(record) = process.pending.take() else { return };
        if well {
            (process.durable, process.uncertain) = (record, false);
        } else {
            process.uncertain = true;
        }
        if written {
            self.nodes[node].disk.record = Some(record);
        }
        self.advance(node);
    }

    pub(super) fn go_alone(&mut self, node: usize, run: u64, term: Term) {
        let tag = self.tag();
        let Some(process) = self.nodes[node].process.as_mut().filter(|process| process.run == run) else {
            return;
        };
        let stale = process.deposed.is_some_and(|deposed| deposed >= term) || process.wanted.term > term;
        if !process.is_primary() || process.session.is_some() || stale {
            return;
        }
        process.deposed = None;
        process.wanted.term = term;
        if !process.wanted.alone {
            process.wanted.alone = true;
            process.wanted.lineage.begin_generation(tag, true);
        }
        self.advance(node);
    }

    /// Look what can be done now: records, stages, callers.
    pub(super) fn advance(&mut self, node: usize) {
        self.persist(node);
        self.advance_session(node);
        self.answer_callers(node);
        self.tell_of_mirror(node);
        let drains = |daemon: &super::node::Daemon| {
            daemon
                .under_way
                .iter()
                .any(|step| step.step == replicator_core::cluster::posture::Step::Drain && !step.well)
        };
        if self.nodes[node].daemon.as_ref().is_some_and(drains) {
            self.try_drain(node);
        }
    }

    fn advance_session(&mut self, node: usize) {
        let keeps = self.sabotage == Sabotage::AloneStays;
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some((session, stage)) = process.session else { return };
        let settled = process.durable == process.wanted && process.pending.is_none() && !process.uncertain;
        if !settled {
            return;
        }
        match stage {
            Stage::Exposing if !process.durable.alone || keeps => {
                process.session = Some((session, Stage::EndSent));
                process.snapshot = self.nodes[node].disk.data.len();
                let data = self.nodes[node].disk.data.clone();
                let lineage = Box::new(process.wanted.lineage);
                self.send(node, session, Message::End { lineage, data });
            }
            Stage::Recording => {
                process.session = Some((session, Stage::Done));
                let known = self.nodes[node].disk.data.get(..process.snapshot).unwrap_or_default().to_vec();
                process.outstanding.iter_mut().for_each(|(number, done)| *done |= known.contains(number));
            }
            Stage::Beginning => {
                process.session = Some((session, Stage::Receiving));
                // What is there now is neither the one nor the other.
                let half = self.nodes[node].disk.data.len() / 2;
                self.nodes[node].disk.data.truncate(half);
            }
            Stage::Ending => {
                process.session = Some((session, Stage::Following));
                self.send(node, session, Message::EndDone);
            }
            _ => {}
        }
    }

    fn answer_callers(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if !process.is_primary() {
            return;
        }
        let (alone, mirrored) = (process.answers_alone(), process.is_mirrored());
        let mut answered = Vec::new();
        process.outstanding.retain(|(number, confirmed)| {
            let answer = alone || (mirrored && *confirmed);
            if answer {
                answered.push(*number);
            }
            !answer
        });
        let term = process.durable.term;
        for number in answered {
            self.stats.acknowledged += 1;
            self.stats.acknowledged_alone += u64::from(alone);
            if alone {
                let one = self.checks.one_acknowledger.acts(node, term, "acknowledges");
                self.check(one);
            }
            self.checks.durable.acknowledged(number);
        }
    }
}
