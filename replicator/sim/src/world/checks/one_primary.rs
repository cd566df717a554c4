//! What holds where nodes take turns. acknowledged-is-durable, across a change of roles: what anybody was told is on the disk of the node that
//! is promoted. one-acknowledger: a primary lets nobody go alone that was not told that it may. term-is-known: a secondary confirms nothing to a
//! primary of a term that its own disk does not know, and takes nothing from one of a lower term.

use super::*;

impl World {
    /// The secondary is about to be promoted.
    pub(in crate::world) fn check_promoted(&mut self) {
        // In semi-sync mode what was received only is gone with the daemon that had it.
        if self.mode != Mode::Sync {
            return;
        }
        let meant = self.replica.meant();
        let mut checked = self.check_copy("promoted", &meant, &self.told);
        for (inode, file) in &self.files.files {
            let version = self.told.get(&file.uid).filter(|_| file.is_regular() && file.links > 0);
            let node = meant.get(&id(*inode)).and_then(|node| self.replica.nodes.get(node));
            let (Some(version), Some(node)) = (version, node) else { continue };
            if !node.late && self.handles.get(inode).is_none_or(|uid| *uid == file.uid) {
                let as_new = file.is_as_new(*version, &node.durable_cells);
                checked = checked.and_then(|()| as_new.map_err(|reason| format!("inode {inode}: {reason}")));
            }
        }
        if let Err(reason) = checked {
            let (ours, theirs) = (*self.primary_disk.record.get(), *self.secondary_disk.record.get());
            self.fail(format!("stale-never-promotes: {reason}; primary {ours:?}, promoted {theirs:?}"));
        }
    }

    /// A caller is let go by a primary that its record says to be alone.
    pub(in crate::world) fn check_may_be_alone(&mut self) {
        if self.controller.as_ref().is_some_and(|controller| !controller.has_permitted) {
            let record = *self.primary_disk.record.get();
            self.fail(format!("one-acknowledger: nobody said that it may go on alone: {record:?}"));
        }
    }

    /// The secondary sends this.
    pub(in crate::world) fn check_term(&mut self, header: &Header, payload: &Payload) {
        let confirms = match payload {
            Payload::Structured(body) if header.kind == Kind::Ack => {
                replicator_core::wire::body::Ack::decode(body).is_ok_and(|ack| ack.applied > Sequence(0))
            }
            _ => header.kind == Kind::BarrierDone,
        };
        if let Some(controller) = self.controller.as_mut().filter(|_| header.kind == Kind::BarrierDone) {
            controller.confirmed = controller.confirmed.max(Sequence(header.offset));
        }
        if confirms && !self.secondary_disk.record.surely(|record| record.term >= header.term) {
            let record = *self.secondary_disk.record.get();
            self.fail(format!("term-is-known: {header:?}, on record {record:?}"));
        }
    }
}
