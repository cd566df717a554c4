//! Numbers of files that were forgotten with stores through mappings told of them.
//!
//! Capture and names come from different sources: a store may be told before the end of the file that had the number, and that
//! before the new file that was stored to. The marks go with the former file, but the pages of the new one are writable, and
//! further stores to them are silent. So a new file with such a number is in doubt: it is synced here, then compared.
//!
//! What this relies on: between such a store and the end of the former file the peer does not confirm all marks of the number.
//! It cannot: the edge posts the end of a file before the number can be given to another one, so the end is in the mailbox when a
//! store to the new one is told, and is told in the next round at the latest (`daemon::engine`). A confirmation needs a local
//! sync, a read and a barrier after the store, each of which is answered in a later round than it was ordered in.

use alloc::collections::BTreeSet;

use crate::ids::{FileId, FileKind};

use super::Primary;

/// Most numbers that are kept. Where numbers are not used again, nothing else takes them away.
const BURIED_MAX: usize = 1 << 16;

/// See the module.
pub(super) type Buried = BTreeSet<FileId>;

impl Primary {
    /// The file is forgotten; a store that was told of its number may have been to the next one.
    pub(super) fn bury(&mut self, file: FileId) {
        if self.buried.len() < BURIED_MAX {
            self.buried.insert(file);
            return;
        }
        self.buried.clear();
        self.unprotect();
    }

    /// There is a new file with that number.
    pub(super) fn unbury(&mut self, file: FileId, kind: FileKind) {
        if self.buried.remove(&file) {
            let marks = self.marks.entry(file);
            marks.lost |= kind == FileKind::Regular;
            // The store may have been to one that comes after this one.
            marks.stored = true;
        }
    }
}
