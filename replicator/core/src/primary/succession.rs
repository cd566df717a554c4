//! Going on from what the former primary has ([`crate::succession`]).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::action::Body;
use crate::checkpoint::PrimaryCheckpoint;
use crate::ids::{FileId, FileKind, Generation, Sequence};
use crate::resume::{LastStream, StreamId};
use crate::succession::{COPIES_MAX, CopyOf, Difference, Inheritance, Legacy, encode_copies};
use crate::wire::body::{Holding, Resumption, in_parts};
use crate::wire::header::{FLAG_SUCCEEDS, Kind, VERSION_SUCCEEDS};

use super::Primary;

impl Primary {
    /// This node was the secondary, and knows what the former primary had. Comes before anything else is told.
    pub fn inherit(&mut self, inheritance: Inheritance) {
        if self.config.incarnation.is_none() {
            return;
        }
        let held = inheritance.held();
        let files = |kinds: fn(FileKind) -> bool| -> Vec<FileId> {
            inheritance.copies().iter().filter(|copy| kinds(copy.kind)).map(|copy| copy.here).collect()
        };
        self.restore(PrimaryCheckpoint {
            // Of this stream nothing is sent any more: who holds anything of it is the secondary of another primary.
            last: LastStream {
                stream: held.stream,
                proven: held.received,
                queued: held.received,
                before: None,
            },
            known: files(|_| true),
            scanned: files(|kind| kind == FileKind::Directory),
            marked: Vec::new(),
            changed: Vec::new(),
            may_lack: true,
            files: Vec::new(),
        });
        self.inheritance = Some(Box::new(inheritance));
    }

    /// What the peer says of its copy, which was the primary.
    pub(super) fn on_legacy(&mut self, body: &[u8]) {
        let what = "what the former primary leaves";
        self.take_word(VERSION_SUCCEEDS, Legacy::decode(body), |greeting| &mut greeting.legacy, what);
    }

    /// Whether this node knows what that secondary had as the primary.
    pub(super) fn inherits(&self, legacy: Option<&Legacy>, generation: Generation, holding: Holding) -> bool {
        match (&self.inheritance, legacy) {
            (Some(inheritance), Some(legacy)) => inheritance.fits(legacy, generation, holding),
            _ => false,
        }
    }

    /// The peer has what it had as the primary, but for what it says may differ. What this node changed since is marked.
    pub(super) fn succeed(&mut self, stream: StreamId, legacy: &Legacy) {
        // Kept until the peer is known to have been told.
        let Some(inheritance) = self.inheritance.take() else { return };
        for (file, difference) in legacy.differences() {
            // Of a file that is not here any more, or whose number belongs to another one, the lists will tell.
            let copy = inheritance.copy_of(file).filter(|copy| self.is_known(copy.here));
            if let Some(copy) = copy {
                self.mark_difference(copy, difference);
            }
        }
        self.marks.bound();
        let body = Body::Structured(Resumption { stream, from: inheritance.held() }.encode());
        self.send_frame(Kind::ResumeBegin, |header| header.flags = FLAG_SUCCEEDS, body);
        let told = self.send_copies(inheritance.copies());
        if let Some(session) = &mut self.session {
            session.copies_told = told;
        }
        self.inheritance = Some(inheritance);
        self.send_marked();
    }

    fn mark_difference(&mut self, copy: CopyOf, difference: Difference) {
        let file = copy.here;
        match (copy.kind, difference) {
            (FileKind::Directory, Difference::Names { deep }) => self.mark_directory(file, deep),
            (FileKind::Directory, Difference::All) => {
                self.mark_directory(file, false);
                self.on_attributes_changed(file);
            }
            (FileKind::Directory, Difference::Parts(parts)) => {
                if parts.lost {
                    self.mark_directory(file, false);
                }
                self.on_attributes_changed(file);
            }
            (FileKind::Regular, Difference::Parts(parts)) => self.add_marks(file, &parts),
            (FileKind::Regular, _) => self.compare_all_of(file),
            // Nothing but names and attributes can differ.
            _ => self.on_attributes_changed(file),
        }
    }

    /// Which file is which, in as many frames as it needs. Returns the last.
    fn send_copies(&mut self, copies: &[CopyOf]) -> Option<Sequence> {
        let mut sent = None;
        for (part, flags) in in_parts(copies, COPIES_MAX) {
            let body = Body::Structured(encode_copies(part));
            sent = self.send_frame(Kind::Copies, |header| header.flags = flags, body);
        }
        sent
    }
}
