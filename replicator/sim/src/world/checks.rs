//! What must hold, one promise in each file, checked by means that know nothing of how it is brought about: the world's own
//! record of what every byte was when, and what is on the disks.

mod acknowledged_is_durable;
mod names_in_order;
mod nothing_forgotten;
mod nothing_thrown_away;
mod one_primary;
mod positions;
mod prefix;
mod same_tree;
mod stale_never_promotes;

use super::*;

impl World {
    /// After every step.
    pub(super) fn check_always(&mut self) {
        self.check_names_in_order();
        self.check_positions();
        if self.random.chance(10)
            && self.primary.snapshot().phase == Phase::Mirrored
            && self.traced.is_empty()
            && self.named.is_empty()
        {
            self.stats.mirrored += 1;
            self.check_nothing_forgotten();
        }
    }

    /// A caller is let go: once, and with what it was told.
    pub(in crate::world) fn released(&mut self, ticket: Ticket, result: Result<(), Errno>) {
        let Some(request) = self.tickets.remove(&ticket) else {
            return self.fail(format!("one-answer: {ticket:?} was answered twice"));
        };
        if result.is_err() {
            self.stats.refused += 1;
            return;
        }
        for (inode, uid) in &request.uids {
            let file = self.files.files.get(inode).filter(|file| file.uid == *uid);
            if file.is_some_and(|file| file.kind == FileKind::Regular) {
                self.synced.insert(*uid, request.version);
            }
        }
        if let Err(reason) = self.check_here(&request) {
            self.fail(format!("acknowledged-is-durable: {ticket:?} {request:?}: {reason}"));
        }
        self.note_told(&request);
        self.check_stale(&self.replica.known.clone());
        if self.primary_disk.record.surely(|record| record.alone) {
            self.stats.acknowledged_alone += 1;
            return self.check_may_be_alone();
        }
        let replica = match self.mode {
            Mode::Sync => self.replica.clone(),
            // What it had received in the present connection is gone, though its word that it had may arrive only now: that is the
            // price of not waiting for its disk.
            Mode::SemiSync if self.secondary_failed => return,
            Mode::SemiSync => self.replica_as_received(),
            Mode::Async => return,
        };
        self.stats.acknowledged_by_both += 1;
        let checked = self.check_acknowledged(&request, &replica);
        if let Err(reason) = checked.and_then(|()| self.check_children(&request, &replica)) {
            self.fail(format!("acknowledged-is-durable: {ticket:?} {request:?}: {reason}"));
        }
        if self.mode == Mode::Sync
            && let Err(reason) = self.check_prefix(&request, &replica)
        {
            self.fail(format!("prefix: {ticket:?}: {reason}"));
        }
        for (inode, uid) in &request.uids {
            // In semi-sync mode a crash of both nodes loses what was received only.
            if self.mode == Mode::Sync
                && self.files.files.get(inode).is_some_and(|file| file.uid == *uid && file.links > 0)
            {
                self.acknowledged.insert(*uid, request.version);
            }
        }
    }

    /// What anybody was told is durable, by whatever means.
    fn note_told(&mut self, request: &Request) {
        for (inode, uid) in &request.uids {
            let file = self.files.files.get(inode).filter(|file| file.uid == *uid && file.links > 0);
            if file.is_some_and(|file| file.kind == FileKind::Regular) {
                self.told.insert(*uid, request.version);
            }
        }
    }
}
