//! What is applied and not durable, and the barriers that ask for it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::action::{Action, DataState, DurableScope, Phase};
use crate::event::NamespaceChange;
use crate::ids::{Errno, FileId, FileKind, Generation, Sequence, SessionId};
use crate::lineage::{GenerationId, Lineage};
use crate::wire::header::Kind;

use super::Secondary;
use super::pipeline::{Pipeline, Slot, Work, WorkKind};

/// Beyond so many files and directories everything is made durable at once.
const FILES_MAX: usize = 64;

/// Frames of one file, or all namespace frames, that are not known to be durable.
#[derive(Clone, Copy, Debug)]
struct Undurable {
    first: Slot,
    last: Slot,
    /// Attributes are among them: data alone is not enough.
    attributes: bool,
}

/// A barrier that is not answered.
#[derive(Debug)]
struct Barrier {
    sequence: Sequence,
    scope: DurableScope,
    /// The end of a resync, with the primary's generation.
    end: Option<Generation>,
    state: BarrierState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BarrierState {
    /// Frames before it are not applied.
    Waiting,
    /// The edge was asked; what it covers.
    Syncing,
    /// Durable; the record that says so is not.
    Recording,
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Durability {
    files: BTreeMap<FileId, Undurable>,
    order: BTreeSet<(Slot, FileId)>,
    names: Option<Undurable>,
    /// Directories in which names changed, with the last frame that did.
    touched: BTreeMap<FileId, Slot>,
    barriers: BTreeMap<Slot, Barrier>,
    /// A session ended: its id and last frame, until what it left is being made durable.
    pub left: Option<(SessionId, Sequence)>,
    /// The same, while the edge makes it durable.
    ending: Option<(SessionId, Sequence)>,
}

impl Durability {
    /// The first frame that is not known to be durable.
    pub fn first(&self) -> Option<Slot> {
        let files = self.order.first().map(|(slot, _)| *slot);
        files.into_iter().chain(self.names.map(|names| names.first)).min()
    }

    /// Whether nothing that a session left is to be made durable, or is being made so.
    pub fn is_at_rest(&self) -> bool {
        self.left.is_none() && self.ending.is_none()
    }

    pub fn note_received(&mut self, work: &Work) {
        let slot = work.slot;
        match &work.kind {
            WorkKind::Digests | WorkKind::Verify(_) | WorkKind::Copies => {}
            WorkKind::Bytes(_) | WorkKind::Attributes => {
                let attributes = matches!(work.kind, WorkKind::Attributes);
                let file = self.files.entry(work.file).or_insert_with(|| {
                    self.order.insert((slot, work.file));
                    Undurable { first: slot, last: slot, attributes }
                });
                file.last = slot;
                file.attributes |= attributes;
            }
            WorkKind::Names(_) | WorkKind::Begin | WorkKind::End(_) => {
                let names =
                    self.names.get_or_insert(Undurable { first: slot, last: slot, attributes: false });
                names.last = slot;
            }
        }
    }

    /// A namespace frame was applied: remember the directories to be made durable.
    pub fn note_names(&mut self, slot: Slot, change: &NamespaceChange) {
        let mut touch = |directory| {
            self.touched.insert(directory, slot);
        };
        match change {
            NamespaceChange::Created { parent, file, kind } => {
                touch(*parent);
                if *kind == FileKind::Directory {
                    touch(*file);
                }
            }
            NamespaceChange::Linked { parent, .. } => touch(*parent),
            NamespaceChange::Unlinked { parent, file, last } => {
                touch(*parent);
                if *last {
                    self.touched.remove(file);
                }
            }
            NamespaceChange::Renamed { old_parent, new_parent, other, other_last, .. } => {
                touch(*old_parent);
                touch(*new_parent);
                if *other_last && let Some(other) = other {
                    self.touched.remove(other);
                }
            }
            NamespaceChange::Listed { directory, children, .. } => {
                touch(*directory);
                for (child, kind) in children {
                    if *kind == FileKind::Directory {
                        touch(*child);
                    }
                }
            }
        }
    }

    pub fn add_barrier(&mut self, slot: Slot, sequence: Sequence, scope: DurableScope) {
        self.barriers.insert(slot, Barrier { sequence, scope, end: None, state: BarrierState::Waiting });
    }

    /// The end of a resync was applied: everything is to be made durable.
    pub fn add_end(&mut self, slot: Slot, sequence: Sequence, generation: Generation) {
        let (scope, end) = (DurableScope::Everything, Some(generation));
        self.barriers.insert(slot, Barrier { sequence, scope, end, state: BarrierState::Waiting });
    }

    pub fn forget_barriers(&mut self) {
        self.barriers.clear();
    }

    /// Whether all frames that the barrier is about are applied.
    fn is_applied(pipeline: &Pipeline, slot: Slot, scope: &DurableScope) -> bool {
        let behind = |first: Option<Slot>| first.is_none_or(|first| first > slot);
        match scope {
            DurableScope::Files(files) => {
                behind(pipeline.first_fence())
                    && files.iter().all(|(file, _)| behind(pipeline.first_of(*file)))
            }
            DurableScope::Volume(_) | DurableScope::Everything => behind(pipeline.first()),
        }
    }

    /// The barrier's scope with the directories that were touched.
    fn with_directories(&self, scope: &DurableScope) -> DurableScope {
        match scope {
            DurableScope::Files(files) => {
                let mut all: BTreeMap<FileId, bool> = BTreeMap::new();
                for &(file, data_only) in files {
                    // Named twice, the more that is asked for counts: all of it is answered for.
                    *all.entry(file).or_insert(data_only) &= data_only;
                }
                all.extend(self.touched.keys().map(|directory| (*directory, false)));
                if all.len() > FILES_MAX {
                    DurableScope::Everything
                } else {
                    DurableScope::Files(all.into_iter().collect())
                }
            }
            DurableScope::Volume(volume) if self.touched.keys().all(|file| file.volume == *volume) => {
                DurableScope::Volume(*volume)
            }
            DurableScope::Volume(_) | DurableScope::Everything => DurableScope::Everything,
        }
    }

    /// Frames of these files up to `upto`, and all namespace frames up to there, are durable.
    fn settle(&mut self, upto: Slot, scope: &DurableScope) {
        match scope {
            DurableScope::Files(files) => {
                files.iter().for_each(|&(file, data_only)| self.settle_file(file, upto, data_only));
            }
            DurableScope::Volume(volume) => {
                let files: Vec<FileId> =
                    self.files.keys().filter(|file| file.volume == *volume).copied().collect();
                files.into_iter().for_each(|file| self.settle_file(file, upto, false));
            }
            DurableScope::Everything => {
                let files: Vec<FileId> = self.files.keys().copied().collect();
                files.into_iter().for_each(|file| self.settle_file(file, upto, false));
            }
        }
        self.touched.retain(|_, slot| *slot > upto);
        if let Some(names) = &mut self.names {
            if names.last <= upto {
                self.names = None;
            } else {
                names.first = names.first.max(Slot(upto.0 + 1));
            }
        }
    }

    fn settle_file(&mut self, file: FileId, upto: Slot, data_only: bool) {
        let Some(undurable) = self.files.get_mut(&file) else { return };
        if data_only && undurable.attributes {
            return;
        }
        self.order.remove(&(undurable.first, file));
        if undurable.last <= upto {
            self.files.remove(&file);
        } else {
            undurable.first = undurable.first.max(Slot(upto.0 + 1));
            self.order.insert((undurable.first, file));
        }
    }
}

impl Secondary {
    /// Order what barriers ask for as soon as the frames before them are applied, and answer them when it is done.
    pub(super) fn run_barriers(&mut self) {
        let Some(session) = self.session.as_ref().map(|session| session.id) else { return };
        let mut recorded = Vec::new();
        for (slot, barrier) in &mut self.durability.barriers {
            match barrier.state {
                BarrierState::Waiting => {
                    if !Durability::is_applied(&self.pipeline, *slot, &barrier.scope) {
                        continue;
                    }
                    barrier.state = BarrierState::Syncing;
                    recorded.push((*slot, false));
                }
                BarrierState::Recording if self.record.is_settled() => recorded.push((*slot, true)),
                BarrierState::Syncing | BarrierState::Recording => {}
            }
        }
        for (slot, is_recorded) in recorded {
            if is_recorded {
                self.set_phase(Phase::Following);
                self.answer_barrier(slot);
            } else if let Some(barrier) = self.durability.barriers.get(&slot) {
                let scope = self.durability.with_directories(&barrier.scope);
                let barrier = barrier.sequence;
                self.out.push(Action::MakeDurable { session, barrier, scope });
            }
        }
    }

    fn answer_barrier(&mut self, slot: Slot) {
        let Some(barrier) = self.durability.barriers.remove(&slot) else { return };
        self.counters.barriers += 1;
        let about = barrier.sequence.0;
        self.send_frame(Kind::BarrierDone, |header| header.offset = about, crate::action::Body::Empty);
    }

    /// After a session: make all of it durable, though nobody asks.
    pub(super) fn make_durable_at_end(&mut self, session: SessionId, barrier: Sequence) {
        self.durability.ending = Some((session, barrier));
        self.out.push(Action::MakeDurable { session, barrier, scope: DurableScope::Everything });
    }

    pub(super) fn on_made_durable(
        &mut self,
        session: SessionId,
        barrier: Sequence,
        result: Result<(), Errno>,
    ) {
        if let Err(errno) = result {
            // A sync that failed may have lost what was applied before: nothing here is to be relied on, whichever session
            // it belonged to.
            self.fail(errno);
            return;
        }
        if self.durability.ending.take_if(|ending| *ending == (session, barrier)).is_some() {
            if self.session.is_none() && self.record.wanted.data == DataState::UpToDate {
                self.record.wanted.data = DataState::Consistent;
                self.record.wanted.synced = self.held;
            }
            return;
        }
        let Some(base) = self.session.as_ref().filter(|open| open.id == session).map(|open| open.base) else {
            return;
        };
        let slot = Slot(base.0 + barrier.0);
        let Some(Barrier { scope, end, state, .. }) = self.durability.barriers.get_mut(&slot) else { return };
        if *state != BarrierState::Syncing {
            return;
        }
        let (scope, end) = (scope.clone(), *end);
        *state = BarrierState::Recording;
        self.durability.settle(slot, &scope);
        match end {
            None => self.answer_barrier(slot),
            Some(generation) => {
                let told = self.session.as_ref().and_then(|session| session.told);
                let lineage = told.map(|told| told.account.lineage);
                let wanted = &mut self.record.wanted;
                match lineage.filter(|lineage| lineage.current.number == generation) {
                    Some(lineage) => wanted.lineage.adopt(&lineage),
                    // A primary of an older version says no more.
                    None => wanted.lineage = Lineage::untagged(generation),
                }
                wanted.data = DataState::UpToDate;
                (wanted.alone, wanted.crashed, wanted.lost) = (false, false, false);
                wanted.keeping = GenerationId::NONE;
            }
        }
    }
}
