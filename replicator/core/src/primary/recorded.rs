//! What a resync has to send, at its pace: what was marked before it began, and what it found.
//!
//! It is kept apart from what is marked since, which goes at once: an application that writes to a file of which all is to be sent
//! does not wait behind the rest of it, and does not drag it along. Only while `Scanning`, and only what nobody waits for.

use crate::dirty::FileMarks;
use crate::extent::ExtentSet;
use crate::ids::{FileId, Time};
use crate::wire::header::PAYLOAD_MAX;

use super::Primary;
use super::drain::{READS_MAX, Step, Work, next_work};
use super::resync::Resync;

impl Primary {
    /// Whether what is found of the file goes at the resync's pace.
    pub(super) fn is_paced(&self, file: FileId) -> bool {
        self.session.as_ref().is_some_and(|session| session.resync == Resync::Scanning)
            && self.is_known(file)
            && self.marks.get(file).is_none_or(|marks| marks.waits.is_empty())
    }

    /// These extents of the file are to be sent, at the resync's pace.
    pub(super) fn record(&mut self, file: FileId, extents: &ExtentSet) {
        if extents.is_empty() {
            return;
        }
        let mut extents = extents.clone();
        if let Some(marks) = self.marks.get(file) {
            // What is sent anyway is not sent twice.
            extents.subtract_all(&marks.dirty);
        }
        for extent in extents.iter() {
            let (_, widened) = self.marks.mark(file, extent, |marks| &mut marks.recorded);
            self.after_mark(file, widened);
        }
        let marks = self.marks.entry(file);
        // Writing them changes the times of the peer's file.
        marks.mark_attributes(false);
        self.note_recorded(file);
        self.requeue(file);
    }

    /// What was marked of the file before now goes at the resync's pace.
    pub(super) fn record_marks(&mut self, file: FileId) {
        let Some(marks) = self.marks.get_mut(file) else { return };
        if marks.dirty.is_empty() || !marks.waits.is_empty() {
            return;
        }
        let dirty = marks.dirty.take();
        marks.recorded.insert_all(&dirty);
        self.note_recorded(file);
        self.requeue(file);
    }

    /// The resync does not leave its first stage before what is recorded is on its way.
    pub(super) fn note_recorded(&mut self, file: FileId) {
        if let Some(session) = &mut self.session {
            session.recorded_files.insert(file);
        }
    }

    /// There may be nothing recorded of the file any more.
    pub(super) fn recorded_read(&mut self, file: FileId) {
        if self.marks.get(file).is_none_or(|marks| marks.recorded.is_empty())
            && let Some(session) = &mut self.session
        {
            session.recorded_files.remove(&file);
        }
    }

    /// What is recorded of the file is waited for, or cannot be sent as things are: it is like any other mark.
    pub(super) fn unpace(&mut self, file: FileId) {
        if let Some(marks) = self.marks.get_mut(file).filter(|marks| !marks.recorded.is_empty()) {
            marks.unpace();
            self.requeue(file);
        }
        if let Some(session) = &mut self.session {
            session.recorded_files.remove(&file);
        }
    }

    /// Issue reads of what is recorded, as far as the pace allows.
    pub(super) fn drain_recorded(&mut self) {
        while let Some(file) = self.queues.recorded.pop_front() {
            match self.step_recorded(file) {
                Step::Again => self.queues.recorded.push_front(file),
                Step::Idle => {
                    self.clear_flag(file, |marks: &mut FileMarks| &mut marks.paced);
                    self.recorded_read(file);
                }
                Step::Full => {
                    self.queues.recorded.push_front(file);
                    break;
                }
            }
        }
    }

    fn step_recorded(&mut self, file: FileId) -> Step {
        let known = self.is_known(file);
        let Some(session) = &self.session else { return Step::Idle };
        let Some(marks) = self.marks.get(file) else { return Step::Idle };
        if !known {
            self.unpace(file);
            return Step::Idle;
        }
        if marks.backoff.is_some() {
            return Step::Idle;
        }
        let most = self.config.read_bytes_max.min(u64::from(PAYLOAD_MAX));
        let most = self.pacing.piece(self.now, most);
        let Work::Data { claim, asked } = next_work(marks, false, true, most) else { return Step::Idle };
        if self.reading_bytes + session.unapplied_bytes >= self.config.window_bytes
            || self.reads.len() >= READS_MAX
            || !self.pacing.may_start(self.now)
        {
            return Step::Full;
        }
        self.pacing.spend(asked.length());
        self.read_extent(file, claim, asked, true);
        Step::Again
    }

    /// When a further piece may be begun, if any waits for that.
    pub(super) fn pace_deadline(&self) -> Option<Time> {
        let waits = !self.queues.recorded.is_empty()
            || !self.queues.compare.is_empty()
            || self.names.awaits_listing();
        self.pacing.starts_at(self.now).filter(|_| waits)
    }
}
