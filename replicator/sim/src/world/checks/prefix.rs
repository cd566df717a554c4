//! prefix: at a barrier the other node holds everything from before it. Of a file that is what its callers were told
//! (acknowledged-is-durable); of a whole volume it is all names, too.

use super::*;

impl World {
    /// A volume was synced on both nodes, and no name has changed since that was asked for.
    pub(in crate::world) fn check_prefix(&self, request: &Request, replica: &Replica) -> Result<(), String> {
        let SyncScope::Volume(volume) = request.scope else { return Ok(()) };
        if self.files.names != request.names {
            return Ok(());
        }
        for (inode, file) in self.files.files.iter().filter(|(inode, _)| volume_of(**inode) == volume) {
            let Some(path) = self.files.path(*inode) else { continue };
            let found = replica.durable_at(volume, &path).and_then(|node| replica.nodes.get(&node));
            let Some(node) = found.filter(|node| node.kind == file.kind) else {
                return Err(format!("{path:?} is not there"));
            };
            let names = node
                .durable_entries
                .keys()
                .filter(|name| std::str::from_utf8(name).is_ok_and(|name| !file.entries.contains_key(name)));
            if let Some(name) = names.map(|name| String::from_utf8_lossy(name)).next() {
                return Err(format!("{path:?} still has {name}"));
            }
        }
        Ok(())
    }
}
