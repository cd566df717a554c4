//! Running the pipeline, and telling the primary what an apply brought to light.

use crate::action::{Action, Body, CloseReason, DataState};
use crate::event::{AppliedOutcome, NamespaceChange};
use crate::extent::Extent;
use crate::ids::{Errno, FileId, Sequence, SessionId};
use crate::lineage::GenerationId;
use crate::wire::body::{EXTENTS_MAX, FILES_MAX, encode_extents, encode_files, in_parts};
use crate::wire::header::Kind;
use crate::wire::verdict::encode_verdict;

use super::Secondary;
use super::pipeline::{Work, WorkKind};
use super::reunion::Replacement;

impl Secondary {
    /// Order everything that may run beside what runs.
    pub(super) fn run_pipeline(&mut self) {
        loop {
            let term = self.session.as_ref().map(|session| session.term);
            let (record, replacement) = (&mut self.record, self.replacement);
            let work = self.pipeline.start(|work| match work.kind {
                WorkKind::Begin => {
                    // From here on the copy is neither the old nor the new state, and that is on disk before it is so.
                    replacement.record(&mut record.wanted);
                    record.wanted.data = DataState::Inconsistent;
                    record.wanted.alone = false;
                    record.wanted.term = term.unwrap_or(record.wanted.term).max(record.wanted.term);
                    record.is_settled()
                }
                _ => true,
            });
            let Some(work) = work else { return };
            if let WorkKind::Begin = work.kind {
                self.replacement = Replacement::default();
                self.out.push(Action::KeepAside { of: self.record.durable().keeping });
            }
            let Work { session, sequence, in_order, .. } = work;
            self.out.push(Action::Apply { session, sequence, in_order });
        }
    }

    pub(super) fn on_applied(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        outcome: Result<AppliedOutcome, Errno>,
    ) {
        let ended = self.pipeline.end(session, sequence);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(errno) => {
                // Also where the session is gone: the copy misses something that was received.
                self.fail(errno);
                return;
            }
        };
        let Some(work) = ended else { return };
        if matches!(work.kind, WorkKind::End(_)) {
            // Both hold the same: what comes from now on replaces what the primary has told.
            self.out.push(Action::KeepAside { of: GenerationId::NONE });
        }
        if let WorkKind::Names(change) = &work.kind {
            self.durability.note_names(work.slot, change);
        }
        if self.session.as_ref().is_none_or(|open| open.id != work.session) {
            return;
        }
        self.answer(&work, outcome);
    }

    fn answer(&mut self, work: &Work, outcome: AppliedOutcome) {
        match (&work.kind, outcome) {
            (WorkKind::Digests, AppliedOutcome::Differs(extents)) => self.send_extents(work, &extents),
            (WorkKind::Digests, AppliedOutcome::Done) => self.send_extents(work, &[]),
            (WorkKind::Digests, AppliedOutcome::Created(_)) => {
                self.close(CloseReason::Protocol("digests made files"));
            }
            (WorkKind::Verify(_), AppliedOutcome::Verified(verdict)) => {
                let fill = |header: &mut crate::wire::header::Header| {
                    header.file = work.file;
                    header.offset = work.sequence.0;
                };
                self.send_frame(Kind::VerifyReply, fill, Body::Structured(encode_verdict(&verdict)));
            }
            (WorkKind::Verify(_), _) => self.close(CloseReason::Protocol("a part was not compared")),
            (WorkKind::Names(NamespaceChange::Listed { first, last, .. }), outcome) => {
                let Some(session) = &mut self.session else { return };
                if *first {
                    session.created.clear();
                }
                if let AppliedOutcome::Created(files) = outcome {
                    session.created.extend(files);
                }
                if *last {
                    let created = core::mem::take(&mut session.created);
                    self.send_created(work, &created);
                }
            }
            (WorkKind::End(generation), _) => {
                self.durability.add_end(work.slot, work.sequence, *generation);
            }
            _ => {}
        }
    }

    fn send_extents(&mut self, work: &Work, extents: &[Extent]) {
        self.send_parts(Kind::DigestReply, work, extents, EXTENTS_MAX, encode_extents);
    }

    fn send_created(&mut self, work: &Work, files: &[FileId]) {
        self.send_parts(Kind::CreatedReply, work, files, FILES_MAX, encode_files);
    }

    /// An answer in as many frames as it needs, at least one.
    fn send_parts<T>(
        &mut self,
        kind: Kind,
        work: &Work,
        members: &[T],
        most: usize,
        encode: impl Fn(&[T]) -> alloc::vec::Vec<u8>,
    ) {
        for (part, flags) in in_parts(members, most) {
            let fill = |header: &mut crate::wire::header::Header| {
                header.flags = flags;
                header.file = work.file;
                header.offset = work.sequence.0;
            };
            self.send_frame(kind, fill, Body::Structured(encode(part)));
        }
    }
}
