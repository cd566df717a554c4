//! What goes wrong: connections, machines, daemons.

use replicator_core::resume::Beginning;

use super::*;

impl World {
    pub(super) fn fault(&mut self) {
        if self.shape.aimed && self.random.chance(40) {
            self.aimed_fault();
        }
        // Where there is most to be lost.
        if self.safe_set.is_on() && self.random.chance(40) {
            if self.shape.power_cuts && self.random.chance(60) {
                self.cut_primary();
            } else {
                self.kill_primary();
            }
        }
        self.crash_with_register();
        if self.controller.is_some() && self.random.chance(8) {
            self.change_roles();
        }
        match self.random.below(26) {
            0..=3 => self.break_link(),
            4 => self.crash_secondary(),
            5 => self.kill_primary(),
            6 => self.secondary_off = !self.secondary_off && self.random.chance(50),
            7 => self.now.0 += 4_000_000_000,
            8 => self.secondary_off = false,
            9 | 10 => self.stop_primary(),
            11 | 12 => self.stop_secondary(),
            13 if self.shape.power_cuts => self.cut_primary(),
            14 if self.shape.power_cuts => {
                self.cut_primary();
                self.crash_secondary();
            }
            15 | 16 => {
                let steps = self.random.below(120);
                self.some_patience().pause(steps);
            }
            17 | 18 => {
                let syncs = self.random.below(30);
                self.some_patience().slow_down(syncs);
            }
            19 if self.controller.is_none() => self.restore_older_state(),
            _ => {}
        }
    }

    fn some_patience(&mut self) -> &mut Patience {
        if self.random.chance(50) { &mut self.primary_patience } else { &mut self.secondary_patience }
    }

    /// Where it hurts: the secondary is restarted within a list, the connection ends while the end of a resync is under way, or
    /// while a session goes on from another.
    fn aimed_fault(&mut self) {
        let is_part = |header: &Header, payload: &Payload| {
            header.kind == Kind::Namespace
                && matches!(payload, Payload::Names(Operation::List { last: false, .. }))
        };
        if self.payloads.values().any(|(header, payload)| is_part(header, payload)) && self.random.chance(30)
        {
            if self.random.chance(50) {
                self.crash_secondary();
            } else {
                self.restart_secondary();
            }
        }
        // A session that goes on from one that went on: what is taken back then was taken back before.
        let snapshot = self.primary.snapshot();
        let goes_on = snapshot.beginning == Some(Beginning::Resumed) && snapshot.phase == Phase::Resyncing;
        if goes_on && self.random.chance(30) {
            self.break_link();
        }
        let says_up_to_date = self.secondary_disk.record.get().data == DataState::UpToDate;
        if self.primary.snapshot().phase == Phase::Resyncing && says_up_to_date && self.random.chance(70) {
            self.break_link();
        }
    }

    /// The secondary is about to tell which files it made anew for a list. If one of them is not in doubt, what the primary has on record of it is
    /// not true any more.
    pub(super) fn kill_before_it_is_told(&mut self, made: &[FileId]) {
        let hurts = self.safe_set.is_on() && made.iter().any(|file| !self.safe_set.is_in(*file));
        if self.faults && self.shape.aimed && hurts && self.killed_in.is_none() && self.random.chance(60) {
            self.killed_in = Some(self.random.below(8));
        }
    }

    /// The daemon is killed and started anew: what it had applied is there, durable or not.
    pub(super) fn restart_secondary(&mut self) {
        self.stats.crashes += 1;
        let register = self.end_register();
        self.replica.restart();
        self.end_secondary();
        self.recover(register);
    }

    pub(super) fn crash_secondary(&mut self) {
        self.stats.crashes += 1;
        let known = self.replica.known.clone();
        if self.sabotage == Sabotage::UnnoticedCrash {
            self.replica.crash(&mut self.random);
            self.replica.known = known;
            return self.break_link();
        }
        let register = self.end_register();
        self.replica.crash(&mut self.random);
        self.end_secondary();
        self.check_after_crash(&known);
        self.recover(register);
    }

    /// All that was on its way is gone.
    pub(super) fn end_secondary(&mut self) {
        self.secondary_failed = true;
        self.break_link();
        if let Some(link) = &mut self.link {
            link.to_secondary.clear();
            link.secondary_up = false;
        }
        if let Some(former) = &mut self.former_link {
            former.to_secondary.clear();
        }
        self.serving.clear();
        self.payloads.clear();
        self.keeping = GenerationId::NONE;
        self.secondary_patience = Patience::default();
        self.secondary_disk.start();
        let record = StateRecord::begin_secondary(Some(*self.secondary_disk.record.get()));
        self.secondary = Node::secondary(self.secondary_config.clone(), record, self.now);
    }

    /// The primary's machine loses its power: its files go back to what the disk holds of them.
    pub(super) fn cut_primary(&mut self) {
        self.stats.power_cuts += 1;
        self.cut_in = None;
        self.files.power_cut(&mut self.random);
        self.primary_disk.power_cut(&mut self.random);
        self.handles.clear();
        self.restart_primary();
        self.go_on(false);
        // A checkpoint is used once: that it was taken away is durable before anything follows from it.
        if let Some(checkpoint) = self.primary_disk.checkpoint.get().clone() {
            self.primary_disk.checkpoint.replace(None, Reached::Synced);
            self.primary.restore(checkpoint);
        }
    }

    /// The daemon is killed, and goes on from what it recorded.
    pub(super) fn kill_primary(&mut self) {
        self.restart_primary();
        self.go_on(true);
    }

    fn go_on(&mut self, sure: bool) {
        if self.shape.safe_set && self.primary_disk.checkpoint.get().is_none() {
            self.recover_activity(sure);
        } else {
            self.make_void();
        }
    }

    /// The primary is started from a copy of its state that was made at an earlier start. What it does not know of then, it must not
    /// overwrite.
    pub(super) fn restore_older_state(&mut self) {
        let Some(older) = self.random.one(&self.older) else { return };
        self.primary_disk.record.replace(older, Reached::Synced);
        self.restart_primary();
        self.go_on(true);
        (self.restored, self.stale) = (true, false);
        self.note_what_the_secondary_has();
        if self.sabotage == Sabotage::ForgottenLineage {
            self.end_secondary();
            let record = StateRecord { lineage: Default::default(), ..*self.secondary_disk.record.get() };
            self.secondary = Node::secondary(self.secondary_config.clone(), record, self.now);
        }
    }

    /// What the primary sent before it was put back to an older state may yet arrive: the end of a resync by which the secondary takes over
    /// a generation that this primary does not know any more. So it is seen again with each record of the secondary's.
    pub(super) fn note_what_the_secondary_has(&mut self) {
        self.stale |= self.restored && !self.knows_what_the_secondary_has();
    }

    /// Whether the primary's record can tell that its data goes on from the secondary's. A number alone tells nothing.
    fn knows_what_the_secondary_has(&self) -> bool {
        let theirs = self.secondary_disk.record.get().lineage.current;
        let own = self.primary_disk.record.get().lineage;
        let mut known = own.former().chain([own.current, own.shared]);
        theirs.is_none() || known.any(|id| id.matches(theirs) == Match::Exact)
    }

    /// An operator who looks now and then, and says that the primary's data is what both shall have.
    pub(super) fn overrule(&mut self) {
        if self.primary.snapshot().refused && (!self.faults || self.random.chance(5)) {
            self.tell_primary(Event::Overrule);
        }
    }

    /// The primary's end of the connection is gone, with all that was on its way to it.
    pub(super) fn lose_primary_end(&mut self) {
        self.break_link();
        if let Some(link) = &mut self.link {
            link.to_primary.clear();
            link.primary_up = false;
        }
        // The numbers of connections begin anew, and nobody listens to the old ones.
        if let Some(former) = &mut self.former_link {
            former.to_primary.clear();
        }
    }

    /// The daemon is killed: files stay, callers and marks are gone.
    pub(super) fn restart_primary(&mut self) {
        self.stats.crashes += 1;
        self.killed_in = None;
        self.lose_primary_end();
        self.doing.clear();
        self.held_reads.clear();
        self.held_entries.clear();
        self.traced.clear();
        self.named.clear();
        self.tickets.clear();
        self.safe_set = SafeSet::default();
        self.config.seed += 1;
        self.config.incarnation = Some(incarnation(self.config.seed));
        self.primary_patience = Patience::default();
        self.primary_disk.start();
        self.runs += 1;
        self.config.tags = tags(self.config.seed, self.runs);
        let record = *self.primary_disk.record.get();
        self.older.push(record);
        // On record before anything follows from it.
        let start = self.start_of_primary(Tag(self.config.tags.rotate_left(7) | 1));
        let begun = match StateRecord::begin_primary(Some(record), start) {
            Ok(begun) => begun,
            Err(why) => return self.fail(format!("a primary does not begin again: {record:?}: {why}")),
        };
        self.primary_disk.record.replace(begun, Reached::Synced);
        self.primary = Node::primary(self.config.clone(), begun, self.now);
    }
}
