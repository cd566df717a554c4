//! What the kernel keeps of names and attributes, to be dropped after a change that did not come through the gate.

use std::sync::{Arc, Weak};

use super::server::Server;

/// From this minor version on the kernel drops all names at once (Linux 6.16).
const EPOCH_MINOR_VERSION: u32 = 44;

/// The kernel's cache of one gate. Does nothing once the gate is gone. Never to be used from inside a
/// [`super::sink::Sink`].
#[derive(Clone, Debug)]
pub struct KernelCache {
    server: Weak<Server>,
}

impl KernelCache {
    pub(super) fn new(server: &Arc<Server>) -> KernelCache {
        KernelCache { server: Arc::downgrade(server) }
    }

    /// Drop what is cached of a file, pages included.
    pub fn invalidate(&self, inode: u64) {
        if let Some(server) = self.server.upgrade() {
            let node = server.inodes.node_of(inode);
            doubt_capability(&server, node);
            server.device.invalidate_node(node, true);
        }
    }

    /// Drop what is cached of a file's attributes.
    pub fn invalidate_attributes(&self, inode: u64) {
        if let Some(server) = self.server.upgrade() {
            let node = server.inodes.node_of(inode);
            doubt_capability(&server, node);
            server.outdate(node);
        }
    }

    /// Drop what is cached under a name (also that there is none), and of its directory: attributes and listing. Waits for operations under
    /// way in that directory, a held fsync of it among them: never from the thread that answers syncs.
    pub fn invalidate_entry(&self, parent: u64, name: &[u8]) {
        if let Some(server) = self.server.upgrade() {
            let node = server.inodes.node_of(parent);
            server.listings.changed([node; 2]);
            server.device.invalidate_entry(node, name);
            // The pages of a directory are its listing.
            server.device.invalidate_node(node, true);
        }
    }

    /// Drop everything. Returns whether the kernel can: one before Linux 6.16 keeps names.
    #[must_use]
    pub fn invalidate_all(&self) -> bool {
        let Some(server) = self.server.upgrade() else { return true };
        server.listings.clear();
        for node in server.inodes.nodes() {
            doubt_capability(&server, node);
            server.device.invalidate_node(node, true);
        }
        if server.negotiated.minor < EPOCH_MINOR_VERSION {
            return false;
        }
        server.device.invalidate_names();
        true
    }
}

/// The file's capabilities may have been changed. Before the kernel is told: it asks for them anew then.
fn doubt_capability(server: &Server, node: u64) {
    if let Ok(inode) = server.inodes.get(node) {
        inode.capability_changes_now();
    }
}
