//! Emptying the dirty set: read the current state of a file, send it, remember what was sent until it is confirmed.
//!
//! For one file, a read of attributes never overlaps in time with a read of data or digests. The size among the attributes
//! cuts the peer's file, so the frames must come in the order in which the states were read.

use alloc::vec::Vec;

use crate::action::{Action, Body, Notice};
use crate::dirty::{FileMarks, Read, ReadKind, Sent, Wait, pick};
use crate::event::{ReadOutcome, Segment, SegmentContent};
use crate::extent::Extent;
use crate::ids::{Errno, FileId, ReadId, Sequence};
use crate::wire::header::{Kind, PAYLOAD_MAX};

use super::verify::Touch;
use super::{Primary, RETRY};

/// Most reads under way for bulk data; twice as many with those for waiting callers.
pub(super) const READS_MAX: usize = 256;
/// Most reads that run ahead of the one that may find the end of the file.
const AHEAD_MAX: u8 = 8;

/// The next thing to do for a file.
pub(super) enum Work {
    Data {
        claim: Extent,
        asked: Extent,
    },
    Attributes,
    /// Nothing, or nothing before an outstanding read has ended.
    Idle,
}

/// What a step of a queue led to.
#[derive(PartialEq, Eq)]
pub(super) enum Step {
    /// The file may have more to do.
    Again,
    /// Nothing for this file now.
    Idle,
    /// Too much is under way.
    Full,
}

impl Primary {
    /// Issue reads: first for files with waiting callers, then for what has settled.
    pub(super) fn drain(&mut self) {
        if self.session.is_none() || !self.unprotected.is_empty() {
            return;
        }
        self.expire_queues();
        while let Some(file) = self.queues.urgent.pop_front() {
            match self.step(file, true) {
                Step::Again => self.queues.urgent.push_back(file),
                Step::Idle => self.clear_flag(file, |marks| &mut marks.urgent),
                Step::Full => {
                    self.queues.urgent.push_front(file);
                    break;
                }
            }
        }
        while let Some(file) = self.queues.ready.pop_front() {
            match self.step(file, false) {
                Step::Again => self.queues.ready.push_back(file),
                Step::Idle => self.clear_flag(file, |marks| &mut marks.queued),
                Step::Full => {
                    self.queues.ready.push_front(file);
                    break;
                }
            }
        }
        self.drain_recorded();
        self.drain_compare();
    }

    pub(super) fn clear_flag(&mut self, file: FileId, flag: impl FnOnce(&mut FileMarks) -> &mut bool) {
        if let Some(marks) = self.marks.get_mut(file) {
            *flag(marks) = false;
        }
    }

    fn expire_queues(&mut self) {
        while let Some(&(due, file)) = self.queues.settling.front() {
            if due > self.now {
                break;
            }
            self.queues.settling.pop_front();
            self.queues.ready.push_back(file);
        }
        while let Some(&(due, file)) = self.queues.delayed.first() {
            if due > self.now {
                break;
            }
            self.queues.delayed.pop_first();
            if let Some(marks) = self.marks.get_mut(file) {
                marks.backoff = None;
            }
            self.requeue(file);
        }
    }

    /// Put a file whose reads ended, or whose waiters changed, where its remaining work belongs.
    pub(super) fn requeue(&mut self, file: FileId) {
        if self.session.is_none() {
            return;
        }
        self.recorded_read(file);
        let Some(marks) = self.marks.get_mut(file) else { return };
        if marks.backoff.is_some() {
            return;
        }
        if !marks.urgent && marks.waits.iter().any(|wait| wait.urgent) {
            marks.urgent = true;
            self.queues.urgent.push_back(file);
        }
        if !marks.paced && !marks.recorded.is_empty() {
            marks.paced = true;
            if marks.streak > 0 {
                // One file after the other: disks like that.
                self.queues.recorded.push_front(file);
            } else {
                self.queues.recorded.push_back(file);
            }
        }
        if !marks.queued {
            if !marks.dirty.is_empty() || !marks.waits.is_empty() {
                marks.queued = true;
                self.queues.ready.push_back(file);
            } else if marks.attributes || !marks.tail.is_empty() {
                self.settle(file);
            }
        }
        self.queue_compare(file);
    }

    fn step(&mut self, file: FileId, urgent: bool) -> Step {
        let known = self.is_known(file);
        let Some(session) = &self.session else { return Step::Idle };
        let Some(marks) = self.marks.get_mut(file) else { return Step::Idle };
        if !known {
            self.queues.nameless.note(file);
            return Step::Idle;
        }
        if marks.backoff.is_some() {
            return Step::Idle;
        }
        let work = next_work(marks, urgent, false, self.config.read_bytes_max.min(u64::from(PAYLOAD_MAX)));
        if matches!(work, Work::Idle) {
            return Step::Idle;
        }
        let share = if urgent { 2 } else { 1 };
        let under_way = self.reading_bytes + session.unapplied_bytes;
        if under_way >= self.config.window_bytes * share || self.reads.len() >= READS_MAX * share as usize {
            return Step::Full;
        }
        match work {
            Work::Data { claim, asked } => self.read_extent(file, claim, asked, false),
            Work::Attributes => self.read_attributes(file),
            Work::Idle => {}
        }
        Step::Again
    }

    pub(super) fn new_read(&mut self, file: FileId) -> ReadId {
        self.numbers.read = self.numbers.read.next();
        self.reads.insert(self.numbers.read, Some(file));
        self.numbers.read
    }

    pub(super) fn read_extent(&mut self, file: FileId, claim: Extent, asked: Extent, paced: bool) {
        let read = self.new_read(file);
        self.reading_bytes += asked.length();
        let marks = self.marks.entry(file);
        marks.dirty.subtract(claim);
        marks.recorded.subtract(claim);
        for wait in &mut marks.waits {
            if wait.wanted.overlaps(claim) {
                wait.wanted.subtract(claim);
                wait.reads.push(read);
            }
        }
        if !claim.is_open() {
            marks.ahead = marks.ahead.saturating_sub(1);
        }
        marks.reads.push(Read { id: read, kind: ReadKind::Data { claim, asked, paced } });
        self.out.push(Action::ReadExtent { read, file, extent: asked });
        self.recorded_read(file);
    }

    fn read_attributes(&mut self, file: FileId) {
        let read = self.new_read(file);
        let marks = self.marks.entry(file);
        let explicit = core::mem::take(&mut marks.explicit);
        marks.attributes = false;
        let has_compare = marks.has_compare();
        for wait in &mut marks.waits {
            let data_done = wait.wanted.is_empty() && wait.reads.is_empty() && wait.mapped.is_empty();
            if wait.attributes && data_done && !(wait.compare && has_compare) {
                wait.attributes = false;
                wait.had_attributes = true;
                wait.reads.push(read);
            }
        }
        marks.reads.push(Read { id: read, kind: ReadKind::Attributes { explicit } });
        self.out.push(Action::ReadAttributes { read, file });
    }

    /// The answer to a read has come: whose it is. `None`: its session is gone, or it was made void; the bytes are dropped.
    pub(super) fn end_read(&mut self, read: ReadId) -> Option<(FileId, ReadKind)> {
        let found = self.reads.remove(&read).flatten().and_then(|file| {
            let marks = self.marks.get_mut(file)?;
            let at = marks.reads.iter().position(|outstanding| outstanding.id == read)?;
            Some((file, marks.reads.remove(at).kind))
        });
        match found {
            Some((_, ReadKind::Data { asked, .. })) => self.reading_bytes -= asked.length(),
            Some((_, ReadKind::Digests { .. })) => self.digests_reading -= 1,
            Some((_, ReadKind::Attributes { .. })) => {}
            None => self.out.push(Action::DropRead { read }),
        }
        found
    }

    /// The outstanding reads of a file may be of a former file with its number: what they bring is dropped, and what they were
    /// to read is marked again.
    pub(super) fn void_reads(&mut self, file: FileId) {
        let Some(marks) = self.marks.get_mut(file) else { return };
        for read in core::mem::take(&mut marks.reads) {
            self.reads.insert(read.id, None);
            let mut waiting: Vec<&mut Wait> =
                marks.waits.iter_mut().filter(|wait| wait.reads.contains(&read.id)).collect();
            waiting.iter_mut().for_each(|wait| wait.reads.retain(|waited| *waited != read.id));
            match read.kind {
                ReadKind::Data { claim, asked, .. } => {
                    marks.dirty.insert(claim);
                    waiting.iter_mut().for_each(|wait| wait.wanted.insert(claim));
                    self.reading_bytes -= asked.length();
                }
                ReadKind::Attributes { explicit } => {
                    waiting.iter_mut().for_each(|wait| wait.attributes = true);
                    marks.mark_attributes(explicit);
                }
                ReadKind::Digests { claim, .. } => {
                    marks.compare.insert(claim);
                    self.digests_reading -= 1;
                }
            }
        }
    }

    pub(super) fn on_extent_read(&mut self, read: ReadId, outcome: ReadOutcome<Vec<Segment>>) {
        let Some((file, kind)) = self.end_read(read) else { return };
        let ReadKind::Data { claim, asked, paced } = kind else { return };
        match outcome {
            ReadOutcome::Gone => self.on_gone(file),
            ReadOutcome::Failed(errno) => {
                self.mark_dirty(file, claim);
                for wait in self.marks.entry(file).waits.iter_mut().filter(|wait| wait.reads.contains(&read))
                {
                    wait.reads.retain(|waited| *waited != read);
                    wait.wanted.insert(claim);
                }
                self.back_off(file, errno);
            }
            ReadOutcome::Read(_) if !self.is_known(file) => self.mark_dirty(file, claim),
            ReadOutcome::Read(segments) => self.send_segments(file, read, (claim, asked, paced), &segments),
        }
        self.out.push(Action::DropRead { read });
        self.finish_waits(file);
        self.requeue(file);
    }

    fn send_segments(
        &mut self,
        file: FileId,
        read: ReadId,
        (claim, asked, paced): (Extent, Extent, bool),
        segments: &[Segment],
    ) {
        let mut end = asked.start;
        for segment in segments {
            // What is not told without a gap counts as not read: it stays marked.
            if segment.extent.start != end || segment.extent.is_empty() || segment.extent.end > asked.end {
                break;
            }
            end = segment.extent.end;
            let (kind, body) = match segment.content {
                SegmentContent::Data => (Kind::Data, Body::ReadData { read, extent: segment.extent }),
                SegmentContent::Hole => (Kind::Hole, Body::Empty),
            };
            self.send_about(kind, file, segment.extent, body, Sent::Extent(segment.extent));
            if segment.content == SegmentContent::Data {
                self.counters.data_frames += 1;
                self.counters.data_bytes += segment.extent.length();
                if let Some(session) = &mut self.session {
                    session.bytes_sent += segment.extent.length();
                }
            }
        }
        let mut recorded = false;
        let marks = self.marks.entry(file);
        // Writing them changes the times of the peer's file.
        marks.mark_attributes(false);
        let short = end < asked.end;
        if paced {
            self.pacing.give_back(asked.end - end);
            self.pacing.on_done(self.now, end - asked.start);
        }
        let rest = Extent { start: end, end: claim.end };
        if short {
            marks.tail.insert(rest);
            marks.explicit = true;
            (marks.ahead, marks.streak) = (0, 0);
        } else if !rest.is_empty() {
            if paced && marks.waits.is_empty() {
                marks.recorded.insert(rest);
                recorded = true;
            } else {
                marks.dirty.insert(rest);
            }
            marks.streak = (marks.streak * 2).clamp(1, AHEAD_MAX);
            marks.ahead = marks.streak;
        }
        for wait in marks.waits.iter_mut().filter(|wait| wait.reads.contains(&read)) {
            wait.reads.retain(|waited| *waited != read);
            wait.attributes |= short;
            if !short {
                wait.wanted.insert(rest);
            }
        }
        if recorded {
            self.note_recorded(file);
        }
    }

    /// Send a frame about an extent of a file and remember it until it is confirmed.
    fn send_about(
        &mut self,
        kind: Kind,
        file: FileId,
        extent: Extent,
        body: Body,
        sent: Sent,
    ) -> Option<Sequence> {
        let fill = |header: &mut crate::wire::header::Header| {
            header.file = file;
            header.offset = extent.start;
            header.length = extent.length();
        };
        let sequence = self.send_frame(kind, fill, body)?;
        self.in_flight_bytes += sent_bytes(&sent);
        self.in_flight_frames += 1;
        self.marks.entry(file).in_flight.push_back((sequence, sent));
        self.unconfirmed.insert(file);
        self.confirm_later();
        Some(sequence)
    }

    pub(super) fn on_attributes_read(&mut self, read: ReadId, outcome: ReadOutcome<u64>) {
        let Some((file, kind)) = self.end_read(read) else { return };
        let ReadKind::Attributes { explicit } = kind else { return };
        let known = self.is_known(file);
        match outcome {
            ReadOutcome::Gone => self.on_gone(file),
            ReadOutcome::Failed(errno) => {
                let marks = self.marks.entry(file);
                marks.mark_attributes(explicit);
                for wait in marks.waits.iter_mut().filter(|wait| wait.reads.contains(&read)) {
                    wait.reads.retain(|waited| *waited != read);
                    wait.attributes = true;
                }
                self.back_off(file, errno);
            }
            ReadOutcome::Read(_) if !known => self.marks.entry(file).mark_attributes(explicit),
            ReadOutcome::Read(size) => {
                // What lay beyond the end when it was read, and is before it now, has to be read again: the file may have
                // grown past it without a write to it.
                let marks = self.marks.entry(file);
                let tail = marks.tail.split_off(size);
                let grown = marks.tail.take();
                marks.dirty.insert_all(&grown);
                for wait in &mut marks.waits {
                    let waited = wait.reads.contains(&read);
                    // Who waits for later attributes relied on these to settle the tail, too.
                    if !waited && !wait.attributes {
                        continue;
                    }
                    wait.reads.retain(|waited| *waited != read);
                    wait.had_attributes |= waited;
                    wait.wanted.insert_all(&grown);
                    wait.attributes |= !grown.is_empty();
                }
                let sent = Sent::Attributes { explicit, tail };
                self.send_about(Kind::Attributes, file, Extent::default(), Body::Read { read }, sent);
            }
        }
        self.out.push(Action::DropRead { read });
        self.finish_waits(file);
        self.requeue(file);
    }

    /// A read of the file failed: its marks stay, it is tried again later, and callers that wait for it are told.
    pub(super) fn back_off(&mut self, file: FileId, errno: Errno) {
        self.counters.reads_failed += 1;
        self.report(Notice::ReadFailed { file, errno });
        let due = self.now.after(RETRY);
        self.marks.entry(file).backoff = Some(due);
        self.queues.delayed.insert((due, file));
        self.fail_waits(file, errno);
    }

    pub(super) fn on_gone(&mut self, file: FileId) {
        self.forget(file);
        self.depart(file);
    }

    /// The file is gone: its marks are worth nothing.
    pub(super) fn forget(&mut self, file: FileId) {
        self.touch(file, Touch::All);
        self.void_reads(file);
        self.drop_waits(file);
        self.unconfirmed.remove(&file);
        if let Some(session) = &mut self.session {
            session.compare_files.remove(&file);
            session.recorded_files.remove(&file);
        }
        if let Some(marks) = self.marks.remove(file) {
            if marks.stored {
                self.bury(file);
            }
            self.in_flight_frames -= marks.in_flight.len() as u64;
            self.in_flight_bytes -= marks.in_flight.iter().map(|(_, sent)| sent_bytes(sent)).sum::<u64>();
        }
    }

    /// Frames of the file up to `upto` are durable at the peer; with `data_only` not its attributes.
    pub(super) fn confirm(&mut self, file: FileId, upto: Sequence, data_only: bool) {
        let Some(marks) = self.marks.get_mut(file) else { return };
        let (mut bytes, mut frames) = (0, 0);
        marks.in_flight.retain(|(sequence, sent)| {
            let stays = *sequence > upto || (data_only && matches!(sent, Sent::Attributes { .. }));
            if !stays {
                bytes += sent_bytes(sent);
                frames += 1;
            }
            stays
        });
        self.in_flight_bytes -= bytes;
        self.in_flight_frames -= frames;
        if marks.in_flight.is_empty() {
            self.unconfirmed.remove(&file);
            self.marks.tidy(file);
        }
    }
}

/// What a frame under way counts.
fn sent_bytes(sent: &Sent) -> u64 {
    match sent {
        Sent::Extent(extent) => extent.length(),
        Sent::Attributes { .. } => 0,
    }
}

/// `paced`: what is recorded may be read, too.
pub(super) fn next_work(marks: &FileMarks, urgent: bool, paced: bool, bytes_max: u64) -> Work {
    if marks.reads_attributes() {
        return Work::Idle;
    }
    if marks.attributes_due() {
        return if marks.reads.is_empty() { Work::Attributes } else { Work::Idle };
    }
    let busy: Vec<Extent> = marks.busy().collect();
    let ahead = marks.ahead > 0;
    let wanted = marks.waits.iter().find_map(|wait| pick(&wait.wanted, &busy, bytes_max, ahead));
    if let Some((claim, asked)) = wanted {
        return Work::Data { claim, asked };
    }
    if urgent {
        return Work::Idle;
    }
    if let Some((claim, asked)) = pick(&marks.dirty, &busy, bytes_max, ahead) {
        return Work::Data { claim, asked };
    }
    if paced && let Some((claim, asked)) = pick(&marks.recorded, &busy, bytes_max, ahead) {
        return Work::Data { claim, asked };
    }
    let idle =
        marks.reads.is_empty() && marks.dirty.is_empty() && marks.recorded.is_empty() && !marks.has_compare();
    if idle && (marks.attributes || !marks.tail.is_empty()) {
        return Work::Attributes;
    }
    Work::Idle
}
