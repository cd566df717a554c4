//! Nodes that take turns: a controller that knows what a real one has to find out, and is always right.
//!
//! It counts the terms, and gives each number once: to a node that becomes the primary, or to a primary that may go on alone. So a secondary
//! whose record has the last number that was given, and says that its copy is whole, has everything that anybody was told. That is all it looks at
//! to promote a secondary; or, where the primary is dead for certain, what both disks say.
//!
//! A change of roles: the secondary is stopped, and never confirms anything again. The primary may not know of it, and goes on for a while: what it
//! lets go then, the secondary had confirmed before. Then its node is killed, loses its power, or is stopped in order.

use std::collections::VecDeque;

use replicator_core::checkpoint::Checkpoint;
use replicator_core::resume::Held;
use replicator_core::reunion::{Account, Side, decide};

use super::*;

/// So often something is done before a stop gives up waiting for the rest, or a primary that nobody hears is gone.
const ROUNDS: usize = 60;

/// See the module.
#[derive(Debug)]
pub(super) struct Controller {
    /// Draws of its own.
    random: Random,
    /// The last number that was given.
    term: Term,
    /// Permissions on their way, with the absence they are for.
    permissions: VecDeque<(Term, u64)>,
    /// A secondary was told that it is outdated by this term, for that absence of it.
    yielding: Option<(Term, u64)>,
    /// How likely it is in each step that roles change where they can, in a thousand.
    eager: usize,
    /// How likely it is in each step that an absence is decided on, in a thousand.
    hasty: usize,
    /// The last barrier that the secondary has answered in this connection.
    pub(super) confirmed: Sequence,
    /// Since its start, or since both held the same, the primary was told that it may go on alone.
    pub(super) has_permitted: bool,
    /// What the secondary had as a primary that the present one has not.
    pub(super) loser_had: Option<String>,
    /// What a secondary held that was stopped in order.
    pub(super) held: Option<Held>,
}

impl Controller {
    pub(super) fn draw(seed: u64) -> Controller {
        let mut random = Random::new(seed ^ 0x0A11_0F12_E5D0);
        Controller {
            eager: [1, 3, 10][random.below(3)],
            hasty: [1, 4, 12][random.below(3)],
            random,
            term: Term(1),
            permissions: VecDeque::new(),
            yielding: None,
            confirmed: Sequence(0),
            has_permitted: false,
            loser_had: None,
            held: None,
        }
    }

    /// The first primary.
    pub(super) fn configure(&mut self, config: &mut PrimaryConfig, start: &mut Start, sabotage: Sabotage) {
        config.mode = if self.random.chance(90) { Mode::Sync } else { Mode::SemiSync };
        config.when_alone =
            if sabotage == Sabotage::UnaskedRelease { WhenAlone::Release } else { WhenAlone::Ask };
        (start.when_alone, start.term) = (WhenAlone::Ask, Some(self.term));
        start.go_alone = self.random.chance(50);
        config.go_alone = start.go_alone;
        self.has_permitted = start.go_alone;
    }

    fn next_term(&mut self) -> Term {
        self.term = self.term.next();
        self.term
    }
}

/// How a primary ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Killed,
    PowerCut,
    Stopped,
}

impl World {
    fn controller(&mut self) -> &mut Controller {
        self.controller.as_mut().expect("only where there is one")
    }

    /// What the controller does beside changing roles: it says whether a primary may go on alone.
    pub(super) fn control(&mut self) {
        if self.controller.is_none() {
            return;
        }
        if self.faults && self.is_worth_a_change() {
            return self.change_roles();
        }
        let snapshot = self.primary.snapshot();
        if snapshot.phase == Phase::Mirrored {
            self.controller().has_permitted = false;
        }
        if let Some((term, absence)) = self.controller().yielding
            && self
                .secondary_disk
                .record
                .surely(|record| record.term >= term && record.data < DataState::Consistent)
        {
            let controller = self.controller();
            controller.yielding = None;
            controller.permissions.push_back((term, absence));
        }
        // Who was told may have been killed before that was on record.
        if let Some((term, _)) = self.controller().yielding
            && !self.secondary_off
            && self.controller().random.chance(1)
        {
            self.tell_secondary(Event::Outdate { term });
        }
        let soon = if self.faults { 2 } else { 20 };
        if self.controller().random.chance(soon)
            && let Some((term, absence)) = self.controller().permissions.pop_front()
        {
            self.permit(term, Some(absence));
        }
        let Some(absence) = snapshot.asks else { return };
        let waits = if self.faults { self.controller().hasty } else { 100 };
        let idle = self.controller().permissions.is_empty() && self.controller().yielding.is_none();
        // A peer that is there and is being brought up to date is waited for, mostly.
        let hurries = snapshot.phase != Phase::Resyncing || self.controller().random.chance(5);
        if idle
            && hurries
            && self.controller().random.below(1000) < waits
            && !self.primary_patience.is_paused()
        {
            self.decide_absence(absence);
        }
    }

    /// Roles change mostly where they can, and where that hurts: when the copy takes itself for whole, and the primary does not know of it yet.
    fn is_worth_a_change(&mut self) -> bool {
        let theirs = *self.secondary_disk.record.get();
        let whole = matches!(theirs.data, DataState::Consistent | DataState::UpToDate);
        // A saboteur needs somebody to deceive.
        let deceives = self.sabotage == Sabotage::ConfirmsSealed && self.tickets.is_empty();
        let unknown = self.primary.snapshot().phase == Phase::Resyncing;
        let controller = self.controller();
        let eager = controller.eager * if unknown { 5 } else { 1 };
        // Or between the words to both nodes, where the primary may have died before it heard its own.
        let half = !controller.permissions.is_empty() || controller.yielding.is_some();
        !deceives
            && (half || whole && theirs.term == controller.term)
            && controller.random.below(1000) < eager
    }

    fn decide_absence(&mut self, absence: u64) {
        let term = if self.sabotage == Sabotage::UncountedTerm {
            self.controller().term
        } else {
            self.controller().next_term()
        };
        let reachable = !self.secondary_off && !self.secondary_patience.is_paused();
        if reachable && self.controller().random.chance(50) {
            self.stats.outdated += 1;
            self.controller().yielding = Some((term, absence));
            self.tell_secondary(Event::Outdate { term });
        } else if self.controller().random.chance(30) {
            self.permit(term, None);
        } else {
            self.controller().permissions.push_back((term, absence));
        }
    }

    fn permit(&mut self, term: Term, absence: Option<u64>) {
        let before = self.primary.snapshot().asks;
        self.controller().has_permitted |=
            before.is_some_and(|asks| absence.is_none_or(|absence| absence == asks));
        self.tell_primary(Event::GoAlone { term, absence });
        match (before, self.primary.snapshot().asks) {
            (Some(_), None) => self.stats.permitted += 1,
            _ => self.stats.late_permissions += 1,
        }
    }

    /// A node of the primary that starts again is told nothing of what its former process was.
    pub(super) fn start_of_primary(&mut self, tag: Tag) -> Start {
        let Some(controller) = &mut self.controller else { return Start::by_itself(tag) };
        controller.permissions.clear();
        controller.yielding = None;
        let go_alone = controller.random.chance(15);
        controller.has_permitted = go_alone;
        self.config.go_alone = go_alone;
        let term = go_alone.then(|| controller.next_term());
        Start { tag, term, when_alone: WhenAlone::Ask, go_alone, forced: false }
    }

    // ---- a change of roles -------------------------------------------------------------------------------

    /// The other node becomes the primary, if it may.
    pub(super) fn change_roles(&mut self) {
        let end = [End::Killed, End::PowerCut, End::Stopped][self.random.below(3)];
        let end = if end == End::PowerCut && !self.shape.power_cuts { End::Killed } else { end };
        if end == End::Stopped && self.random.chance(70) {
            // In order: what is left is sent before.
            self.rest_before_a_swap();
        }
        let isolated =
            end != End::Stopped && (self.random.chance(50) || self.sabotage == Sabotage::ConfirmsSealed);
        if !isolated {
            self.end_primary(end);
        }
        self.seal_secondary();
        if isolated {
            self.go_on_unheard();
        }
        let forced = match self.may_be_promoted(!isolated) {
            Some(forced) => forced,
            None => {
                self.stats.unpromoted += 1;
                self.end_secondary();
                if isolated {
                    return;
                }
                return self.restart_after(end);
            }
        };
        if isolated {
            self.end_primary(end);
        }
        self.stats.failovers += 1;
        self.stats.forced += u64::from(forced);
        self.check_promoted();
        self.turn(forced, end != End::PowerCut);
    }

    /// Nothing is changed any more, and everything has time to arrive.
    fn rest_before_a_swap(&mut self) {
        for _ in 0..ROUNDS * 3 {
            self.deliver_to_secondary();
            self.serve_something();
            self.deliver_to_primary();
            self.do_something();
            self.capture();
            self.now.0 += 1_000_000;
        }
    }

    fn end_primary(&mut self, end: End) {
        match end {
            End::Killed => {}
            End::PowerCut => {
                self.stats.power_cuts += 1;
                self.files.power_cut(&mut self.random);
                self.primary_disk.power_cut(&mut self.random);
            }
            End::Stopped => self.come_to_rest(),
        }
        self.cut_in = None;
        self.lose_primary_end();
        self.doing.clear();
        self.tickets.clear();
        (self.traced, self.named) = Default::default();
    }

    fn restart_after(&mut self, end: End) {
        if end == End::PowerCut {
            self.handles.clear();
        }
        self.restart_primary();
        self.make_void();
    }

    /// The secondary ends: whatever it confirms, it has confirmed by now.
    fn seal_secondary(&mut self) {
        for _ in 0..self.random.below(6) {
            self.deliver_to_secondary();
            self.serve_something();
        }
        self.controller().held = None;
        if self.random.chance(50) {
            self.tell_secondary(Event::Stop);
            for _ in 0..ROUNDS {
                if self.secondary.is_at_rest() {
                    break;
                }
                self.serve_something();
            }
            if let Some(Checkpoint::Secondary(held)) = self.secondary.checkpoint()
                && self.replica.is_whole()
            {
                self.controller().held = Some(held);
            }
        }
        if self.shape.power_cuts && self.random.chance(20) {
            let known = self.replica.known.clone();
            self.controller().held = None;
            self.replica.crash(&mut self.random);
            self.secondary_disk.power_cut(&mut self.random);
            self.check_after_crash(&known);
        } else {
            self.replica.restart();
        }
        self.break_link();
        if self.sabotage == Sabotage::ConfirmsSealed {
            self.confirm_everything();
        }
        if let Some(link) = &mut self.link {
            link.to_secondary.clear();
            link.secondary_up = false;
        }
        self.serving.clear();
        self.payloads.clear();
        self.secondary_off = true;
        self.secondary_failed = true;
    }

    /// A secondary that answers barriers though it is stopped.
    fn confirm_everything(&mut self) {
        let confirmed = self.controller().confirmed;
        let Some(link) = &mut self.link else { return };
        let barriers: Vec<Header> = link
            .to_secondary
            .iter()
            .map(|(header, _)| *header)
            .chain(self.payloads.values().map(|(header, _)| *header))
            .filter(|header| header.kind == Kind::Barrier && header.sequence > confirmed)
            .collect();
        for barrier in barriers {
            let mut done = Header::new(Kind::BarrierDone, barrier.term);
            done.offset = barrier.sequence.0;
            link.to_primary.push_back((done, Payload::None));
        }
    }

    /// The primary has not heard that the other node is about to take over; nobody hears it either.
    fn go_on_unheard(&mut self) {
        for _ in 0..self.random.below(ROUNDS * 3) {
            self.now.0 += self.random.below(20_000_000) as u64;
            match self.random.below(5) {
                0 => self.application(),
                1 => self.capture(),
                2 => self.do_something(),
                3 => self.deliver_to_primary(),
                _ => self.tell_primary(Event::Tick),
            }
            if self.shape.power_cuts {
                self.files.note_names();
            }
        }
    }

    /// Whether the secondary may be promoted; if so, whether it has to be forced. `dead`: the primary has ended, and its disk can be looked at.
    fn may_be_promoted(&mut self, dead: bool) -> Option<bool> {
        let (ours, theirs) = (*self.primary_disk.record.get(), *self.secondary_disk.record.get());
        let whole = matches!(theirs.data, DataState::Consistent | DataState::UpToDate);
        if self.sabotage == Sabotage::PromotesOutdated {
            return (theirs.data >= DataState::Outdated).then_some(!whole);
        }
        if whole && theirs.term == self.controller().term {
            return Some(false);
        }
        if !dead || theirs.data < DataState::Outdated {
            return None;
        }
        let account = |record: StateRecord, primary| Account {
            lineage: record.lineage,
            data: DataState::UpToDate,
            primary,
            crashed: record.crashed,
            lost: record.lost,
            marked: false,
        };
        let goes_on = decide(&account(theirs, true), &account(ours, false)).source == Some(Side::Here);
        (goes_on && (whole || self.random.chance(50))).then_some(!whole)
    }

    /// The other node is the primary from here on. `sure`: how the former primary's files look tells whether they were changed.
    fn turn(&mut self, forced: bool, sure: bool) {
        let meant = self.replica.meant();
        let legacy = self.legacy(sure);
        let former = std::mem::replace(&mut self.files, Files::new(self.shape.volumes));
        let (files, inodes) = Files::of_copy(&self.replica, &former);
        let (loser, nodes) = Replica::of_files(&former, self.shape.volumes);
        let inheritance = self.inheritance(&meant, &inodes);
        self.controller().loser_had = self.replica.same_tree(&former, false).err();
        self.files = files;
        self.take_over_promises(&former, &meant, &inodes);
        self.replica = loser;
        std::mem::swap(&mut self.primary_disk, &mut self.secondary_disk);
        for disk in [&mut self.primary_disk, &mut self.secondary_disk] {
            disk.start();
            // What was kept in the other role is worth nothing in this one.
            disk.checkpoint.replace(None, Reached::Synced);
            disk.base.replace(None, Reached::Synced);
            disk.register.replace(None, Reached::Synced);
        }
        self.forget_the_former_primary();
        self.start_the_new_primary(forced);
        self.inherit(inheritance);
        let record = StateRecord::begin_secondary(Some(*self.secondary_disk.record.get()));
        self.secondary_disk.record.replace(record, Reached::Synced);
        self.secondary = Node::secondary(self.secondary_config.clone(), record, self.now);
        self.leave(legacy, nodes);
    }

    fn start_the_new_primary(&mut self, forced: bool) {
        self.runs += 1;
        self.config.seed += 1;
        self.config.incarnation = Some(incarnation(self.config.seed));
        self.config.tags = tags(self.config.seed, self.runs);
        let go_alone = self.random.chance(70);
        self.config.go_alone = go_alone;
        let controller = self.controller();
        controller.has_permitted = go_alone;
        let term = Some(controller.next_term());
        let tag = Tag(self.config.tags.rotate_left(7) | 1);
        let start = Start { tag, term, when_alone: WhenAlone::Ask, go_alone, forced };
        let found = *self.primary_disk.record.get();
        match StateRecord::begin_primary(Some(found), start) {
            Ok(begun) => {
                self.primary_disk.record.replace(begun, Reached::Synced);
                self.primary = Node::primary(self.config.clone(), begun, self.now);
            }
            Err(why) => self.fail(format!("promotion: {found:?}: {why}")),
        }
    }

    fn forget_the_former_primary(&mut self) {
        (self.link, self.former_link) = (None, None);
        self.held_reads.clear();
        self.held_entries.clear();
        self.handles.clear();
        self.safe_set = SafeSet::default();
        self.older.clear();
        (self.stale, self.restored, self.listed_again, self.secondary_off) = (false, false, false, false);
        (self.wandering, self.stored_again) = (0, None);
        (self.primary_patience, self.secondary_patience) = Default::default();
        self.keeping = GenerationId::NONE;
        self.secondary_failed = true;
        let controller = self.controller();
        controller.permissions.clear();
        controller.yielding = None;
    }

    /// What was promised of the former primary's files is promised of those that the new one has: what is durable of them now is at least that.
    fn take_over_promises(
        &mut self,
        former: &Files,
        meant: &BTreeMap<FileId, u64>,
        inodes: &BTreeMap<u64, u64>,
    ) {
        let since = self.files.turned_at();
        let same: Vec<(u64, u64)> = meant
            .iter()
            .filter_map(|(file, node)| {
                let inode = inodes.get(node)?;
                Some((former.files.get(&inode_of(*file))?.uid, self.files.files[inode].uid))
            })
            .collect();
        for promises in [&mut self.acknowledged, &mut self.told, &mut self.synced] {
            let kept = same.iter().filter(|(old, _)| promises.contains_key(old));
            *promises = kept.map(|(_, new)| (*new, since)).collect();
        }
    }
}
