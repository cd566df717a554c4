//! The order in which frames are applied: as many at once as do not conflict.
//!
//! Most frames are short work (names, attributes, holes, few bytes). The edge does these *in order*, one after the other, so one of them may be ordered while others
//! that it conflicts with have not ended: nobody waits for an answer between the making of a file and its first bytes. What takes long
//! (many bytes, `Digests`, `Verify`) runs *beside*; it begins after all that was ordered in order before it, and what conflicts
//! with it is not ordered before it has ended.
//!
//! Frames of one file start in their order; `Data` and `Hole` do not conflict where they do not overlap, `Attributes` and `Digests` conflict with all on their
//! file, `Verify` with what changes what it is about. A *fence* conflicts with everything: `Namespace`, which is done in order, and
//! `ResyncBegin`, `ResumeBegin`, `Copies`, `ResyncEnd`, which run *alone*: not beside anything, in order or not.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::action::CloseReason;
use crate::event::{NamespaceChange, ReceivedBody};
use crate::extent::{BLOCK_MAX, Extent};
use crate::ids::{FileId, Generation, Sequence, SessionId};
use crate::wire::header::{Header, Kind};

/// Place of a frame in the order of all frames of all sessions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Slot(pub u64);

/// A received frame that has a position.
pub(super) enum Frame {
    /// To be answered.
    Barrier(Vec<u8>),
    /// To be applied.
    Work(Work),
}

/// A frame to be applied.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub session: SessionId,
    pub sequence: Sequence,
    pub slot: Slot,
    pub kind: WorkKind,
    pub file: FileId,
    /// The edge does it in order.
    pub in_order: bool,
}

#[derive(Clone, Debug)]
pub(super) enum WorkKind {
    /// `Data` or `Hole`.
    Bytes(Extent),
    Attributes,
    Digests,
    /// `Verify`: of contents, these bytes; else the state of the file, or the names in it.
    Verify(Option<Extent>),
    Names(NamespaceChange),
    /// `ResyncBegin` or `ResumeBegin`.
    Begin,
    /// `Copies`: changes nothing but what files are called.
    Copies,
    End(Generation),
}

impl Frame {
    pub fn new(
        session: SessionId,
        slot: Slot,
        header: &Header,
        body: ReceivedBody,
        in_order_bytes: u64,
    ) -> Result<Frame, CloseReason> {
        let kind = match (header.kind, body) {
            (Kind::Barrier, ReceivedBody::Structured(body)) => return Ok(Frame::Barrier(body)),
            (Kind::Data, _) => WorkKind::Bytes(Extent::at(header.offset, header.length)),
            (Kind::Hole, _) => WorkKind::Bytes(whole_blocks(Extent::at(header.offset, header.length))),
            (Kind::Attributes, _) => WorkKind::Attributes,
            (Kind::Digests, _) => WorkKind::Digests,
            (Kind::Verify, _) if header.length > 0 => {
                WorkKind::Verify(Some(Extent::at(header.offset, header.length)))
            }
            (Kind::Verify, _) => WorkKind::Verify(None),
            (Kind::Namespace, ReceivedBody::Namespace(change)) => WorkKind::Names(change),
            (Kind::ResyncBegin | Kind::ResumeBegin, _) => WorkKind::Begin,
            (Kind::Copies, _) => WorkKind::Copies,
            (Kind::ResyncEnd, _) => WorkKind::End(Generation(header.offset)),
            _ => return Err(CloseReason::Protocol("a frame without its body")),
        };
        let in_order = match header.kind {
            Kind::Data => header.length <= in_order_bytes,
            Kind::Digests | Kind::Verify => false,
            _ => true,
        };
        Ok(Frame::Work(Work { session, sequence: header.sequence, slot, kind, file: header.file, in_order }))
    }
}

/// What applying a hole may touch: where the file ends with it, the rest of the last block goes, too.
fn whole_blocks(hole: Extent) -> Extent {
    Extent { end: hole.end.checked_next_multiple_of(BLOCK_MAX).unwrap_or(hole.end), ..hole }
}

impl Work {
    pub fn is_fence(&self) -> bool {
        matches!(self.kind, WorkKind::Names(_) | WorkKind::Begin | WorkKind::Copies | WorkKind::End(_))
    }

    /// A fence that nothing may be ordered beside.
    fn is_alone(&self) -> bool {
        self.is_fence() && !matches!(self.kind, WorkKind::Names(_))
    }

    /// Whether both may run at once on the same file.
    fn is_beside(&self, other: &Work) -> bool {
        match (&self.kind, &other.kind) {
            (WorkKind::Bytes(one), WorkKind::Bytes(two) | WorkKind::Verify(Some(two)))
            | (WorkKind::Verify(Some(one)), WorkKind::Bytes(two)) => !one.overlaps(*two),
            (WorkKind::Verify(_), WorkKind::Verify(_)) => true,
            _ => false,
        }
    }
}

/// Frames of one file.
#[derive(Default, Debug)]
struct Lane {
    queue: VecDeque<Slot>,
    running: Vec<Slot>,
    /// In the list of lanes that may start something.
    listed: bool,
}

/// Received frames that are not applied.
#[derive(Debug)]
pub(super) struct Pipeline {
    applies_max: usize,
    works: BTreeMap<Slot, Work>,
    lanes: BTreeMap<FileId, Lane>,
    /// Lanes whose first waiting frame may be able to start.
    startable: VecDeque<FileId>,
    /// A fence and what came behind it.
    held: VecDeque<Slot>,
    fences: BTreeSet<Slot>,
    /// The first held fence runs, alone.
    alone: bool,
    /// Frames that wait in lanes.
    queued: usize,
    running: BTreeMap<(SessionId, Sequence), Slot>,
    /// Those of them that are not done in order.
    beside: usize,
    /// Frames of an abandoned session that the edge has not answered: nothing starts before.
    stale: BTreeSet<(SessionId, Sequence)>,
}

impl Pipeline {
    pub fn new(applies_max: usize) -> Pipeline {
        Pipeline {
            applies_max: applies_max.max(1),
            works: BTreeMap::new(),
            lanes: BTreeMap::new(),
            startable: VecDeque::new(),
            held: VecDeque::new(),
            fences: BTreeSet::new(),
            alone: false,
            queued: 0,
            running: BTreeMap::new(),
            beside: 0,
            stale: BTreeSet::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.works.is_empty() && self.stale.is_empty()
    }

    pub fn len(&self) -> usize {
        self.works.len()
    }

    /// The first frame that is not applied.
    pub fn first(&self) -> Option<Slot> {
        self.works.first_key_value().map(|(slot, _)| *slot)
    }

    /// The first fence that is not applied.
    pub fn first_fence(&self) -> Option<Slot> {
        self.fences.first().copied()
    }

    /// The first frame of a file that is not applied, but for those that are looking at it. Frames behind a fence are not counted: ask for the fence, too.
    pub fn first_of(&self, file: FileId) -> Option<Slot> {
        let lane = self.lanes.get(&file)?;
        // What only looks at the file changes nothing.
        let changes =
            |slot: &&Slot| self.works.get(slot).is_none_or(|work| !matches!(work.kind, WorkKind::Verify(_)));
        lane.running.iter().filter(changes).chain(lane.queue.front()).min().copied()
    }

    pub fn push(&mut self, work: Work) {
        let (slot, file, fence) = (work.slot, work.file, work.is_fence());
        self.works.insert(slot, work);
        if fence {
            self.fences.insert(slot);
        }
        if fence || !self.held.is_empty() {
            self.held.push_back(slot);
        } else {
            self.enqueue(file, slot);
        }
    }

    fn enqueue(&mut self, file: FileId, slot: Slot) {
        let lane = self.lanes.entry(file).or_default();
        lane.queue.push_back(slot);
        self.queued += 1;
        if !lane.listed {
            lane.listed = true;
            self.startable.push_back(file);
        }
    }

    /// The next frame that may be ordered besides those that run. It counts as running from now on. `Begin` waits for
    /// `begin_allowed`.
    pub fn start(&mut self, begin_allowed: impl FnOnce(&Work) -> bool) -> Option<Work> {
        if !self.stale.is_empty() || self.alone || self.running.len() >= self.applies_max {
            return None;
        }
        let work = self.start_in_lane().or_else(|| self.start_fence(begin_allowed))?;
        self.running.insert((work.session, work.sequence), work.slot);
        self.beside += usize::from(!work.in_order);
        Some(work)
    }

    fn start_in_lane(&mut self) -> Option<Work> {
        loop {
            let file = self.startable.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&file) else { continue };
            lane.listed = false;
            let Some(work) = lane.queue.front().and_then(|slot| self.works.get(slot)) else { continue };
            let free = |slot: &Slot| {
                self.works.get(slot).is_none_or(|running| running.in_order || work.is_beside(running))
            };
            if !lane.running.iter().all(free) {
                // It is listed again when one of those that run has ended.
                continue;
            }
            let work = work.clone();
            lane.queue.pop_front();
            lane.running.push(work.slot);
            if !lane.queue.is_empty() {
                lane.listed = true;
                self.startable.push_back(file);
            }
            self.queued -= 1;
            return Some(work);
        }
    }

    fn start_fence(&mut self, begin_allowed: impl FnOnce(&Work) -> bool) -> Option<Work> {
        let work = self.works.get(self.held.front()?)?.clone();
        let may = match work.is_alone() {
            true => self.running.is_empty(),
            false => self.beside == 0,
        };
        if self.queued > 0 || !may || !begin_allowed(&work) {
            return None;
        }
        if work.is_alone() {
            self.alone = true;
        } else {
            self.pass_fence();
        }
        Some(work)
    }

    /// A frame was applied. `None`: it was abandoned, or never started.
    pub fn end(&mut self, session: SessionId, sequence: Sequence) -> Option<Work> {
        self.stale.remove(&(session, sequence));
        let slot = self.running.remove(&(session, sequence))?;
        let work = self.works.remove(&slot)?;
        self.beside -= usize::from(!work.in_order);
        if work.is_fence() {
            self.fences.remove(&slot);
            if work.is_alone() {
                self.alone = false;
                self.pass_fence();
            }
        } else if let Some(lane) = self.lanes.get_mut(&work.file) {
            lane.running.retain(|running| *running != slot);
            if lane.queue.is_empty() && lane.running.is_empty() {
                self.lanes.remove(&work.file);
            } else if !lane.queue.is_empty() && !lane.listed {
                lane.listed = true;
                self.startable.push_back(work.file);
            }
        }
        Some(work)
    }

    /// The fence is through, or will be before what is ordered now: what came behind it, up to the next one, takes its place in the lanes.
    fn pass_fence(&mut self) {
        self.held.pop_front();
        while let Some(slot) = self.held.front().copied() {
            match self.works.get(&slot) {
                Some(work) if work.is_fence() => break,
                Some(work) => {
                    let file = work.file;
                    self.held.pop_front();
                    self.enqueue(file, slot);
                }
                None => {
                    self.held.pop_front();
                }
            }
        }
    }

    /// Forget all frames; those that run are waited for before anything else starts. Returns the sessions they are of.
    pub fn abandon(&mut self) -> BTreeSet<SessionId> {
        let sessions = self.works.values().map(|work| work.session).collect();
        let running = core::mem::take(&mut self.running);
        self.stale.extend(running.into_keys());
        self.works.clear();
        self.lanes.clear();
        self.startable.clear();
        self.held.clear();
        self.fences.clear();
        (self.alone, self.queued, self.beside) = (false, 0, 0);
        sessions
    }
}
