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
use crate::gate::sink::{Sink, SyncReply};
use crate::storage::boundary::{Told, translate};
use crate::volume::Volume;

/// Passes everything on, in order.
pub struct Gatekeeper {
    mailbox: Arc<Mailbox<Message>>,
    volume: Arc<Volume>,
}

impl Gatekeeper {
    /// Report what the gate of that volume sees to this mailbox.
    pub fn new(mailbox: Arc<Mailbox<Message>>, volume: Arc<Volume>) -> Gatekeeper {
        Gatekeeper { mailbox, volume }
    }
}

impl Sink for Gatekeeper {
    fn namespace(&self, operation: Operation) {
        if self.volume.patterns().is_none() {
            return self.mailbox.post(Message::Namespace(operation));
        }
        let mut emit = |told| match told {
            Told::Operation(operation) => self.mailbox.post(Message::Namespace(operation)),
            Told::Attributes(directory) => self.attributes(directory),
            Told::Forgotten(file) => self.mailbox.post(Message::Forgotten(file)),
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

    fn open_for_write(&self, file: FileId) -> Result<(), Errno> {
        // The volume's set of writers has the file by now. In this version a crash of this node is followed by a
        // comparison of the whole tree, so the intent need not outlive the process.
        if self.volume.is_excluded(file.inode) {
            // What the kernel programs told of it before it was known to be left out.
            self.mailbox.post(Message::Forgotten(file));
        }
        Ok(())
    }

    fn written(&self, file: FileId, extent: Extent) {
        self.mailbox.post(Message::Written { file, extent });
    }

    fn attributes(&self, file: FileId) {
        if !self.volume.excludes_now(file.inode) {
            self.mailbox.post(Message::Attributes(file));
        }
    }

    fn forgotten(&self, file: FileId) {
        self.mailbox.post(Message::Forgotten(file));
    }

    fn replaced(&self, file: FileId) {
        self.mailbox.post(Message::Answer(Event::CaptureLost { file }));
    }

    fn sync(&self, scope: SyncScope, backing: Arc<OwnedFd>, reply: SyncReply) {
        if let SyncScope::File { data_only, .. } = scope
            && self.volume.excludes_open(backing.as_fd())
        {
            return self.mailbox.post_urgent(Message::SyncHere { backing, data_only, reply });
        }
        self.mailbox.post_urgent(Message::Sync { scope, backing, reply });
    }
}
