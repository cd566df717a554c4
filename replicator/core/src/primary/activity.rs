//! What of this node's knowledge outlives a crash ([`crate::activity`]): a base now and then, and for each file the word that it is settled.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::action::Phase;
use crate::activity::{Activity, Named, PARTS_MAX};
use crate::dirty::FileMarks;
use crate::extent::{Extent, ExtentSet};
use crate::ids::FileId;
use crate::resume::StreamId;

use super::Primary;

/// What is in doubt of a file that nobody writes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubtful {
    /// Bytes, at most [`PARTS_MAX`] extents.
    pub dirty: Vec<Extent>,
    /// Attributes.
    pub attributes: bool,
}

impl Primary {
    /// What the peer has now, and what is in doubt of it. From now on changes of the former are collected for
    /// [`Primary::take_news`]. `None`: not now; everything that is told behind this node's back would have to be looked at first.
    pub fn activity(&mut self) -> Option<Activity> {
        let session = self.session.as_ref()?;
        let stream = session.stream.filter(|_| !self.untold && self.at_peace())?;
        self.names.news = Some(BTreeSet::new());
        let names = &self.names;
        let doubtful = self.marks.files.keys().copied();
        let changed = names.changed().collect();
        Some(Activity::new(stream, names.known.clone(), names.scanned.clone(), changed, doubtful))
    }

    /// Go on from what a run knew that crashed. Comes before anything else is told.
    pub fn restore_activity(&mut self, activity: &Activity) {
        let Some(checkpoint) = activity.checkpoint() else { return };
        if self.config.incarnation.is_none() {
            return;
        }
        self.restore(checkpoint);
        self.former = activity.streams().to_vec();
        self.names.news = Some(BTreeSet::new());
    }

    /// The stream of the present session, if it may be gone on from.
    pub fn stream(&self) -> Option<StreamId> {
        self.session.as_ref()?.stream
    }

    /// Whether callers wait for the peer.
    pub fn is_mirrored(&self) -> bool {
        self.phase == Phase::Mirrored
    }

    /// Whether what the peer has is known, and nothing is expected that would change it: both nodes mirror and all directories are listed, or
    /// there is no session and the next one may go on from the last.
    pub fn at_peace(&self) -> bool {
        self.log.is_empty()
            && match &self.session {
                Some(_) => self.phase == Phase::Mirrored && self.names.is_complete(),
                None => self.last.is_ok(),
            }
    }

    /// Whether the peer has answered all lists that were sent, or what they may have done to its copy is marked: nothing that
    /// [`Primary::marked_files`] does not name follows from them any more. A list that was ordered may yet be sent, also where its directory was
    /// listed by a later order, or in a session that is over.
    pub fn is_answered(&self) -> bool {
        let remembers = self.session.is_some() || self.last.is_ok();
        self.log.is_empty() && self.lists_ordered == 0 && self.names.is_complete() && remembers
    }

    /// What the peer has of the names of files that changed in this since the last call; empty where nobody collects it.
    pub fn take_news(&mut self) -> Vec<(FileId, Named)> {
        let Some(news) = &mut self.names.news else { return Vec::new() };
        let news = core::mem::take(news);
        news.into_iter().map(|file| (file, self.named(file))).collect()
    }

    fn named(&self, file: FileId) -> Named {
        Named { known: self.names.known.contains(&file), scanned: self.names.scanned.contains(&file) }
    }

    /// Files with marks of any kind.
    pub fn marked_files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.marks.files.keys().copied().chain(self.names.marked_directories())
    }

    /// What the peer has of the file's names, if it holds all there is to the file, durably. What was told just now counts only once the core was told
    /// of something else after it.
    pub fn settled(&self, file: FileId) -> Option<Named> {
        let named = self.named(file);
        // Without a session, a file that is not known may be one that the peer is yet to see.
        let settled = self.at_peace() && !self.is_marked(file) && (named.known || self.session.is_some());
        settled.then_some(named)
    }

    /// What is in doubt of a known file, if that is bytes and attributes alone, while nobody is connected who would change it.
    pub fn doubtful(&self, file: FileId) -> Option<Doubtful> {
        let marks = self.marks.get(file)?;
        let named = self.named(file);
        let in_parts = |marks: &FileMarks| {
            marks.mapped.is_empty()
                && marks.syncing.is_empty()
                && marks.tail.is_empty()
                && !marks.has_compare()
        };
        if self.session.is_some() || !self.at_peace() || !named.known || named.scanned || !in_parts(marks) {
            return None;
        }
        let mut dirty: ExtentSet = marks.dirty.clone();
        if dirty.count() > PARTS_MAX {
            dirty.widen(PARTS_MAX);
        }
        let dirty: Vec<Extent> = dirty.iter().collect();
        (dirty.len() <= PARTS_MAX).then_some(Doubtful { dirty, attributes: marks.attributes })
    }
}
