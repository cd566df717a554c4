//! What goes wrong: connections, machines, daemons.

use super::*;

impl World {
    pub(super) fn fault(&mut self) {
        match self.random.below(24) {
            0..=3 => self.break_link(),
            4 => self.crash_secondary(),
            5 => self.restart_primary(),
            6 => self.secondary_off = !self.secondary_off && self.random.chance(50),
            7 => self.now.0 += 4_000_000_000,
            8 => self.secondary_off = false,
            _ => {}
        }
    }

    pub(super) fn crash_secondary(&mut self) {
        self.stats.crashes += 1;
        self.secondary_failed = true;
        self.break_link();
        if let Some(link) = &mut self.link {
            link.to_secondary.clear();
            link.secondary_up = false;
        }
        self.replica.crash(&mut self.random);
        self.serving.clear();
        self.payloads.clear();
        self.check_after_crash();
        self.secondary = Node::secondary(SecondaryConfig::default(), self.secondary_disk, self.now);
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
        self.primary = Node::primary(self.config.clone(), self.primary_disk, self.now);
    }
}
