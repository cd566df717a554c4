//! Callers that are held, and the local syncs they wait for.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use replicator_core::event::{Event, ReadOutcome, SyncScope};
use replicator_core::ids::{Errno, FileId, LocalSyncId, Ticket};
use tracing::error;

use super::super::engine::Core;
use super::super::message::Message;
use super::{Pending, Primary};
use crate::gate::sink::SyncReply;
use crate::gate::strict::Duty;
use crate::uring::Full;

/// A held caller.
pub(super) struct Waiting {
    reply: SyncReply,
    scope: SyncScope,
    since: Instant,
}

impl Primary {
    pub(super) fn on_sync(
        &mut self,
        core: &mut Core,
        scope: SyncScope,
        backing: Arc<OwnedFd>,
        reply: SyncReply,
    ) {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.next();
        if let SyncScope::File { file, .. } = scope {
            self.backings.entry(file).and_modify(|held| held.1 += 1).or_insert((backing, 1));
        }
        self.waiting.insert(ticket, Waiting { reply, scope, since: Instant::now() });
        core.tell(Event::SyncRequested { ticket, scope });
    }

    pub(super) fn release(&mut self, core: &mut Core, ticket: Ticket, result: Result<(), Errno>) {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            error!(%ticket, "a caller was released twice");
            return;
        };
        if let SyncScope::File { file, .. } = waiting.scope
            && let Some(held) = self.backings.get_mut(&file)
        {
            held.1 -= 1;
            if held.1 == 0 {
                self.backings.remove(&file);
            }
        }
        core.publisher().on_released(waiting.since.elapsed(), result);
        self.stopping.remove(&ticket);
        waiting.reply.answer(result);
    }

    /// One barrier over each volume: what is dirty reaches the peer before the session ends.
    pub(super) fn sync_everything(&mut self, core: &mut Core) {
        for volume in &self.volumes {
            let ticket = self.next_ticket;
            self.next_ticket = ticket.next();
            let scope = SyncScope::Volume(volume.id);
            let reply = SyncReply::new(|_| {});
            self.waiting.insert(ticket, Waiting { reply, scope, since: Instant::now() });
            self.stopping.insert(ticket);
            core.tell(Event::SyncRequested { ticket, scope });
        }
    }

    pub(super) fn sync_local(&mut self, core: &mut Core, sync: LocalSyncId, scope: SyncScope) {
        match scope {
            SyncScope::File { file, data_only } => {
                let held = self.backings.get(&file).map(|(backing, _)| Arc::clone(backing));
                match held.map_or_else(|| self.open(file, ()), Ok) {
                    Ok(descriptor) => self.sync_file(core, sync, descriptor, data_only),
                    // A file that is gone has nothing left to make durable.
                    Err(ReadOutcome::Gone | ReadOutcome::Read(())) => {
                        core.tell(Event::LocalSynced { sync, result: Ok(()) });
                    }
                    Err(ReadOutcome::Failed(errno)) => {
                        core.tell(Event::LocalSynced { sync, result: Err(errno) });
                    }
                }
            }
            SyncScope::Volume(id) => {
                let Some(volume) = self.volume(id).cloned() else {
                    return core.tell(Event::LocalSynced { sync, result: Err(Errno(libc::ENOENT)) });
                };
                sync_on_worker(core, sync, move || volume.sync());
            }
        }
    }

    pub(super) fn sync_file(
        &mut self,
        core: &mut Core,
        sync: LocalSyncId,
        file: Arc<OwnedFd>,
        data_only: bool,
    ) {
        let token = self.pend(Pending::Sync(sync));
        if let Err(Full) = core.ring.sync(Arc::clone(&file), data_only, token) {
            sync_on_worker(core, sync, move || Ok(sync_descriptor(&file, data_only)?));
        }
    }

    /// A sync of this file was not held: the next shall be. What waits for the disk is done by a worker.
    pub(super) fn on_unguarded(&mut self, core: &mut Core, file: FileId) {
        let number = usize::from(file.volume.0);
        let (Some(strict), Some(volume)) = (self.strict.get(number), self.volumes.get(number)) else {
            return;
        };
        if strict.seen(file.inode) == Duty::None {
            return;
        }
        let (strict, volume) = (Arc::clone(strict), Arc::clone(volume));
        let mailbox = Arc::clone(&core.mailbox);
        core.workers.run(move || {
            if strict.attend(&volume, file.inode) {
                // The mark is an attribute of the file, and so mirrored. Not after the file was reported as forgotten, which is done under
                // the lock: nothing would clear what is marked then.
                let _namespace = volume.lock_namespace();
                if volume.handle(file.inode).is_some() {
                    mailbox.post(Message::Attributes(file));
                }
            }
        });
    }
}

/// Sync a file that is left out of the tree, and let the caller go.
pub(super) fn sync_here(core: &mut Core, file: Arc<OwnedFd>, data_only: bool, reply: SyncReply) {
    core.workers.run(move || {
        reply.answer(sync_descriptor(&file, data_only).map_err(|errno| Errno(errno as i32)));
    });
}

pub(super) fn sync_descriptor(file: &OwnedFd, data_only: bool) -> nix::Result<()> {
    if data_only { nix::unistd::fdatasync(file) } else { nix::unistd::fsync(file) }
}

pub(super) fn sync_on_worker(
    core: &mut Core,
    sync: LocalSyncId,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) {
    let mailbox = Arc::clone(&core.mailbox);
    core.workers.run(move || {
        let result = work().map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)));
        mailbox.post_urgent(Message::Answer(Event::LocalSynced { sync, result }));
    });
}
