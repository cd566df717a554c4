//! Finding out which extents differ from the peer's, by digests of blocks.

use crate::action::{Action, Body};
use crate::dirty::{FileMarks, Read, ReadKind, pick};
use crate::event::ReadOutcome;
use crate::extent::{Extent, ExtentSet};
use crate::ids::{FileId, ReadId};
use crate::wire::header::Kind;

use super::Primary;
use super::drain::Step;

/// Most digests that are being read.
const DIGESTS_READING_MAX: usize = 4;
/// Most digests that the peer has not answered.
const DIGESTS_UNANSWERED_MAX: usize = 32;

impl Primary {
    /// Put a file with something to compare in the queue for digests.
    pub(super) fn queue_compare(&mut self, file: FileId) {
        let known = self.is_known(file);
        let (Some(session), Some(marks)) = (&mut self.session, self.marks.get_mut(file)) else { return };
        if !known || !marks.has_compare() {
            return;
        }
        session.compare_files.insert(file);
        if !marks.compare.is_empty() && !marks.compare_gated && !marks.compare_queued {
            marks.compare_queued = true;
            if marks.waits.iter().any(|wait| wait.urgent) {
                self.queues.compare.push_front(file);
            } else {
                self.queues.compare.push_back(file);
            }
        }
    }

    pub(super) fn drain_compare(&mut self) {
        while let Some(file) = self.queues.compare.pop_front() {
            match self.step_compare(file) {
                Step::Again => self.queues.compare.push_back(file),
                Step::Idle => {
                    self.clear_flag(file, |marks| &mut marks.compare_queued);
                    self.compare_ended(file);
                }
                Step::Full => {
                    self.queues.compare.push_front(file);
                    break;
                }
            }
        }
    }

    fn step_compare(&mut self, file: FileId) -> Step {
        let known = self.is_known(file);
        let Some(session) = &self.session else { return Step::Idle };
        let Some(marks) = self.marks.get_mut(file) else { return Step::Idle };
        if !known || marks.compare_gated || marks.backoff.is_some() {
            return Step::Idle;
        }
        // What is sent anyway needs no comparison.
        marks.compare.subtract_all(&marks.dirty);
        marks.compare.subtract_all(&marks.recorded);
        if marks.compare.is_empty()
            || marks.reads_attributes()
            || marks.reads_digests()
            || marks.attributes_due()
        {
            return Step::Idle;
        }
        let reading = self.digests_reading;
        if reading >= DIGESTS_READING_MAX || session.digests.len() + reading >= DIGESTS_UNANSWERED_MAX {
            return Step::Full;
        }
        let waited = !marks.waits.is_empty();
        if !waited && !self.pacing.may_start(self.now) {
            return Step::Full;
        }
        let most = self.config.digest_bytes_max;
        let most = if waited { most } else { self.pacing.piece(self.now, most) };
        let Some(marks) = self.marks.get(file) else { return Step::Idle };
        let Some((claim, asked)) = pick(&marks.compare, &[], most, false) else {
            return Step::Idle;
        };
        let read = self.new_read(file);
        self.digests_reading += 1;
        self.pacing.spend(asked.length());
        let marks = self.marks.entry(file);
        marks.compare.subtract(claim);
        marks.reads.push(Read { id: read, kind: ReadKind::Digests { claim, asked } });
        self.out.push(Action::ReadDigests { read, file, extent: asked });
        Step::Idle
    }

    pub(super) fn on_digests_read(&mut self, read: ReadId, outcome: ReadOutcome<Extent>) {
        let Some((file, kind)) = self.end_read(read) else { return };
        let ReadKind::Digests { claim, asked } = kind else { return };
        match outcome {
            ReadOutcome::Gone => self.on_gone(file),
            ReadOutcome::Failed(errno) => {
                self.marks.entry(file).compare.insert(claim);
                self.back_off(file, errno);
            }
            ReadOutcome::Read(_) if !self.is_known(file) => self.marks.entry(file).compare.insert(claim),
            ReadOutcome::Read(digested) => self.send_digests(file, read, claim, asked, digested),
        }
        self.out.push(Action::DropRead { read });
        self.requeue(file);
        self.compare_ended(file);
    }

    fn send_digests(&mut self, file: FileId, read: ReadId, claim: Extent, asked: Extent, digested: Extent) {
        let digested = Extent { start: asked.start, end: digested.end.clamp(asked.start, asked.end) };
        if !digested.is_empty() {
            let fill = |header: &mut crate::wire::header::Header| {
                header.file = file;
                header.offset = digested.start;
                header.length = digested.length();
            };
            if let Some(sequence) = self.send_frame(Kind::Digests, fill, Body::Read { read })
                && let Some(session) = &mut self.session
            {
                session.digests.insert(sequence, (file, digested));
                session.bytes_compared += digested.length();
                session.files_compared += u64::from(digested.start == 0);
                self.marks.entry(file).comparing.push((sequence, digested));
            }
        }
        self.pacing.give_back(asked.length() - digested.length());
        self.pacing.on_done(self.now, digested.length());
        let marks = self.marks.entry(file);
        let rest = Extent { start: digested.end, end: claim.end };
        if digested.end < asked.end {
            marks.tail.insert(rest);
            marks.mark_attributes(true);
            // A caller that waits for the comparison waits for the size, too.
            marks.waits.iter_mut().filter(|wait| wait.compare).for_each(|wait| wait.attributes = true);
        } else if !rest.is_empty() {
            marks.compare.insert(rest);
        }
    }

    /// These extents of a file are found to differ: they are to be sent, and who waits for the comparison waits for that.
    pub(super) fn found_different(&mut self, file: FileId, extents: &ExtentSet) {
        if self.is_paced(file) {
            self.record(file, extents);
            return;
        }
        for extent in extents.iter() {
            self.mark_dirty(file, extent);
        }
        let marks = self.marks.entry(file);
        for wait in marks.waits.iter_mut().filter(|wait| wait.compare) {
            wait.wanted.insert_all(extents);
            wait.attributes |= !extents.is_empty();
        }
    }

    /// Whether the comparison of the file has come to its end: who waits for it may go on.
    pub(super) fn compare_ended(&mut self, file: FileId) {
        if self.marks.get(file).is_some_and(FileMarks::has_compare) {
            return;
        }
        if let Some(session) = &mut self.session {
            session.compare_files.remove(&file);
        }
        self.finish_waits(file);
        self.requeue(file);
        self.marks.tidy(file);
    }
}
