//! The gate's sink: turns what the gate sees into messages to the data plane. Of names that are left out of the tree nothing is
//! passed on but what comes in and goes out.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use replicator_core::event::{Event, SyncScope};
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId};
use replicator_core::wire::namespace::Operation;

use super::mailbox::Mailbox;
use super::message::Message;
use super::safe_set::SafeSet;
use crate::gate::sink::{Intent, Sink, SyncReply};
use crate::storage::boundary::{Told, translate};
use crate::volume::{Side, Volume};

/// Passes everything on, in order.
pub struct Gatekeeper {
    mailbox: Arc<Mailbox<Message>>,
    volume: Arc<Volume>,
    safe_set: SafeSet,
}

impl Gatekeeper {
    /// Report what the gate of that volume sees to this mailbox.
    pub fn new(mailbox: Arc<Mailbox<Message>>, volume: Arc<Volume>, safe_set: SafeSet) -> Gatekeeper {
        Gatekeeper { mailbox, volume, safe_set }
    }

    /// What happened to a file may not have been told: it is compared, after a local sync that brings to light what mappings hold.
    fn doubt(&self, file: FileId) {
        self.mailbox.post(Message::Answer(Event::CaptureLost { file }));
    }
}

impl Sink for Gatekeeper {
    fn namespace(&self, operation: Operation) {
        if self.volume.patterns().is_none() {
            return self.mailbox.post(Message::Namespace(operation));
        }
        let mut emit = |told| match told {
            Told::Operation(operation) => self.mailbox.post(Message::Namespace(operation)),
            Told::Attributes(directory) => self.mailbox.post(Message::Attributes(directory)),
            Told::Forgotten(file) => self.mailbox.post(Message::Forgotten(file)),
            Told::Readmitted(file) => self.doubt(file),
        };
        if let Err(error) = translate(&self.volume, operation, &mut emit) {
            tracing::warn!(
                volume = %self.volume.path.display(),
                %error,
                "what came into the tree or left it cannot be told: both trees are compared"
            );
            self.mailbox.post_urgent(Message::Untold);
        }
    }

    fn intend(&self, files: &[FileId], made: bool) -> Result<Intent, Errno> {
        self.safe_set.intend(files, made).map(Intent::new)
    }

    fn open_for_write(&self, file: FileId) {
        // The volume's set of writers has the file by now.
        if self.volume.patterns().is_some() {
            let _order = self.volume.lock_namespace();
            match self.volume.judge(file.inode) {
                // What the kernel programs told of it before it was known to be left out.
                Side::Outside => self.mailbox.post(Message::Forgotten(file)),
                Side::Readmitted => self.doubt(file),
                Side::Inside => {}
            }
        }
    }

    fn written(&self, file: FileId, extent: Extent) {
        self.mailbox.post(Message::Written { file, extent });
    }

    fn attributes(&self, file: FileId) {
        if !self.volume.is_outside_now(file.inode) {
            self.mailbox.post(Message::Attributes(file));
        }
    }

    fn forgotten(&self, file: FileId) {
        self.mailbox.post(Message::Forgotten(file));
    }

    fn replaced(&self, file: FileId) {
        self.doubt(file);
    }

    fn names_changed(&self, directory: FileId) {
        self.mailbox.post(Message::Answer(Event::DirectoryChanged { directory }));
    }

    fn sync(&self, scope: SyncScope, backing: Arc<OwnedFd>, reply: SyncReply) {
        if let SyncScope::File { file, data_only } = scope
            && (self.volume.is_outside(file.inode) || self.volume.is_open_outside(backing.as_fd()))
        {
            return self.mailbox.post_urgent(Message::SyncHere { backing, data_only, reply });
        }
        self.mailbox.post_urgent(Message::Sync { scope, backing, reply });
    }
}
