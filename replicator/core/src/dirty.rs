//! The dirty set: for each file, what the peer is not yet known to hold durably.
//!
//! A mark leaves the set in one way only: the peer confirmed as *durable* a read that began after the mark was made. On
//! its way it moves between the fields of [`FileMarks`], and whenever that way is cut it moves back to `dirty`.
//!
//! ```text
//!            local sync           ReadExtent       frames ordered         BarrierDone
//!  mapped ---------------> dirty -----------> reads -----------> in_flight -----------> (clean)
//!                           ^ ^ |               ^ | beyond the end of the file  ^
//!             waited for ---+ | |   at the pace | +--------> tail -- Attributes-+
//!  compare -- DigestReply --> | recorded -------+
//!                             +<--- session lost, read failed, marked again
//! ```

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::config::ExtentLimits;
use crate::extent::{Extent, ExtentSet};
use crate::ids::{FileId, LocalSyncId, ReadId, Sequence, Time};

/// Number of something that waits until certain marks are on their way: a caller, or an epoch of the resync.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct WaiterId(pub u64);

/// A read that the edge has been asked for.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub id: ReadId,
    pub kind: ReadKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadKind {
    /// `claim` left the dirty set (`paced`: what is recorded) for this read; `asked` is what is read of it. They differ only where
    /// the claim goes to the end of the file, which the read may find.
    Data { claim: Extent, asked: Extent, paced: bool },
    /// Attributes; whether the mark was an explicit one.
    Attributes { explicit: bool },
    /// Digests, `claim` and `asked` as above.
    Digests { claim: Extent, asked: Extent },
}

impl Read {
    pub fn is_digests(&self) -> bool {
        matches!(self.kind, ReadKind::Digests { .. })
    }

    fn claim(&self) -> Option<Extent> {
        match self.kind {
            ReadKind::Data { claim, .. } => Some(claim),
            ReadKind::Attributes { .. } | ReadKind::Digests { .. } => None,
        }
    }
}

/// What a frame that is under way carries.
#[derive(Clone, Debug)]
pub(crate) enum Sent {
    /// The state of this extent.
    Extent(Extent),
    /// The attributes; with the size they also settle the extents that lay beyond the end of the file.
    Attributes { explicit: bool, tail: ExtentSet },
}

/// The part of a file's marks that a waiter waits for.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub waiter: WaiterId,
    /// A caller waits: before bulk data.
    pub urgent: bool,
    /// To be read, by reads that begin after the request.
    pub wanted: ExtentSet,
    /// Reads that have to end in frames.
    pub reads: Vec<ReadId>,
    /// Attributes have to be read after all of `wanted` was.
    pub attributes: bool,
    /// Whether attributes frames were part of this wait, so that the barrier has to cover them.
    pub had_attributes: bool,
    /// Extents to be added to `wanted` when a local sync with at least this number has ended.
    pub mapped: ExtentSet,
    pub mapped_sync: LocalSyncId,
    /// Whether differences to the peer have to be found first.
    pub compare: bool,
}

/// Marks that a running local sync covers.
#[derive(Clone, Debug)]
pub(crate) struct Syncing {
    pub sync: LocalSyncId,
    pub stored: ExtentSet,
    pub lost: bool,
}

/// The marks of one file.
#[derive(Clone, Default, Debug)]
pub(crate) struct FileMarks {
    /// To be read and sent.
    pub dirty: ExtentSet,
    /// The same at the resync's pace: what it found, or what was marked before it began. Nothing that is marked since, and
    /// nothing that is waited for.
    pub recorded: ExtentSet,
    /// Read and found beyond the end of the file; settled by the next attributes, whose size says whether they still are.
    pub tail: ExtentSet,
    /// Stored to through shared mappings: to be read after a local sync.
    pub mapped: ExtentSet,
    /// Events were lost, perhaps of stores through mappings: to be compared after a local sync.
    pub lost: bool,
    /// Stores through mappings, or the loss of events, were told since the mark record exists.
    pub stored: bool,
    /// `mapped` and `lost` marks that a running local sync covers.
    pub syncing: Vec<Syncing>,
    /// May differ from the peer's: to be digested.
    pub compare: ExtentSet,
    /// No digests before the peer told which files of the directory's list it had to make.
    pub compare_gated: bool,
    /// Digests under way.
    pub comparing: Vec<(Sequence, Extent)>,
    /// Attributes are to be read and sent.
    pub attributes: bool,
    /// The attributes changed by themselves (size cut, mode, owner), not only as a consequence of a write.
    pub explicit: bool,
    /// Reads of this session that the edge has not answered yet.
    pub reads: Vec<Read>,
    /// Sent, not confirmed durable; ascending.
    pub in_flight: VecDeque<(Sequence, Sent)>,
    /// Waiters for marks of this file.
    pub waits: Vec<Wait>,
    /// Reads behind a range to the end of the file that may be issued before its end is known, and how many next time.
    pub ahead: u8,
    pub streak: u8,
    /// Marked because a list brought it; counted by [`DirtySet::listed`].
    listed: bool,
    /// A name was given to the file since the mark record exists.
    pub named: bool,
    /// In one of the background queues / in that of the resync's pace / in the queue of files with waiting callers / in the queue for digests.
    pub queued: bool,
    pub paced: bool,
    pub urgent: bool,
    pub compare_queued: bool,
    /// After a failed read: not before this time.
    pub backoff: Option<Time>,
}

impl FileMarks {
    /// Whether nothing is left that the peer is not known to hold.
    pub fn is_clean(&self) -> bool {
        self.in_flight.is_empty() && self.is_queued()
    }

    pub fn has_compare(&self) -> bool {
        !self.compare.is_empty()
            || !self.comparing.is_empty()
            || self.reads_digests()
            || self.lost
            || self.syncing.iter().any(|syncing| syncing.lost)
    }

    /// Whether all there is to say about the file is on its way.
    pub fn is_queued(&self) -> bool {
        self.dirty.is_empty()
            && self.recorded.is_empty()
            && self.tail.is_empty()
            && self.mapped.is_empty()
            && self.syncing.is_empty()
            && !self.attributes
            && !self.has_compare()
            && self.reads.is_empty()
    }

    /// Whether a local sync has to come before some of the marks can be read.
    pub fn needs_sync(&self) -> bool {
        !self.mapped.is_empty() || self.lost
    }

    pub fn reads_digests(&self) -> bool {
        self.reads.iter().any(Read::is_digests)
    }

    pub fn reads_attributes(&self) -> bool {
        self.reads.iter().any(|read| matches!(read.kind, ReadKind::Attributes { .. }))
    }

    /// Whether a waiter's data is on its way and only attributes are missing: they get their turn before any other read.
    pub fn attributes_due(&self) -> bool {
        let has_compare = self.has_compare();
        self.waits.iter().any(|wait| {
            wait.attributes
                && wait.wanted.is_empty()
                && wait.reads.is_empty()
                && wait.mapped.is_empty()
                && !(wait.compare && has_compare)
        })
    }

    /// The extents that are being read.
    pub fn busy(&self) -> impl Iterator<Item = Extent> + '_ {
        self.reads.iter().filter_map(Read::claim)
    }

    /// The extents that reads, of digests too, have taken out of the marks.
    pub fn claimed(&self) -> impl Iterator<Item = Extent> + '_ {
        self.reads.iter().filter_map(|read| match read.kind {
            ReadKind::Data { claim, .. } | ReadKind::Digests { claim, .. } => Some(claim),
            ReadKind::Attributes { .. } => None,
        })
    }

    fn extents(&self) -> usize {
        self.dirty.count()
            + self.recorded.count()
            + self.mapped.count()
            + self.compare.count()
            + self.tail.count()
    }

    /// All that was on its way moves back; what only this session knew is dropped. `resumes`: the next one may go on from it, else
    /// it lists and compares everything.
    fn on_session_lost(&mut self, resumes: bool) {
        self.listed = false;
        self.unpace();
        for read in core::mem::take(&mut self.reads) {
            match read.kind {
                ReadKind::Data { claim, .. } => self.dirty.insert(claim),
                ReadKind::Attributes { explicit } => self.mark_attributes(explicit),
                ReadKind::Digests { claim, .. } => self.compare.insert(claim),
            }
        }
        for (_, sent) in core::mem::take(&mut self.in_flight) {
            match sent {
                Sent::Extent(extent) => self.dirty.insert(extent),
                Sent::Attributes { explicit, tail } => {
                    self.mark_attributes(explicit);
                    self.dirty.insert_all(&tail);
                }
            }
        }
        let tail = self.tail.take();
        if !tail.is_empty() {
            self.dirty.insert_all(&tail);
            self.mark_attributes(true);
        }
        for (_, extent) in core::mem::take(&mut self.comparing) {
            self.compare.insert(extent);
        }
        if !resumes {
            self.compare.clear();
        }
        self.compare_gated = false;
        self.waits.clear();
        (self.ahead, self.streak) = (0, 0);
        (self.queued, self.paced, self.urgent, self.compare_queued) = (false, false, false, false);
        self.backoff = None;
    }

    /// What is recorded is dirty like anything else.
    pub fn unpace(&mut self) {
        let recorded = self.recorded.take();
        self.dirty.insert_all(&recorded);
    }

    pub fn mark_attributes(&mut self, explicit: bool) {
        self.attributes = true;
        self.explicit |= explicit;
    }
}

/// The marks of all files.
#[derive(Debug)]
pub(crate) struct DirtySet {
    pub files: BTreeMap<FileId, Box<FileMarks>>,
    /// How many of them were marked because a list brought them.
    listed: usize,
    limits: ExtentLimits,
    /// Upper bound on the number of extents; exact after each count.
    extents: usize,
    /// The number at which to count.
    count_at: usize,
    /// How often a set was widened.
    pub widened: u64,
}

impl DirtySet {
    pub fn new(limits: ExtentLimits) -> DirtySet {
        DirtySet { files: BTreeMap::new(), listed: 0, limits, extents: 0, count_at: limits.total, widened: 0 }
    }

    pub fn get_mut(&mut self, file: FileId) -> Option<&mut FileMarks> {
        self.files.get_mut(&file).map(Box::as_mut)
    }

    pub fn get(&self, file: FileId) -> Option<&FileMarks> {
        self.files.get(&file).map(Box::as_ref)
    }

    /// The file's marks, made when there are none. A caller that leaves them empty calls [`DirtySet::tidy`].
    pub fn entry(&mut self, file: FileId) -> &mut FileMarks {
        self.files.entry(file).or_default()
    }

    /// Drop the file's record if nothing is left in it.
    pub fn tidy(&mut self, file: FileId) {
        let clean = |marks: &FileMarks| marks.is_clean() && marks.waits.is_empty();
        if self.get(file).is_some_and(clean) {
            self.remove(file);
        }
    }

    /// Drop the file's record, whatever is in it.
    pub fn remove(&mut self, file: FileId) -> Option<Box<FileMarks>> {
        self.unlist(file);
        self.files.remove(&file)
    }

    /// The file is marked because a list brought it.
    pub fn note_listed(&mut self, file: FileId) {
        if let Some(marks) = self.files.get_mut(&file) {
            self.listed += usize::from(!core::mem::replace(&mut marks.listed, true));
        }
    }

    /// The file's marks may stay for a reason of their own.
    pub fn unlist(&mut self, file: FileId) {
        if let Some(marks) = self.files.get_mut(&file) {
            self.listed -= usize::from(core::mem::take(&mut marks.listed));
        }
    }

    /// How many files have marks because a list brought them.
    pub fn listed(&self) -> usize {
        self.listed
    }

    /// Everything will be compared: what was to be is worth nothing.
    pub fn forget_comparisons(&mut self) {
        let files: Vec<FileId> = self.files.keys().copied().collect();
        for file in files {
            self.entry(file).compare.clear();
            self.tidy(file);
        }
    }

    /// See [`FileMarks::on_session_lost`].
    pub fn on_session_lost(&mut self, resumes: bool) {
        self.listed = 0;
        self.files.retain(|_, marks| {
            marks.on_session_lost(resumes);
            !marks.is_clean()
        });
    }

    /// Add to one of the file's sets. Returns the file's marks, and whether the set had too many extents and was widened.
    pub fn mark(
        &mut self,
        file: FileId,
        extent: Extent,
        set: impl FnOnce(&mut FileMarks) -> &mut ExtentSet,
    ) -> (&mut FileMarks, bool) {
        let limit = self.limits.per_file;
        let marks: &mut FileMarks = self.files.entry(file).or_default();
        let set = set(marks);
        let before = set.count();
        set.insert(extent);
        let after = set.count();
        let widened = after > before && after > limit && set.widen(limit);
        self.extents += after.saturating_sub(before);
        self.widened += u64::from(widened);
        (marks, widened)
    }

    /// Whether it is time to call [`DirtySet::bound`].
    pub fn is_over(&self) -> bool {
        self.extents > self.count_at
    }

    /// Hold the bound on the number of all extents by widening. Returns the files whose marks were widened.
    pub fn bound(&mut self) -> Vec<FileId> {
        let mut widened = Vec::new();
        self.extents = self.files.values().map(|marks| marks.extents()).sum();
        let mut limit = self.limits.per_file;
        let is_over = self.extents > self.limits.total;
        while is_over && self.extents > self.limits.total / 2 && limit > 1 {
            limit /= 2;
            for (file, marks) in &mut self.files {
                let mut any = false;
                for set in [
                    &mut marks.dirty,
                    &mut marks.recorded,
                    &mut marks.mapped,
                    &mut marks.compare,
                    &mut marks.tail,
                ] {
                    any |= set.widen(limit);
                }
                if any {
                    self.widened += 1;
                    widened.push(*file);
                }
            }
            self.extents = self.files.values().map(|marks| marks.extents()).sum();
        }
        self.count_at = self.limits.total.max(self.extents + self.limits.total / 4);
        widened.sort_unstable();
        widened.dedup();
        widened
    }
}

/// The next part of `set` to read: `claim` leaves the set, `asked` is read. Nothing that overlaps `busy`; at most
/// `bytes_max`. A range to the end of the file is claimed as a whole unless reads ahead are allowed: a read that comes short
/// then tells about all of it. So it is not claimed between reads that are under way: they would all be beyond the end of a file that
/// was cut, and each cut that came before they have ended would add more of them, without bound.
pub(crate) fn pick(
    set: &ExtentSet,
    busy: &[Extent],
    bytes_max: u64,
    ahead: bool,
) -> Option<(Extent, Extent)> {
    set.iter().find_map(|extent| {
        let mut start = extent.start;
        // Each round passes at least one busy extent, of which there are few.
        while let Some(passed) = busy.iter().find(|busy| busy.start <= start && start < busy.end) {
            start = passed.end;
        }
        if start >= extent.end {
            return None;
        }
        let next_busy = busy.iter().filter(|busy| busy.start > start).map(|busy| busy.start).min();
        if extent.is_open() && !ahead && next_busy.is_some() {
            return None;
        }
        let free = Extent { start, end: extent.end.min(next_busy.unwrap_or(Extent::END)) };
        let asked = Extent { start, end: free.end.min(start.saturating_add(bytes_max)) };
        let claim = if free.is_open() && !ahead { free } else { asked };
        Some((claim, asked))
    })
}
