//! What was captured becomes marks. Called for every traced write: nothing is decided here.

use crate::action::{Action, Notice};
use crate::event::NamespaceChange;
use crate::extent::Extent;
use crate::ids::{EntryId, FileId, FileKind};

use super::Primary;
use super::verify::Touch;

/// Something that has its place in the order of namespace operations.
#[derive(Debug)]
pub(super) enum Logged {
    /// An operation whose encoded form the edge holds.
    Entry(EntryId, NamespaceChange),
    /// The directory's names changed in a way no operation tells.
    Changed(FileId),
    /// Last name and last open of the file are gone.
    Forgotten(FileId),
}

impl Primary {
    pub(super) fn on_write_traced(&mut self, file: FileId, extent: Extent) {
        self.mark_written(file, extent, true);
    }

    pub(super) fn on_store_mapped(&mut self, file: FileId, extent: Extent) {
        self.touch(file, Touch::Bytes(extent));
        let first = self.marks.get(file).is_none_or(|marks| marks.mapped.is_empty());
        let (marks, widened) = self.marks.mark(file, extent, |marks| &mut marks.mapped);
        marks.stored = true;
        marks.mark_attributes(false);
        self.settle(file);
        self.after_mark(file, widened);
        if first && self.session.is_some() {
            self.queues.mapped.insert((self.now.after(self.config.confirm_interval / 2), file));
        }
    }

    pub(super) fn on_attributes_changed(&mut self, file: FileId) {
        self.touch(file, Touch::All);
        self.marks.entry(file).mark_attributes(true);
        self.settle(file);
    }

    pub(super) fn on_capture_lost(&mut self, file: FileId) {
        self.marks.widened += 1;
        self.compare_all_of(file);
        self.report(Notice::Widened { file });
    }

    /// Events about the file may be missing: all of it is to be compared, of a directory all below it.
    pub(super) fn compare_all_of(&mut self, file: FileId) {
        self.touch(file, Touch::All);
        if self.is_directory(file) {
            self.mark_directory(file, true);
            self.on_attributes_changed(file);
        } else {
            let marks = self.marks.entry(file);
            marks.lost = true;
            marks.stored = true;
            marks.mark_attributes(true);
            self.settle(file);
            self.queue_compare(file);
            if self.session.is_some() {
                self.queues.mapped.insert((self.now, file));
            }
        }
    }

    /// The whole file is to be compared; `gated`: not before the peer told which files it had to make.
    pub(super) fn mark_compare(&mut self, file: FileId, gated: bool) {
        self.touch(file, Touch::All);
        let marks = self.marks.entry(file);
        marks.compare.insert(Extent::WHOLE);
        marks.compare_gated |= gated;
        marks.mark_attributes(true);
        self.settle(file);
        self.queue_compare(file);
    }

    pub(super) fn on_namespace_logged(&mut self, entry: EntryId, change: NamespaceChange) {
        if self.session.is_some() {
            self.log.push_back(Logged::Entry(entry, change));
        } else {
            self.mark_change(&change);
            self.not_told(&change);
            self.out.push(Action::DropEntry { entry });
        }
    }

    pub(super) fn on_directory_changed(&mut self, directory: FileId) {
        if self.session.is_some() {
            self.log.push_back(Logged::Changed(directory));
        } else {
            self.mark_directory(directory, false);
        }
    }

    pub(super) fn on_file_forgotten(&mut self, file: FileId) {
        if self.session.is_some() {
            self.log.push_back(Logged::Forgotten(file));
        } else {
            self.forget_nameless(file);
        }
    }

    /// The bytes are to be sent.
    pub(super) fn mark_dirty(&mut self, file: FileId, extent: Extent) {
        self.mark_written(file, extent, false);
    }

    /// One look-up for each traced write.
    fn mark_written(&mut self, file: FileId, extent: Extent, attributes: bool) {
        self.touch(file, Touch::Bytes(extent));
        let has_session = self.session.is_some();
        let (marks, widened) = self.marks.mark(file, extent, |marks| &mut marks.dirty);
        marks.recorded.subtract(extent);
        marks.attributes |= attributes;
        marks.explicit |= attributes && extent.is_open();
        if has_session && !marks.queued {
            marks.queued = true;
            self.queues.settling.push_back((self.now.after(self.config.settle), file));
        }
        self.after_mark(file, widened);
    }

    /// Hold the bounds on the number of extents.
    pub(super) fn after_mark(&mut self, file: FileId, widened: bool) {
        if widened {
            self.report(Notice::Widened { file });
        }
        if self.marks.is_over() {
            for file in self.marks.bound() {
                self.report(Notice::Widened { file });
            }
        }
    }

    /// All of a file that has a new name is to be sent. Reading stops at its end, so that this costs nothing for an empty
    /// one.
    pub(super) fn mark_whole(&mut self, file: FileId) {
        self.mark_dirty(file, Extent::WHOLE);
        self.marks.entry(file).mark_attributes(true);
    }

    /// The marks that follow from a namespace operation, whether or not it can be sent.
    pub(super) fn mark_change(&mut self, change: &NamespaceChange) {
        match *change {
            NamespaceChange::Created { parent, file, kind } => {
                self.mark_parent(parent);
                // What is known of a former file with this number is worth nothing.
                self.void_reads(file);
                self.mark_new(file, kind);
            }
            NamespaceChange::Linked { parent, file, kind } => {
                self.mark_parent(parent);
                self.read_again(file);
                if !self.is_known(file) {
                    self.mark_new(file, kind);
                } else if kind == FileKind::Regular {
                    // If a list removed it there because it was moved behind the gate's back, the peer makes it anew, empty.
                    self.mark_compare(file, false);
                }
                self.on_attributes_changed(file);
            }
            NamespaceChange::Unlinked { parent, file, last } => {
                self.mark_parent(parent);
                self.lost_name(file, last);
            }
            NamespaceChange::Renamed { old_parent, new_parent, file, other, other_last, exchanged } => {
                self.mark_parent(old_parent);
                self.mark_parent(new_parent);
                self.read_again(file);
                if exchanged && let Some(other) = other {
                    self.read_again(other);
                }
                if let Some(other) = other {
                    self.lost_name(other, other_last && !exchanged);
                }
            }
            NamespaceChange::Listed { directory, .. } => self.mark_parent(directory),
        }
    }

    /// The file is there: reads that began before may yet find a former file with its number gone, and are begun again.
    pub(super) fn read_again(&mut self, file: FileId) {
        self.touch(file, Touch::All);
        self.names.begin_again(file);
        self.void_reads(file);
        self.requeue(file);
    }

    /// Names in the directory change at the peer, and with them its times.
    fn mark_parent(&mut self, directory: FileId) {
        self.touch(directory, Touch::Times);
        self.marks.entry(directory).mark_attributes(false);
        self.settle(directory);
    }

    fn mark_new(&mut self, file: FileId, kind: FileKind) {
        self.touch(file, Touch::All);
        self.unbury(file, kind);
        if kind == FileKind::Regular {
            self.mark_whole(file);
        }
        let marks = self.marks.entry(file);
        if kind != FileKind::Regular {
            marks.dirty.clear();
            marks.recorded.clear();
            marks.mapped.clear();
            marks.syncing.clear();
            marks.lost = false;
        }
        // All of it is sent.
        marks.tail.clear();
        marks.compare.clear();
        marks.compare_gated = false;
        marks.named = true;
        marks.mark_attributes(true);
        self.compare_ended(file);
        self.settle(file);
    }

    fn lost_name(&mut self, file: FileId, last: bool) {
        if last && let Some(marks) = self.marks.get_mut(file) {
            marks.named = false;
        }
    }

    /// Drop the marks of a file that is gone, unless a new file has its number by now. If the peer knows a file with the number, that may be the one that
    /// is gone, of which no operation told: a list would take the new one for it.
    pub(super) fn forget_nameless(&mut self, file: FileId) {
        if self.is_known(file) {
            self.compare_all_of(file);
        } else if !self.marks.get(file).is_some_and(|marks| marks.named) {
            self.forget(file);
        }
    }

    /// Let the file's marks settle before they are sent, if there is somebody to send them to.
    pub(super) fn settle(&mut self, file: FileId) {
        if self.session.is_none() {
            return;
        }
        let due = self.now.after(self.config.settle);
        if let Some(marks) = self.marks.get_mut(file)
            && !marks.queued
        {
            marks.queued = true;
            self.queues.settling.push_back((due, file));
        }
    }
}
