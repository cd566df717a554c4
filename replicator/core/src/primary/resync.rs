//! Bringing a peer up to date: list and compare what is marked for it (in a session that does not go on where another ended,
//! everything), and then agree that both nodes hold the same.
//!
//! ```text
//!  Scanning --all listed, answered, compared--> Draining --epoch sent--> Settling --BarrierDone--> Closing --epoch sent--> EndSent
//!                                                  ^                        |                        |                      | BarrierDone
//!                                                  +--- took too long ------+---- took too long -----+                  Recording --> Done
//! ```
//!
//! An epoch is everything marked before a moment. While `Draining` and `Settling`, callers are answered as before (locally, if this node is
//! recorded to run alone). From `Closing` on they are held, so that nothing is acknowledged by this node alone that the
//! peer's record "up to date" would not cover.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Body, CloseReason, DurableScope, Phase};
use crate::dirty::{FileMarks, WaiterId};
use crate::extent::{Extent, ExtentSet};
use crate::ids::{FileId, FileKind, Sequence, Time};
use crate::wire::body::encode_stream;
use crate::wire::header::Kind;

use super::Primary;
use super::names::Listed;
use super::waiter::{Stage, WaitScope};

/// A peer that took no longer to make everything durable takes little for the rest, for which callers are held.
const SETTLED_WITHIN: Duration = Duration::from_millis(30);
/// So often it is tried to come to that: an application may write faster than the peer's disk.
const SETTLES_MAX: u32 = 5;

/// Where the resync stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resync {
    /// Directories are listed, files compared: all that lists name now is complete before the next stage begins. What they name
    /// later is waited for by who relies on it (see `fresh`), also where that is the end of the resync.
    Scanning,
    /// All marks before a moment are sent.
    Draining(WaiterId),
    /// The peer makes durable what it has, since that time, so that little is left for the moment in which callers are held.
    Settling(Sequence, Time),
    /// All marks before a moment are sent once more, with callers held, since that time.
    Closing(WaiterId, Time),
    /// The peer makes everything durable and records that it is up to date.
    EndSent(Sequence),
    /// This node records that it is not alone.
    Recording,
    /// Both nodes hold the same.
    Done,
}

impl Resync {
    /// Whether callers wait for the end of the resync.
    pub fn holds_callers(self) -> bool {
        matches!(self, Resync::Closing(..) | Resync::EndSent(_) | Resync::Recording)
    }

    /// Whether the peer may take itself for up to date.
    pub fn is_exposed(self) -> bool {
        matches!(self, Resync::EndSent(_) | Resync::Recording | Resync::Done)
    }
}

impl Primary {
    /// A session was opened: nothing is known of the peer's tree but its roots.
    pub(super) fn begin_resync(&mut self) {
        let stream = self.session.as_ref().and_then(|session| session.stream);
        let body = stream.map_or(Body::Empty, |stream| Body::Structured(encode_stream(stream)));
        self.send_frame(Kind::ResyncBegin, |_| {}, body);
        let roots: Vec<FileId> = self.config.volumes.iter().map(|volume| volume.root).collect();
        for root in roots {
            self.begin_at_root(root);
        }
    }

    /// The peer says which of the listed files it had to make: they are empty there.
    pub(super) fn on_created_reply(
        &mut self,
        list: Sequence,
        created: &[FileId],
        more: bool,
    ) -> Result<(), CloseReason> {
        let Some(mut listed) = self.names.unanswered.remove(&list) else {
            return Err(CloseReason::Protocol("an answer to a list that was not sent"));
        };
        let created: BTreeSet<FileId> = created.iter().copied().collect();
        for child in listed.children.iter_mut().filter(|child| created.contains(&child.file)) {
            child.made = true;
            self.made_anew(child);
            self.names.fresh.end_doubt(child.file, list);
        }
        if more {
            self.names.unanswered.insert(list, listed);
            return Ok(());
        }
        for child in listed.children.iter().filter(|child| !child.made) {
            self.names.fresh.end_doubt(child.file, list);
            self.open_gate(child.file);
        }
        self.passing.list(Some(list), listed);
        self.confirm_later();
        Ok(())
    }

    /// A listed file was not there, or not any more, and is new and empty at the peer.
    fn made_anew(&mut self, child: &Listed) {
        let file = child.file;
        // Its number may belong to a file of another kind by now, which was told since.
        if !self.is_known(file) || self.is_directory(file) != (child.kind == FileKind::Directory) {
            return;
        }
        match child.kind {
            FileKind::Regular => {
                if let Some(session) = &self.session
                    && (child.kept || session.resync != Resync::Scanning)
                {
                    // What it held may have been acknowledged.
                    self.names.fresh.begin(file, child.directory, session.positions.queued);
                }
                if let Some(marks) = self.marks.get_mut(file) {
                    marks.compare.clear();
                }
                self.open_gate(file);
                if self.is_paced(file) {
                    self.record(file, &ExtentSet::from_iter([Extent::WHOLE]));
                } else {
                    self.mark_whole(file);
                }
                self.compare_ended(file);
                if !child.new {
                    // Who waits for differences alone would go on without the rest.
                    self.restart_waiters();
                }
            }
            // What this session told about its names before is gone with the directory that was there.
            FileKind::Directory if child.kept => {
                self.mark_directory(file, true);
                self.on_attributes_changed(file);
                self.restart_waiters();
            }
            _ => self.on_attributes_changed(file),
        }
    }

    /// The list that named the file is answered: it may be compared.
    fn open_gate(&mut self, file: FileId) {
        if let Some(marks) = self.marks.get_mut(file) {
            marks.compare_gated = false;
        }
        self.queue_compare(file);
    }

    /// The peer says which of the digested extents differ.
    pub(super) fn on_digest_reply(
        &mut self,
        digests: Sequence,
        extents: &[Extent],
        more: bool,
    ) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let asked =
            if more { session.digests.get(&digests).copied() } else { session.digests.remove(&digests) };
        let Some((file, digested)) = asked else {
            return Err(CloseReason::Protocol("an answer to digests that were not sent"));
        };
        if extents.iter().any(|extent| !digested.contains(*extent)) {
            return Err(CloseReason::Protocol("a difference outside of what was digested"));
        }
        let under_way = |marks: &FileMarks| marks.comparing.iter().any(|(sequence, _)| *sequence == digests);
        if !self.marks.get(file).is_some_and(under_way) {
            // The file is gone by now.
            return Ok(());
        }
        self.found_different(file, &extents.iter().copied().collect::<ExtentSet>());
        if !more {
            self.marks.entry(file).comparing.retain(|(sequence, _)| *sequence != digests);
        }
        self.queue_compare(file);
        self.compare_ended(file);
        Ok(())
    }

    /// Go on to the next stage when the present one is through.
    pub(super) fn advance_resync(&mut self) {
        let Some(session) = &self.session else { return };
        match session.resync {
            Resync::Scanning => {
                if self.names.is_complete()
                    && session.compare_files.is_empty()
                    && session.recorded_files.is_empty()
                {
                    self.pacing.end();
                    let epoch = self.begin_epoch();
                    self.set_resync(Resync::Draining(epoch));
                }
            }
            Resync::Draining(epoch) => {
                if self.stage_of(epoch) == Some(Stage::Ready) {
                    self.end_epoch(epoch);
                    if self.unconfirmed.is_empty() {
                        let epoch = self.begin_epoch();
                        self.set_resync(Resync::Closing(epoch, self.now));
                    } else {
                        self.settle_peer();
                    }
                }
            }
            Resync::Closing(epoch, since) => {
                if self.stage_of(epoch) == Some(Stage::Ready) {
                    let covers_fresh = self.covers_fresh(epoch) && !self.names.fresh.is_in_doubt();
                    if covers_fresh && !(self.forsakes_alone() && self.is_lineage_durable()) {
                        // The peer takes over the generation this node has told: it must be one that outlives a crash of this node.
                        if self.now.since(since) >= self.config.barrier_limit / 2 {
                            self.set_resync(Resync::Draining(epoch));
                        }
                        return;
                    }
                    self.end_epoch(epoch);
                    if covers_fresh {
                        self.send_resync_end();
                    } else {
                        // A file got its first name meanwhile, or a list may have the peer make one anew: its content comes first.
                        let epoch = self.begin_epoch();
                        self.set_resync(Resync::Closing(epoch, since));
                    }
                } else if self.now.since(since) >= self.config.barrier_limit / 2 {
                    self.set_resync(Resync::Draining(epoch));
                }
            }
            Resync::Recording => {
                if self.record.is_settled() {
                    self.set_resync(Resync::Done);
                    self.set_phase(Phase::Mirrored);
                }
            }
            Resync::Settling(..) | Resync::EndSent(_) | Resync::Done => {}
        }
    }

    /// Let the peer make everything durable while callers are still answered.
    fn settle_peer(&mut self) {
        if let Some(sequence) = self.send_barrier(Kind::Barrier, DurableScope::Everything, Vec::new(), false)
        {
            self.set_resync(Resync::Settling(sequence, self.now));
        }
    }

    /// The peer has: what was sent meanwhile is to take no longer. If it may, the same once more, a few times.
    pub(super) fn on_settled(&mut self, sequence: Sequence) {
        let Some(session) = &mut self.session else { return };
        let Resync::Settling(barrier, since) = session.resync else { return };
        if barrier != sequence {
            return;
        }
        session.settled += 1;
        let again = self.now.since(since) > SETTLED_WITHIN && session.settled < SETTLES_MAX;
        let epoch = self.begin_epoch();
        self.set_resync(if again { Resync::Draining(epoch) } else { Resync::Closing(epoch, self.now) });
    }

    /// When callers are let go again because the end takes too long.
    pub(super) fn closing_deadline(&self) -> Option<Time> {
        match self.session.as_ref()?.resync {
            Resync::Closing(_, since) => Some(since.after(self.config.barrier_limit / 2)),
            _ => None,
        }
    }

    fn set_resync(&mut self, resync: Resync) {
        let soon = self.now.after(self.config.confirm_interval);
        if matches!(resync, Resync::Draining(_)) {
            // The end is put off: callers are answered again.
            self.take_back_alone();
        }
        if let Some(session) = &mut self.session {
            session.resync = resync;
            // While everything is looked at, confirmations are rarer.
            session.confirm_at = session.confirm_at.map(|at| at.min(soon));
        }
        self.review = true;
    }

    fn begin_epoch(&mut self) -> WaiterId {
        let epoch = self.new_waiter(WaitScope::Everything);
        self.start_waiter(epoch);
        epoch
    }

    pub(super) fn end_epoch(&mut self, epoch: WaiterId) {
        self.waiters.remove(&epoch);
        self.ready.retain(|ready| *ready != epoch);
    }

    /// Whether the epoch has the content of all files that got their first name.
    fn covers_fresh(&self, epoch: WaiterId) -> bool {
        self.names.fresh.iter().all(|(file, _)| self.waits_for_fresh(epoch, file))
    }

    fn send_resync_end(&mut self) {
        let scope = DurableScope::Everything;
        if let Some(sequence) = self.send_barrier(Kind::ResyncEnd, scope, Vec::new(), false) {
            self.set_resync(Resync::EndSent(sequence));
        }
    }

    pub(super) fn on_resync_end_done(&mut self, sequence: Sequence) {
        if self.session.as_ref().is_some_and(|session| session.resync == Resync::EndSent(sequence)) {
            self.want_mirrored();
            self.set_resync(Resync::Recording);
        }
    }
}
