//! nothing-forgotten: what is not the same on the other node's disk has a mark.

use super::*;

impl World {
    /// Where the durable copy differs, there is a mark. Only files are looked at whose names the copy knows, and which are the
    /// ones the edge knows by their numbers: others are found by the listing of a marked directory.
    pub(in crate::world) fn check_nothing_forgotten(&mut self) {
        // What somebody else changed in the copy has no mark.
        if self.verification.is_corrupted() {
            return;
        }
        let link = self.link.as_ref();
        if link.is_none_or(|link| link.broken || !link.to_secondary.is_empty() || !link.to_primary.is_empty())
            || !self.serving.is_empty()
        {
            return;
        }
        for (inode, file) in &self.files.files {
            let Some(node) =
                self.replica.known.get(&id(*inode)).and_then(|node| self.replica.nodes.get(node))
            else {
                continue;
            };
            if file.kind == FileKind::Regular
                && file.links > 0
                && self.handles.get(inode) == Some(&file.uid)
                && file.cells != node.durable_cells
                && !self.primary.is_marked(id(*inode))
                && !self.is_silent(file)
            {
                let reason = format!(
                    "nothing-forgotten: inode {inode} has no mark; primary {:?}, durable {:?}",
                    file.cells, node.durable_cells
                );
                return self.fail(reason);
            }
        }
    }

    /// Stores through a mapping to a page that was told before are not told again.
    pub(in crate::world) fn is_silent(&self, file: &File) -> bool {
        !file.stored_pages.is_empty()
    }
}
