//! One look at one part of a file; see the module above for why what comes of it holds.

use alloc::vec::Vec;

use crate::action::{Action, Body, CloseReason};
use crate::dirty::FileMarks;
use crate::event::ReadOutcome;
use crate::extent::{Extent, ExtentSet};
use crate::ids::{Errno, FileId, ReadId, Sequence};
use crate::verify::{Difference, Looked, Verdict, VerifyPart};
use crate::wire::header::Kind;

use super::super::Primary;
use super::{LOOK_BYTES, Look, PAUSE, Part, Stage, TRIES_MAX};

impl Primary {
    pub(super) fn look(&mut self, mut part: Part) {
        let file = part.file;
        if !self.is_known(file) {
            return;
        }
        let is_first = part.part == VerifyPart::State && !core::mem::replace(&mut part.counted, true);
        if is_first {
            if self.is_directory(file) {
                self.with_verify(|verify| verify.directories.push_back(file));
            }
            self.with_verify(|verify| verify.progress.files_examined += 1);
        }
        let (touched, void) = match self.unsettled_of(file, part.part) {
            Some(touched) => (touched, false),
            // It tells the size all the same.
            None if is_first => (ExtentSet::new(), true),
            None => return self.look_later(part),
        };
        self.numbers.read = self.numbers.read.next();
        let read = self.numbers.read;
        let (fine, names_mark) = (part.doubted, self.names.last_mark());
        self.out.push(Action::ReadVerify { read, file, part: part.part, fine });
        let look = Look { part, stage: Stage::Reading(read), touched, void, names_mark };
        let (now, bytes) = (self.now, bytes_of(look.part.part));
        self.with_verify(|verify| {
            verify.charge(now, bytes);
            verify.looks.push(look);
        });
    }

    /// What of a part is marked and not on its way. `None`: all of it, it is not to be looked at now.
    fn unsettled_of(&self, file: FileId, part: VerifyPart) -> Option<ExtentSet> {
        let mut touched = ExtentSet::new();
        let marks = self.marks.get(file);
        match part {
            VerifyPart::State => marks.is_none_or(FileMarks::is_queued).then_some(touched),
            VerifyPart::Names => self.has_told_names(file).then_some(touched),
            VerifyPart::Contents(piece) => {
                let Some(marks) = marks else { return Some(touched) };
                if marks.lost || marks.syncing.iter().any(|syncing| syncing.lost) {
                    return None;
                }
                let stored = marks.syncing.iter().map(|syncing| &syncing.stored);
                for set in [&marks.dirty, &marks.recorded, &marks.tail, &marks.mapped, &marks.compare]
                    .into_iter()
                    .chain(stored)
                {
                    touched.insert_all(&set.intersection(piece));
                }
                let comparing = marks.comparing.iter().map(|(_, extent)| *extent);
                for extent in marks.claimed().chain(comparing) {
                    let common = extent.intersection(piece);
                    if !common.is_empty() {
                        touched.insert(common);
                    }
                }
                (!touched.contains(piece)).then_some(touched)
            }
        }
    }

    /// Whether the peer was told all names in the directory, by the list and the operations that were sent.
    fn has_told_names(&self, directory: FileId) -> bool {
        self.names.scanned.contains(&directory) && !self.names.is_marked(directory)
    }

    /// The part changes: look at it again later, or pass it over.
    fn look_later(&mut self, mut part: Part) {
        part.tries += 1;
        if part.tries > TRIES_MAX {
            return self.with_verify(|verify| verify.progress.unsettled += 1);
        }
        let due = self.now.after(PAUSE * (1 << (part.tries - 1)));
        self.with_verify(|verify| verify.later.push((due, part)));
    }

    pub(in crate::primary) fn on_verify_read(&mut self, read: ReadId, outcome: ReadOutcome<Looked>) {
        let look = self.take_look(|stage| matches!(stage, Stage::Reading(reading) if *reading == read));
        if let Some(look) = look {
            self.looked_here(look, read, outcome);
        }
        self.out.push(Action::DropRead { read });
    }

    fn looked_here(&mut self, mut look: Look, read: ReadId, outcome: ReadOutcome<Looked>) {
        let file = look.part.file;
        let looked = match outcome {
            // Gone, or about to be told so.
            ReadOutcome::Gone => return,
            _ if !self.is_known(file) => return,
            ReadOutcome::Failed(errno) => return self.unreadable_here(look.part, errno),
            ReadOutcome::Read(looked) => looked,
        };
        let ordered = bytes_of(look.part.part);
        self.with_verify(|verify| verify.refund(ordered.saturating_sub(looked.bytes.max(LOOK_BYTES))));
        if look.part.part == VerifyPart::State
            && looked.end > 0
            && !core::mem::replace(&mut look.part.sized, true)
        {
            self.with_verify(|verify| verify.contents.push_back((file, 0, looked.end)));
        }
        if look.void || (look.part.part == VerifyPart::Names && !self.has_told_names(file)) {
            return self.look_later(look.part);
        }
        let extent = match &mut look.part.part {
            VerifyPart::Contents(piece) => {
                piece.end = looked.end.clamp(piece.start, piece.end);
                if piece.is_empty() {
                    return;
                }
                *piece
            }
            VerifyPart::State | VerifyPart::Names => Extent::default(),
        };
        let flags = part_number(look.part.part);
        let fill = |header: &mut crate::wire::header::Header| {
            header.file = file;
            header.flags = flags;
            header.offset = extent.start;
            header.length = extent.length();
        };
        let Some(sequence) = self.send_frame(Kind::Verify, fill, Body::Read { read }) else { return };
        if let Some(session) = &mut self.session {
            session.verifying.insert(sequence);
        }
        look.stage = Stage::Sent(sequence);
        self.with_verify(|verify| verify.looks.push(look));
    }

    pub(in crate::primary) fn on_verify_reply(
        &mut self,
        about: Sequence,
        verdict: Verdict,
    ) -> Result<(), CloseReason> {
        if !self.session.as_mut().is_some_and(|session| session.verifying.remove(&about)) {
            return Err(CloseReason::Protocol("an answer to what was not asked"));
        }
        let look = self.take_look(|stage| matches!(stage, Stage::Sent(sent) if *sent == about));
        let Some(mut look) = look else { return Ok(()) };
        if let Verdict::Extents(extents) = &verdict {
            let within = |piece: Extent| extents.iter().all(|extent| piece.contains(*extent));
            if !matches!(look.part.part, VerifyPart::Contents(piece) if within(piece)) {
                return Err(CloseReason::Protocol("a difference outside of what was asked"));
            }
        }
        if let VerifyPart::Contents(piece) = look.part.part
            && !core::mem::replace(&mut look.part.counted, true)
        {
            self.with_verify(|verify| verify.progress.bytes_examined += piece.length());
        }
        match verdict {
            Verdict::Same | Verdict::Absent => {}
            Verdict::Extents(extents) if extents.is_empty() => {}
            verdict if self.counts(&look, &verdict).is_none() => self.look_later(look.part),
            verdict => {
                self.numbers.read = self.numbers.read.next();
                let read = self.numbers.read;
                self.out.push(Action::AwaitCapture { read, file: look.part.file });
                look.stage = Stage::Awaiting(read, verdict);
                self.with_verify(|verify| verify.looks.push(look));
            }
        }
        Ok(())
    }

    /// What of a verdict counts, as far as is known now.
    fn counts(&self, look: &Look, verdict: &Verdict) -> Option<Verdict> {
        // While directories are to be listed, a number may belong to another file than was told.
        let settled = self.names.is_complete() && self.names.last_mark() == look.names_mark;
        if settled { look.counts(verdict, self.config.verify_block_bytes) } else { None }
    }

    pub(in crate::primary) fn on_capture_awaited(&mut self, read: ReadId) {
        let look = self.take_look(|stage| matches!(stage, Stage::Awaiting(awaited, _) if *awaited == read));
        let Some(look) = look else { return };
        let Stage::Awaiting(_, verdict) = &look.stage else { return };
        let Some(counted) = self.counts(&look, verdict) else { return self.look_later(look.part) };
        if !self.is_known(look.part.file) {
            return;
        }
        let mut part = look.part;
        if core::mem::replace(&mut part.doubted, true) {
            return self.differs(part, counted);
        }
        if let (VerifyPart::Contents(piece), Verdict::Extents(extents)) = (&mut part.part, &counted) {
            let end = |all: Extent, one: &Extent| Extent {
                start: all.start.min(one.start),
                end: all.end.max(one.end),
            };
            *piece = extents.iter().fold(extents.first().copied().unwrap_or(*piece), end);
        }
        let due = self.now.after(PAUSE);
        self.with_verify(|verify| verify.later.push((due, part)));
    }

    fn unreadable_here(&mut self, part: Part, errno: Errno) {
        if part.tries < TRIES_MAX {
            return self.look_later(part);
        }
        let difference = Difference::UnreadableHere(part.part, errno);
        self.with_verify(|verify| verify.progress.differences += 1);
        self.out.push(Action::ReportDifference { file: part.file, difference });
    }

    /// Both copies differ in this.
    fn differs(&mut self, part: Part, verdict: Verdict) {
        let Part { file, part, sized, .. } = part;
        let whole = match part {
            VerifyPart::Contents(piece) => Vec::from([piece]),
            VerifyPart::State | VerifyPart::Names => Vec::new(),
        };
        let (difference, extents) = match verdict {
            Verdict::Extents(extents) => (Difference::Contents(extents.clone()), extents),
            Verdict::Details(details) => (Difference::Details(part, details), whole),
            Verdict::Unreadable(errno) => (Difference::UnreadableThere(part, errno), whole),
            Verdict::Same | Verdict::Absent => return,
        };
        let Some(verify) = &mut self.verify else { return };
        let repair = verify.request.repair;
        verify.progress.differences += 1;
        verify.progress.repaired += u64::from(repair);
        self.out.push(Action::ReportDifference { file, difference });
        if repair {
            match part {
                VerifyPart::State => {
                    self.on_attributes_changed(file);
                    // Bytes that the copy lacks because it is shorter are told by nothing else.
                    if sized {
                        self.mark_compare(file, false);
                    }
                }
                VerifyPart::Names => self.mark_directory(file, false),
                VerifyPart::Contents(_) => {
                    extents.into_iter().for_each(|extent| self.mark_dirty(file, extent))
                }
            }
        }
    }
}

/// The part's number on the wire.
fn part_number(part: VerifyPart) -> u16 {
    match part {
        VerifyPart::State => 1,
        VerifyPart::Names => 2,
        VerifyPart::Contents(_) => 3,
    }
}

/// What a look counts against the limit on bytes.
fn bytes_of(part: VerifyPart) -> u64 {
    match part {
        VerifyPart::State | VerifyPart::Names => LOOK_BYTES,
        VerifyPart::Contents(piece) => piece.length().max(LOOK_BYTES),
    }
}
