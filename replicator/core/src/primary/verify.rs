//! Verification: both copies are compared while the mirror goes on, and what differs is told, and marked if that is wanted.
//!
//! It walks over the files that the peer knows, in the order of their numbers, part by part: state, names, pieces of contents. A
//! *look* at a part goes this way:
//!
//! ```text
//!  wanted --not settled--> later                                         (marked: it is sent anyway)
//!    |                       ^
//!    +--> Reading --read--> Sent --the peer has the same--> done
//!                            |  changed meanwhile --> later
//!                            +--differs--> Awaiting --all captured changes told--> differs
//!                                                     |  changed meanwhile --> later
//!                                                     +--for the first time --> a finer look, a while later
//!                                                     +--again --> told
//! ```
//!
//! Why a difference that is told is one:
//!
//! * The frame has its place in the stream; the peer looks when all before it is applied and nothing behind it. So what it has are
//!   the states that were sent until then.
//! * A look begins only where all there is to say of the part is on its way (or the blocks with those bytes do not count), and does not count if
//!   anything of it is marked before its end. At its end all is told that was captured, also of what happened before its
//!   beginning: so the part is as it was when it was sent last.
//! * Names are read under the namespace lock and sent in the order of the operations: they are those of this place in the stream.
//!   Operations need not rest for that. It does not hold where directories are to be listed, then the look does not count.
//! * A file may grow without a write to all of it, which only its attributes tell. So of contents the peer compares what its file has;
//!   where it ends is state.
//! * What is told late all the same (others may change files behind the gate) is told until the second look.
//!
//! A part that changes each time is passed over in the end and counted. That loses nothing: what changes is sent, so what the
//! peer had there is overwritten.

mod look;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use crate::extent::{Extent, ExtentSet};
use crate::ids::{FileId, ReadId, Sequence, Time};
use crate::verify::{Verdict, VerifyPart, VerifyProgress, VerifyRequest, VerifyState};
use crate::wire::header::VERSION_VERIFIES;

use super::Primary;
use super::asked::Flush;
use super::resync::Resync;

/// Bytes of contents in one look.
const PIECE_BYTES: u64 = 512 << 10;
/// Most looks whose part is being read here.
const READING_MAX: usize = 4;
/// Most looks under way. Namespace operations wait at the peer until those sent before them are answered.
const LOOKS_MAX: usize = 8;
/// The walk rests while so many parts wait to be looked at again.
const LATER_MAX: usize = 1024;
/// A part that changed this often is passed over.
const TRIES_MAX: u8 = 5;
/// Pause before a part is looked at again; doubles with each try.
const PAUSE: Duration = Duration::from_millis(200);
/// What a look counts against the limit on bytes, at least.
const LOOK_BYTES: u64 = 4096;

/// What happened to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Touch {
    /// These bytes may have changed, and its times.
    Bytes(Extent),
    /// Its times may have changed.
    Times,
    /// Anything may have changed, also which file it is.
    All,
}

/// A part to be looked at.
#[derive(Clone, Debug)]
struct Part {
    file: FileId,
    part: VerifyPart,
    tries: u8,
    /// A look found it different.
    doubted: bool,
    /// It is counted as examined.
    counted: bool,
    /// Of the state of a regular file: its contents are to be looked at.
    sized: bool,
}

impl Part {
    fn new(file: FileId, part: VerifyPart) -> Part {
        Part { file, part, tries: 0, doubted: false, counted: false, sized: false }
    }
}

/// A look that is under way.
#[derive(Debug)]
struct Look {
    part: Part,
    stage: Stage,
    /// Of contents: bytes that were marked before its end.
    touched: ExtentSet,
    /// All of it was.
    void: bool,
    /// Number of the last mark of a directory when it began.
    names_mark: u64,
}

#[derive(Debug)]
enum Stage {
    Reading(ReadId),
    Sent(Sequence),
    Awaiting(ReadId, Verdict),
}

impl Look {
    /// What of a verdict counts: `None`, nothing. Digests are of blocks of so many bytes, at least: if any byte of one does not
    /// count, nothing of it does.
    fn counts(&self, verdict: &Verdict, block: u64) -> Option<Verdict> {
        if self.void {
            return None;
        }
        match (self.part.part, verdict) {
            (VerifyPart::Contents(_), Verdict::Extents(extents)) => {
                let mut left: ExtentSet = extents.iter().copied().collect();
                for touched in self.touched.iter() {
                    let end = touched.end.checked_next_multiple_of(block).unwrap_or(Extent::END);
                    left.subtract(Extent { start: touched.start - touched.start % block, end });
                }
                (!left.is_empty()).then(|| Verdict::Extents(left.iter().collect()))
            }
            // Of what cannot be read it is not known which bytes.
            (VerifyPart::Contents(_), _) if !self.touched.is_empty() => None,
            _ => Some(verdict.clone()),
        }
    }
}

/// A verification.
#[derive(Debug)]
pub(super) struct Verify {
    request: VerifyRequest,
    pub progress: VerifyProgress,
    /// The last file the walk has passed; `None` before the first.
    cursor: Option<FileId>,
    walked: bool,
    /// Files whose contents are to be looked at: from which byte on, and their size.
    contents: VecDeque<(FileId, u64, u64)>,
    /// Directories whose names are.
    directories: VecDeque<FileId>,
    looks: Vec<Look>,
    /// Not before that time; in no order.
    later: Vec<(Time, Part)>,
    /// The limit on bytes allows no look before.
    allowed_at: Time,
    healing: Option<Flush>,
}

impl Verify {
    fn is_under_way(&self) -> bool {
        matches!(self.progress.state, VerifyState::Running | VerifyState::Healing)
    }

    fn is_running(&self) -> bool {
        self.progress.state == VerifyState::Running
    }

    fn take_look(&mut self, is_it: impl Fn(&Stage) -> bool) -> Option<Look> {
        let at = self.looks.iter().position(|look| is_it(&look.stage))?;
        Some(self.looks.swap_remove(at))
    }

    /// How long so many bytes take by the limit.
    fn span(&self, bytes: u64) -> Duration {
        let Some(limit) = self.request.bytes_per_second else { return Duration::ZERO };
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(limit.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// So many bytes are going to be read.
    fn charge(&mut self, now: Time, bytes: u64) {
        self.allowed_at = self.allowed_at.max(now).after(self.span(bytes));
    }

    /// So many of them were not read: they are holes.
    fn refund(&mut self, bytes: u64) {
        let span = u64::try_from(self.span(bytes).as_nanos()).unwrap_or(u64::MAX);
        self.allowed_at = Time(self.allowed_at.0.saturating_sub(span));
    }

    fn touch(&mut self, file: FileId, touch: Touch) {
        for look in self.looks.iter_mut().filter(|look| look.part.file == file) {
            match (look.part.part, touch) {
                (_, Touch::All) | (VerifyPart::State, _) => look.void = true,
                (VerifyPart::Contents(part), Touch::Bytes(extent)) => {
                    let common = part.intersection(extent);
                    if !common.is_empty() {
                        look.touched.insert(common);
                    }
                }
                (VerifyPart::Contents(_), Touch::Times) | (VerifyPart::Names, _) => {}
            }
        }
    }

    /// The next part that may be looked at: what was looked at before, then what is known of, then what the walk brings.
    fn next(&mut self, now: Time, walk: impl FnOnce(Option<FileId>) -> Option<FileId>) -> Option<Part> {
        if let Some(at) = self.later.iter().position(|(due, _)| *due <= now) {
            return Some(self.later.swap_remove(at).1);
        }
        if let Some(directory) = self.directories.pop_front() {
            return Some(Part::new(directory, VerifyPart::Names));
        }
        if let Some((file, start, size)) = self.contents.pop_front() {
            let end = size.min(start.saturating_add(PIECE_BYTES));
            if end < size {
                self.contents.push_front((file, end, size));
            }
            return Some(Part::new(file, VerifyPart::Contents(Extent { start, end })));
        }
        if self.walked || self.later.len() >= LATER_MAX {
            return None;
        }
        match walk(self.cursor) {
            Some(file) => {
                self.cursor = Some(file);
                Some(Part::new(file, VerifyPart::State))
            }
            None => {
                self.walked = true;
                None
            }
        }
    }

    fn is_through(&self) -> bool {
        self.walked
            && self.looks.is_empty()
            && self.later.is_empty()
            && self.contents.is_empty()
            && self.directories.is_empty()
    }

    /// Nothing of it goes on.
    fn end(&mut self, state: VerifyState) {
        self.progress.state = state;
        self.looks = Vec::new();
        self.later = Vec::new();
        self.contents = VecDeque::new();
        self.directories = VecDeque::new();
        self.healing = None;
    }
}

impl Primary {
    // ---- begin and end -----------------------------------------------------------------------------------

    pub(super) fn on_verify_requested(&mut self, request: VerifyRequest) {
        if self.verify.as_ref().is_some_and(|verify| verify.is_under_way()) {
            return;
        }
        let mirrored = self.session.as_ref().is_some_and(|session| session.resync == Resync::Done);
        let able = mirrored && self.version >= VERSION_VERIFIES;
        let progress = VerifyProgress {
            number: request.number,
            state: if able { VerifyState::Running } else { VerifyState::Refused },
            files: self.names.known.len() as u64,
            files_examined: 0,
            bytes_examined: 0,
            differences: 0,
            unsettled: 0,
            repaired: 0,
        };
        self.verify = Some(Box::new(Verify {
            request,
            progress,
            cursor: None,
            walked: false,
            contents: VecDeque::new(),
            directories: VecDeque::new(),
            looks: Vec::new(),
            later: Vec::new(),
            allowed_at: self.now,
            healing: None,
        }));
    }

    pub(super) fn stop_verify(&mut self, state: VerifyState) {
        let Some(verify) = self.verify.as_mut().filter(|verify| verify.is_under_way()) else { return };
        let healing = verify.healing;
        verify.end(state);
        if let Some(flush) = healing {
            self.end_flush(flush);
        }
    }

    /// Something happened to a file that is perhaps being looked at.
    pub(super) fn touch(&mut self, file: FileId, touch: Touch) {
        if let Some(verify) = &mut self.verify
            && !verify.looks.is_empty()
        {
            verify.touch(file, touch);
        }
    }

    pub(super) fn verify_deadline(&self) -> Option<Time> {
        let verify = self.verify.as_ref().filter(|verify| verify.is_running())?;
        let later = verify.later.iter().map(|(due, _)| *due).min();
        // Without a limit the events of what is under way lead on.
        later.into_iter().chain((verify.allowed_at > self.now).then_some(verify.allowed_at)).min()
    }

    pub(super) fn advance_verify(&mut self) {
        if self.verify.as_ref().is_none_or(|verify| !verify.is_under_way()) {
            return;
        }
        while self.may_look() {
            let (now, known) = (self.now, &self.names.known);
            let walk = |cursor: Option<FileId>| known.first_behind(cursor);
            let Some(part) = self.verify.as_mut().and_then(|verify| verify.next(now, walk)) else { break };
            self.look(part);
        }
        self.heal();
    }

    /// Whether another part may be looked at: never before what is live.
    fn may_look(&self) -> bool {
        let (Some(verify), Some(session)) = (&self.verify, &self.session) else { return false };
        let reading = verify.looks.iter().filter(|look| matches!(look.stage, Stage::Reading(_))).count();
        let under_way = self.reading_bytes + session.unapplied_bytes;
        verify.is_running()
            && reading < READING_MAX
            && verify.looks.len() < LOOKS_MAX
            && session.verifying.len() < LOOKS_MAX
            && verify.allowed_at <= self.now
            && self.queues.urgent.is_empty()
            && under_way < self.config.window_bytes / 2
            && self.unprotected.is_empty()
    }

    fn with_verify(&mut self, change: impl FnOnce(&mut Verify)) {
        if let Some(verify) = &mut self.verify {
            change(verify);
        }
    }

    fn take_look(&mut self, is_it: impl Fn(&Stage) -> bool) -> Option<Look> {
        self.verify.as_mut()?.take_look(is_it)
    }

    // ---- the end -----------------------------------------------------------------------------------------

    /// When all was looked at: let what was marked for repair become durable at the peer.
    fn heal(&mut self) {
        let Some(verify) = &self.verify else { return };
        match verify.healing {
            None if !verify.is_through() => {}
            None if verify.progress.repaired == 0 => self.with_verify(|verify| verify.end(VerifyState::Done)),
            None => {
                let flush = self.begin_flush();
                self.with_verify(|verify| {
                    verify.progress.state = VerifyState::Healing;
                    verify.healing = Some(flush);
                });
            }
            Some(flush) => {
                let flush = self.advance_flush(flush);
                self.with_verify(|verify| verify.healing = Some(flush));
            }
        }
    }

    /// The barrier at that position was answered.
    pub(super) fn on_healed(&mut self, barrier: Sequence) {
        if let Some(verify) = &mut self.verify
            && verify.healing == Some(Flush::Sent(barrier))
        {
            verify.end(VerifyState::Done);
        }
    }
}
