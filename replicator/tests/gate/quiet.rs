//! A sink for gates whose words nobody needs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use replicator::gate::sink::{Intent, Sink, SyncReply};
use replicator_core::event::SyncScope;
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId};
use replicator_core::wire::namespace::Operation;

/// Answers at once and remembers nothing.
pub struct Quiet;

impl Sink for Quiet {
    fn namespace(&self, _: Operation) {}

    fn intend(&self, _: &[FileId], _: bool) -> Result<Intent, Errno> {
        Ok(Intent::none())
    }

    fn open_for_write(&self, _: FileId) {}

    fn written(&self, _: FileId, _: Extent) {}

    fn attributes(&self, _: FileId) {}

    fn forgotten(&self, _: FileId) {}

    fn replaced(&self, _: FileId) {}

    fn names_changed(&self, _: FileId) {}

    fn sync(&self, _: SyncScope, _: Arc<OwnedFd>, reply: SyncReply) {
        reply.answer(Ok(()));
    }
}
