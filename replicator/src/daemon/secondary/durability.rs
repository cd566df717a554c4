//! Barriers: what is applied becomes durable.

use std::sync::Arc;

use replicator_core::action::DurableScope;
use replicator_core::event::Event;
use replicator_core::ids::{Errno, FileId, Sequence, SessionId, VolumeId};
use tracing::error;

use super::applier::{Job, Target};
use super::{Pending, Secondary, complain, errno_of};
use crate::daemon::engine::Core;
use crate::daemon::message::Message;
use crate::storage::replica::SyncTarget;
use crate::uring::Full;

/// A barrier that is being made durable.
pub(super) struct Durability {
    /// What it waits for.
    left: usize,
    result: Result<(), Errno>,
}

impl Secondary {
    pub(super) fn make_durable(
        &mut self,
        core: &mut Core,
        session: SessionId,
        barrier: Sequence,
        scope: DurableScope,
    ) {
        // What is confirmed is on record.
        let recorded = self.register.record(core.node.holds(), session, barrier);
        // One more, until all syncs are begun.
        let durability = Durability { left: 1 + usize::from(recorded), result: Ok(()) };
        self.barriers.insert((session, barrier), durability);
        match scope {
            DurableScope::Files(files) => match self.open_targets(&files) {
                Some(targets) => self.sync_targets(core, session, barrier, targets),
                // To open a file may take its time.
                None => return self.applier.order(Job::Open { session, barrier, files }),
            },
            DurableScope::Volume(volume) => self.sync_volumes(core, session, barrier, Some(volume)),
            DurableScope::Everything => self.sync_volumes(core, session, barrier, None),
        }
        self.on_synced(core, session, barrier, Ok(()));
    }

    /// What is to be synced, if all of it is open.
    fn open_targets(&self, files: &[(FileId, bool)]) -> Option<Vec<Target>> {
        let target = |(file, data_only): &(FileId, bool)| {
            self.replica.open_target(*file).map(|target| (target, *data_only))
        };
        files.iter().map(target).collect()
    }

    /// Begin the syncs of these files, or that of all volumes.
    pub(super) fn sync_targets(
        &mut self,
        core: &mut Core,
        session: SessionId,
        barrier: Sequence,
        targets: Vec<Target>,
    ) {
        for (target, data_only) in targets {
            match target {
                Ok(SyncTarget::Nothing) => {}
                // Rare enough (a device, a socket) that all may be synced for it; syncs already begun do no harm.
                Ok(SyncTarget::Volume(_)) => return self.sync_volumes(core, session, barrier, None),
                Ok(SyncTarget::Descriptor(descriptor)) => {
                    let begun = self.pend(Pending::Sync { session, barrier }, |token| {
                        core.ring.sync(descriptor, data_only, token)
                    });
                    match begun {
                        Ok(()) => self.waits(session, barrier),
                        Err(Full) => return self.sync_volumes(core, session, barrier, None),
                    }
                }
                Err(error) => {
                    let errno = complain(core, &error);
                    if let Some(durability) = self.barriers.get_mut(&(session, barrier)) {
                        durability.result = Err(errno);
                    }
                }
            }
        }
    }

    fn sync_volumes(
        &mut self,
        core: &mut Core,
        session: SessionId,
        barrier: Sequence,
        only: Option<VolumeId>,
    ) {
        self.waits(session, barrier);
        let volumes: Vec<_> =
            self.volumes.iter().filter(|volume| only.is_none_or(|id| id == volume.id)).cloned().collect();
        let mailbox = Arc::clone(&core.mailbox);
        core.workers.run(move || {
            let result = volumes.iter().try_for_each(|volume| volume.sync()).map_err(|error| {
                error!(%error, "cannot make the copy durable");
                errno_of(&error)
            });
            mailbox.post_urgent(Message::Synced { session, barrier, result });
        });
    }

    /// The barrier waits for one thing more.
    fn waits(&mut self, session: SessionId, barrier: Sequence) {
        if let Some(durability) = self.barriers.get_mut(&(session, barrier)) {
            durability.left += 1;
        }
    }

    /// One of the things that the barrier waits for has ended.
    pub(super) fn on_synced(
        &mut self,
        core: &mut Core,
        session: SessionId,
        barrier: Sequence,
        result: Result<(), Errno>,
    ) {
        let Some(durability) = self.barriers.get_mut(&(session, barrier)) else { return };
        durability.left -= 1;
        if result.is_err() {
            // A failed sync is final: the kernel may report success the next time although the data is lost.
            durability.result = result;
        }
        if durability.left == 0 {
            let result = durability.result;
            self.barriers.remove(&(session, barrier));
            core.tell(Event::MadeDurable { session, barrier, result });
        }
    }
}
