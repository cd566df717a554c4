//! What the peer has applied and not confirmed as durable, of all that leaves no mark: if the peer crashes, it may have it or not
//! ([`crate::recovery`]).
//!
//! Bytes and attributes keep their marks until they are confirmed. A comparison that found nothing leaves none; but what the peer has and did not get
//! from this run was made durable once ([`Passing::whole`]), and what it got since is marked.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::action::DurableScope;
use crate::event::NamespaceChange;
use crate::ids::{FileId, Generation, Sequence};
use crate::recovery::Recovered;
use crate::resume::{Held, StreamId};
use crate::wire::body::Holding;
use crate::wire::header::VERSION_RECOVERS;

use super::Primary;
use super::names::SentList;

/// A peer may have any of so many streams on record; of one before these it has none.
const STREAMS_MAX: usize = 1024;
/// When more is remembered, the peer is to make everything durable now.
const PASSING_MAX: usize = 65_536;

/// One thing that the peer may have or not.
#[derive(Debug)]
enum Past {
    /// A namespace operation. `new`: without it, the peer does not know the file.
    Change { change: NamespaceChange, new: bool },
    /// A list of a directory.
    List(SentList),
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Passing {
    /// With the position of the frame that brought it; `None`: in an earlier session, so that every barrier comes behind it.
    past: VecDeque<(Option<Sequence>, Past)>,
    /// The peer may have any of these on record.
    streams: Vec<StreamId>,
    /// All that is not durable is here: since this run began, or everything was to be compared, the peer made everything durable once.
    whole: bool,
}

impl Passing {
    /// Nothing of the past is to be gone on from.
    pub fn forget(&mut self) {
        *self = Passing::default();
    }

    /// A stream begins. `goes_on`: what was known of the peer holds.
    pub fn begin(&mut self, stream: Option<StreamId>, goes_on: bool) {
        if !goes_on {
            self.forget();
        }
        self.streams.extend(stream);
        let surplus = self.streams.len().saturating_sub(STREAMS_MAX);
        self.streams.drain(..surplus);
    }

    /// The session has ended.
    pub fn end(&mut self) {
        self.past.iter_mut().for_each(|(sequence, _)| *sequence = None);
    }

    pub fn change(&mut self, sequence: Option<Sequence>, change: NamespaceChange, new: bool) {
        self.past.push_back((sequence, Past::Change { change, new }));
    }

    pub fn list(&mut self, sequence: Option<Sequence>, list: SentList) {
        self.past.push_back((sequence, Past::List(list)));
    }

    pub fn is_empty(&self) -> bool {
        self.past.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.past.len() > PASSING_MAX
    }

    /// A barrier is answered in that stream. Every one covers all names before it.
    pub fn confirm(&mut self, barrier: Sequence, scope: &DurableScope, stream: Option<StreamId>) {
        self.past.retain(|(sequence, _)| sequence.is_some_and(|at| at > barrier));
        self.whole |= *scope == DurableScope::Everything;
        self.streams.retain(|former| Some(*former) == stream);
    }
}

impl Past {
    /// The files that are somewhere else, or not there, without this.
    fn subjects(&self) -> Vec<FileId> {
        match self {
            Past::Change { change, .. } => match *change {
                NamespaceChange::Created { file, .. }
                | NamespaceChange::Linked { file, .. }
                | NamespaceChange::Unlinked { file, .. } => [file].into(),
                NamespaceChange::Renamed { file, other, .. } => [file].into_iter().chain(other).collect(),
                NamespaceChange::Listed { .. } => Vec::new(),
            },
            Past::List(list) => list.children.iter().map(|child| child.file).collect(),
        }
    }
}

impl Primary {
    /// What the peer says of its copy, which crashed.
    pub(super) fn on_recovered(&mut self, body: &[u8]) {
        let what = "what a secondary has on record that crashed";
        self.take_word(VERSION_RECOVERS, Recovered::decode(body), |greeting| &mut greeting.recovered, what);
    }

    /// Whether the peer, which crashed, has what was confirmed to it, and what it does not have is marked then.
    pub(super) fn recovers(
        &mut self,
        recovered: Option<&Recovered>,
        generation: Generation,
        holding: Holding,
    ) -> bool {
        let Some(Recovered { stream, odd }) = recovered else { return false };
        let held = Held { stream: *stream, received: Sequence(0) };
        // Whatever was not confirmed when this node crashed, too, is in doubt by its record ([`crate::activity`]).
        let crashed = self.former.contains(stream);
        let follows = crashed || self.passing.whole && self.passing.streams.contains(stream);
        if !follows || holding.held != Some(held) || holding.generation > generation {
            return false;
        }
        let subjects = self.take_past_back();
        // What is not where it should be is looked for by the lists that follow from what is taken back, or by none.
        let is_listed = |file: &FileId| {
            !self.is_known(*file)
                || self.names.is_marked(*file)
                || subjects.contains(file)
                || crashed && self.marks.get(*file).is_some()
        };
        odd.iter().all(is_listed)
    }

    /// The peer may not have the list any more. What it found that was there before is as it was, but perhaps for its name: if it has none then, the peer
    /// makes it anew for the next list, and says so.
    fn take_answered_list_back(&mut self, list: &SentList) {
        for child in list.children.iter().filter(|child| child.new) {
            self.lose_name(child.file);
        }
        self.names.list_again(list);
    }

    /// All that may have reached the peer's disk, or not. Returns the files whose names may be others for it.
    fn take_past_back(&mut self) -> BTreeSet<FileId> {
        let mut subjects = BTreeSet::new();
        for (_, past) in core::mem::take(&mut self.passing.past) {
            subjects.extend(past.subjects());
            match past {
                Past::Change { change, new } => self.take_back(&change, new),
                Past::List(list) => self.take_answered_list_back(&list),
            }
        }
        subjects
    }
}
