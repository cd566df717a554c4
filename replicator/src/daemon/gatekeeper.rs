//! The gate's sink: turns what the gate sees into messages to the data plane.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use replicator_core::event::{Event, SyncScope};
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId};
use replicator_core::wire::namespace::Operation;

use super::mailbox::Mailbox;
use super::message::Message;
use crate::gate::sink::{Sink, SyncReply};

/// Passes everything on, in order.
pub struct Gatekeeper {
    mailbox: Arc<Mailbox<Message>>,
}

impl Gatekeeper {
    /// Report to this mailbox.
    pub fn new(mailbox: Arc<Mailbox<Message>>) -> Gatekeeper {
        Gatekeeper { mailbox }
    }
}

impl Sink for Gatekeeper {
    fn namespace(&self, operation: Operation) {
        self.mailbox.post(Message::Namespace(operation));
    }

    fn open_for_write(&self, _: FileId) -> Result<(), Errno> {
        // The volume's set of writers has the file by now. In this version a crash of this node is followed by a
        // comparison of the whole tree, so the intent need not outlive the process.
        Ok(())
    }

    fn written(&self, file: FileId, extent: Extent) {
        self.mailbox.post(Message::Written { file, extent });
    }

    fn attributes(&self, file: FileId) {
        self.mailbox.post(Message::Attributes(file));
    }

    fn forgotten(&self, file: FileId) {
        self.mailbox.post(Message::Forgotten(file));
    }

    fn replaced(&self, file: FileId) {
        self.mailbox.post(Message::Answer(Event::CaptureLost { file }));
    }

    fn names_changed(&self, directory: FileId) {
        self.mailbox.post(Message::Answer(Event::DirectoryChanged { directory }));
    }

    fn sync(&self, scope: SyncScope, backing: Arc<OwnedFd>, reply: SyncReply) {
        self.mailbox.post_urgent(Message::Sync { scope, backing, reply });
    }
}
