//! What goes wrong: connections, machines, daemons.

use replicator_core::resume::Beginning;

use super::*;

impl World {
    pub(super) fn fault(&mut self) {
        if self.shape.aimed && self.random.chance(40) {
            self.aimed_fault();
        }
        match self.random.below(24) {
            0..=3 => self.break_link(),
            4 => self.crash_secondary(),
            5 => self.restart_primary(),
            6 => self.secondary_off = !self.secondary_off && self.random.chance(50),
            7 => self.now.0 += 4_000_000_000,
            8 => self.secondary_off = false,
            9 | 10 => self.stop_primary(),
            11 | 12 => self.stop_secondary(),
            13 => self.restore_older_state(),
            _ => {}
        }
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
        let says_up_to_date = self.secondary_disk.data == DataState::UpToDate;
        if self.primary.snapshot().phase == Phase::Resyncing && says_up_to_date && self.random.chance(70) {
            self.break_link();
        }
    }

    /// The daemon is killed and started anew: what it had applied is there, durable or not.
    pub(super) fn restart_secondary(&mut self) {
        self.stats.crashes += 1;
        self.replica.restart();
        self.end_secondary();
    }

    pub(super) fn crash_secondary(&mut self) {
        self.stats.crashes += 1;
        let known = self.replica.known.clone();
        self.replica.crash(&mut self.random);
        if self.sabotage == Sabotage::UnnoticedCrash {
            self.replica.known = known;
            return self.break_link();
        }
        self.end_secondary();
        self.check_after_crash(&known);
    }

    /// All that was on its way is gone.
    pub(super) fn end_secondary(&mut self) {
        self.secondary_failed = true;
        self.break_link();
        if let Some(link) = &mut self.link {
            link.to_secondary.clear();
            link.secondary_up = false;
        }
        self.serving.clear();
        self.payloads.clear();
        self.keeping = GenerationId::NONE;
        let record = StateRecord::begin_secondary(Some(self.secondary_disk));
        self.secondary = Node::secondary(SecondaryConfig::default(), record, self.now);
    }

    /// The primary is started from a copy of its state that was made at an earlier start. What it does not know of then, it must not
    /// overwrite.
    pub(super) fn restore_older_state(&mut self) {
        let Some(older) = self.random.one(&self.older) else { return };
        self.primary_disk = older;
        self.restart_primary();
        self.stale = !self.knows_what_the_secondary_has();
        if self.sabotage == Sabotage::ForgottenLineage {
            self.end_secondary();
            let record = StateRecord { lineage: Default::default(), ..self.secondary_disk };
            self.secondary = Node::secondary(SecondaryConfig::default(), record, self.now);
        }
    }

    /// Whether the primary's record can tell that its data goes on from the secondary's.
    pub(super) fn knows_what_the_secondary_has(&self) -> bool {
        let theirs = self.secondary_disk.lineage.current;
        let own = self.primary_disk.lineage;
        let mut known = own.former().chain([own.current, own.shared]);
        theirs.is_none() || known.any(|id| id.matches(theirs) != Match::No)
    }

    /// An operator who looks now and then, and says that the primary's data is what both shall have.
    pub(super) fn overrule(&mut self) {
        if self.primary.snapshot().refused && (!self.faults || self.random.chance(5)) {
            self.tell_primary(Event::Overrule);
        }
    }

    /// The daemon is killed: files stay, callers and marks are gone.
    pub(super) fn restart_primary(&mut self) {
        self.stats.crashes += 1;
        self.break_link();
        if let Some(link) = &mut self.link {
            link.primary_up = false;
        }
        self.doing.clear();
        self.held_reads.clear();
        self.held_entries.clear();
        self.traced.clear();
        self.named.clear();
        self.tickets.clear();
        self.config.seed += 1;
        self.config.incarnation = Some(incarnation(self.config.seed));
        self.runs += 1;
        self.config.tags = tags(self.config.seed, self.runs);
        self.older.push(self.primary_disk);
        self.primary_disk =
            StateRecord::begin_primary(Some(self.primary_disk), Tag(self.config.tags.rotate_left(7) | 1));
        self.primary = Node::primary(self.config.clone(), self.primary_disk, self.now);
    }
}
