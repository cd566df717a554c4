//! The end in order, and what of it the next run may go on from.

use crate::action::{Body, CloseReason};
use crate::checkpoint::{FileCheckpoint, PrimaryCheckpoint, set_of};
use crate::dirty::FileMarks;
use crate::ids::FileId;
use crate::wire::header::Kind;

use super::Primary;
use super::names::Names;

impl Primary {
    /// Say goodbye. From now on nobody is connected to, and that nobody is connected does not mean to go on alone: what changes
    /// is marked, for the next run.
    pub(super) fn on_stop(&mut self) {
        self.stopping = true;
        let told = self.is_mirrored()
            && self.names.is_complete()
            && self.log.is_empty()
            && self.unconfirmed.is_empty();
        let all = told && self.marks.files.values().all(|marks| marks.is_clean());
        self.send_frame(Kind::Goodbye, |_| {}, Body::Empty);
        self.close(CloseReason::Stopping);
        self.end_greeting(CloseReason::Stopping);
        // What the peer may not have would be overwritten, if it was promoted: then it is to be kept aside, as after a crash. One that runs
        // alone has a generation that tells of it.
        let wanted = &mut self.record.wanted;
        wanted.crashed |= !all && !wanted.alone;
        wanted.running = false;
    }

    /// Whether nothing is under way that the checkpoint would miss.
    pub fn is_at_rest(&self) -> bool {
        self.stopping && self.session.is_none() && self.record.is_settled()
    }

    /// What the next run may go on from; `None`: nothing, everything is to be compared.
    pub fn checkpoint(&self) -> Option<PrimaryCheckpoint> {
        let last = self.last.ok().filter(|_| self.is_at_rest() && !self.untold)?;
        self.config.incarnation?;
        Some(PrimaryCheckpoint {
            last,
            known: self.names.known.iter().collect(),
            scanned: self.names.scanned.iter().collect(),
            marked: self.names.marked(),
            changed: self.names.changed().collect(),
            may_lack: self.names.may_lack(),
            files: self.marks.files.iter().map(|(file, marks)| (*file, kept(marks))).collect(),
        })
    }

    /// Go on from what an earlier run knew. Comes before anything else is told.
    pub fn restore(&mut self, checkpoint: PrimaryCheckpoint) {
        if self.config.incarnation.is_none() {
            return;
        }
        self.last = Ok(checkpoint.last);
        self.names = Names::restored(&checkpoint);
        checkpoint.files.iter().for_each(|(file, kept)| self.add_marks(*file, kept));
        self.marks.bound();
    }

    /// Mark this of a file, beside what is marked of it.
    pub(super) fn add_marks(&mut self, file: FileId, kept: &FileCheckpoint) {
        let marks = self.marks.entry(file);
        marks.dirty.insert_all(&set_of(&kept.dirty));
        marks.mapped.insert_all(&set_of(&kept.mapped));
        marks.compare.insert_all(&set_of(&kept.compare));
        marks.lost |= kept.lost;
        marks.stored |= kept.lost || !kept.mapped.is_empty();
        marks.attributes |= kept.attributes;
        marks.explicit |= kept.explicit;
        self.marks.tidy(file);
    }
}

/// What is marked of a file while there is no session.
fn kept(marks: &FileMarks) -> FileCheckpoint {
    let mut mapped = marks.mapped.clone();
    marks.syncing.iter().for_each(|syncing| mapped.insert_all(&syncing.stored));
    FileCheckpoint {
        dirty: marks.dirty.iter().collect(),
        mapped: mapped.iter().collect(),
        compare: marks.compare.iter().collect(),
        lost: marks.lost || marks.syncing.iter().any(|syncing| syncing.lost),
        attributes: marks.attributes,
        explicit: marks.explicit,
    }
}
