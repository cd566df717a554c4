//! Marks of files that have no name at the peer: they are not sent.
//!
//! Such a file is gone and its end was told before the last of its marks (a mapping that outlives all else, or the kernel that
//! frees its blocks), or it has no name yet, or one that was not told yet. In either case the marks are worth nothing: a file that
//! gets a name is sent or compared as a whole, after a local sync where stores were told before ([`super::buried`]). So they
//! are dropped, else nothing would ever clear those of a file that is gone.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::action::Phase;
use crate::ids::FileId;

use super::Primary;

/// Files that may have marks and no name.
#[derive(Default, Debug)]
pub(super) struct Nameless {
    files: BTreeSet<FileId>,
    /// Files with marks from before this session were looked at.
    looked: bool,
}

impl Nameless {
    /// The file has marks and is not known.
    pub fn note(&mut self, file: FileId) {
        self.files.insert(file);
    }
}

impl Primary {
    /// The file has lost its last name: what is marked of it may be in no queue that would show that.
    pub(super) fn note_nameless(&mut self, file: FileId) {
        if self.marks.get(file).is_some() {
            self.queues.nameless.note(file);
        }
    }

    /// Drop marks of files without a name, while no list is expected that may bring one: that would be work done in vain.
    pub(super) fn drop_nameless(&mut self) {
        // Without a session nothing need be known, also of files that have names.
        if self.session.is_none() || self.phase != Phase::Mirrored || !self.names.is_complete() {
            return;
        }
        let mut files = core::mem::take(&mut self.queues.nameless.files);
        if !core::mem::replace(&mut self.queues.nameless.looked, true) {
            files.extend(self.marks.files.keys());
        }
        let nameless: Vec<FileId> = files.into_iter().filter(|file| !self.is_known(*file)).collect();
        for file in nameless {
            self.forget(file);
        }
    }
}
