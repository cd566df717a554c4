//! The namespace: operations in the order in which they happened, and directories that are listed because no operation
//! tells what changed.
//!
//! An operation is sent only if the peer knows all it is about from the lists and operations before it. Any other is dropped, and
//! what it changed is found by listing: a directory not yet listed will be, one that was is listed again.
//!
//! A file that has a name and is not known has it in directories that are to be listed, all of them: so it will be known, and
//! compared then. That holds between two sessions, too, as long as the second may go on where the first one ended.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::action::{Action, Body, Notice};
use crate::checkpoint::PrimaryCheckpoint;
use crate::event::{NamespaceChange, ReadOutcome};
use crate::file_set::FileSet;
use crate::ids::{EntryId, Errno, FileId, FileKind, ReadId, Sequence, Time};
use crate::wire::header::Kind;

use super::capture::Logged;
use super::fresh::FreshFiles;
use super::resync::Resync;
use super::verify::Touch;
use super::{Primary, RETRY};

/// Most directories that are listed at once.
const LISTINGS_MAX: usize = 4;

/// A directory whose list is wanted.
#[derive(Debug)]
pub(super) struct Listing {
    /// When it was marked, in the count of such marks.
    number: u64,
    read: Option<ReadId>,
    /// A part of the list that is being read was sent.
    begun: bool,
    /// Marked again while it is being read: the list may be older than the mark.
    again: Option<u64>,
    /// What was known of everything in it is not to be relied on.
    deep: bool,
}

/// A list of which some parts were sent, or all and that is not answered.
#[derive(Debug)]
pub(super) struct SentList {
    pub directory: FileId,
    /// The directory was not listed before.
    pub first: bool,
    pub children: Vec<Listed>,
}

/// A child in a list that the peer has not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub directory: FileId,
    pub file: FileId,
    pub kind: FileKind,
    /// Known from an earlier list or operation, and not to be compared because of this one.
    pub kept: bool,
    /// Not known before.
    pub new: bool,
    /// The peer said that it made it anew.
    pub made: bool,
}

/// What the peer knows of the tree.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Files of any kind that have a name there.
    pub known: FileSet,
    /// Known files that a read found gone. How their names went is told by operations that may yet be in the log, and the peer
    /// has them until then: those operations are sent as if the file was known. Nothing else about it is.
    departed: BTreeSet<FileId>,
    /// Directories whose list was sent completely, or that were made empty.
    pub scanned: FileSet,
    /// Directories reported as changed before the operation that made them: capture has more than one source. Kept though a
    /// file with the number, of any kind, is known or forgotten meanwhile: that may be the one before.
    changed: BTreeSet<FileId>,
    listings: BTreeMap<FileId, Listing>,
    /// Marked directories that are not being read, in the order of their marks.
    queue: VecDeque<FileId>,
    /// Those whose reading failed, until when they rest.
    resting: BTreeSet<(Time, FileId)>,
    reading: usize,
    marks: u64,
    /// How many directories were marked because of other directories' lists.
    found_marks: u64,
    /// The peer may have lost files that are known here: a directory was listed once more, and the list did not repeat their
    /// names; or they live on under names that are never told. An operation that names them again has it make them anew, empty.
    may_lack: bool,
    open: Option<SentList>,
    /// Lists that the peer has not answered yet, by the position of their last part.
    pub unanswered: BTreeMap<Sequence, SentList>,
    pub fresh: FreshFiles,
    pub found: u64,
    /// Files of which the peer may have other names than was told last, if somebody wants to be told.
    pub news: Option<BTreeSet<FileId>>,
    /// Names in lists.
    pub seen: u64,
}

impl Names {
    pub fn new(partial: bool) -> Names {
        Names { may_lack: partial, ..Names::default() }
    }

    /// What an earlier run knew of a peer that has not forgotten it.
    pub fn restored(checkpoint: &PrimaryCheckpoint) -> Names {
        let mut names = Names::new(checkpoint.may_lack);
        names.known = checkpoint.known.iter().copied().collect();
        names.scanned = checkpoint.scanned.iter().copied().collect();
        names.changed = checkpoint.changed.iter().copied().collect();
        checkpoint.marked.iter().for_each(|&(directory, deep)| names.mark(directory, deep));
        names.found_marks = 0;
        names
    }

    /// The marked directories in the order of their marks, and whether what was known of everything in them is not to be relied on.
    pub fn marked(&self) -> Vec<(FileId, bool)> {
        let mut marked: Vec<_> = self.listings.iter().collect();
        marked.sort_unstable_by_key(|(_, listing)| listing.number);
        marked.into_iter().map(|(directory, listing)| (*directory, listing.deep)).collect()
    }

    /// Directories that are to be marked as soon as they are known.
    pub fn changed(&self) -> impl Iterator<Item = FileId> {
        self.changed.iter().copied()
    }

    /// Whether the peer may have lost files that are known here.
    pub fn may_lack(&self) -> bool {
        self.may_lack
    }

    /// The number of the last mark of a directory.
    pub fn last_mark(&self) -> u64 {
        self.marks
    }

    /// Whether every directory marked up to that number was listed.
    pub fn listed_up_to(&self, mark: u64) -> bool {
        self.listings.values().all(|listing| listing.number > mark)
    }

    /// Whether everything marked was listed and answered.
    pub fn is_complete(&self) -> bool {
        self.listings.is_empty() && self.unanswered.is_empty() && self.open.is_none()
    }

    /// Whether the directory is to be listed.
    pub fn is_marked(&self, directory: FileId) -> bool {
        self.listings.contains_key(&directory)
    }

    /// Whether a list is wanted that is not being read.
    pub fn awaits_listing(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn directories_left(&self) -> usize {
        self.listings.len()
    }

    pub fn retry_at(&self) -> Option<Time> {
        self.resting.first().map(|(at, _)| *at)
    }

    /// Changes whenever a list leads to more lists than the marks before said.
    pub fn found_marks(&self) -> u64 {
        self.found_marks
    }

    fn mark(&mut self, directory: FileId, deep: bool) {
        self.may_lack |= deep || self.scanned.contains(&directory);
        self.marks += 1;
        self.found_marks += u64::from(deep);
        let number = self.marks;
        if let Some(listing) = self.listings.get_mut(&directory) {
            listing.deep |= deep;
            if listing.read.is_some() {
                listing.again = Some(number);
            }
        } else {
            let listing = Listing { number, read: None, begun: false, again: None, deep };
            self.listings.insert(directory, listing);
            self.queue.push_back(directory);
        }
    }

    /// As [`Names::mark`], because of an operation that is not sent. Lists stand among the operations in the order in which both happened, so a list
    /// that is being read and of which no part came yet has what the operation did: else a directory in which names change all the time were
    /// listed for ever.
    fn mark_for_operation(&mut self, directory: FileId) {
        if self.listings.get(&directory).is_some_and(|listing| listing.read.is_some() && !listing.begun) {
            self.may_lack |= self.scanned.contains(&directory);
        } else {
            self.mark(directory, false);
        }
    }

    /// The connection is gone. What was being listed is to be listed; what a read found gone has no names any more, or gets them
    /// from the lists of directories that are marked. Returns the lists whose effect on the peer is not known, with the position of
    /// the last part of those that are complete.
    pub fn on_session_lost(&mut self) -> Vec<(Option<Sequence>, SentList)> {
        for file in core::mem::take(&mut self.departed) {
            self.forget(file);
        }
        self.fresh = FreshFiles::default();
        self.resting.clear();
        (self.reading, self.found, self.seen) = (0, 0, 0);
        for listing in self.listings.values_mut() {
            listing.read = None;
            listing.number = listing.again.take().unwrap_or(listing.number);
        }
        self.queue = self.marked().into_iter().map(|(directory, _)| directory).collect();
        let complete = core::mem::take(&mut self.unanswered).into_iter();
        complete
            .map(|(last, list)| (Some(last), list))
            .chain(self.open.take().map(|list| (None, list)))
            .collect()
    }

    /// The list of the directory did not reach the peer, or may not have.
    pub fn list_again(&mut self, list: &SentList) {
        if !self.known.contains(&list.directory) {
            return;
        }
        if list.first {
            self.scanned.remove(&list.directory);
            self.note(list.directory);
        }
        self.mark(list.directory, false);
    }

    /// A list that is being read is to be read once more instead.
    pub fn begin_again(&mut self, directory: FileId) {
        if let Some(listing) = self.listings.get_mut(&directory)
            && listing.read.take().is_some()
        {
            self.queue.push_back(directory);
        }
    }

    /// A read found the file gone: nothing about it is to be sent but the operations that took its names.
    fn depart(&mut self, file: FileId) {
        if self.known.remove(&file) {
            self.departed.insert(file);
            self.note(file);
        }
        self.forget_listing(file);
        self.fresh.forget(file);
    }

    /// The file has no name at the peer any more, or none that can be relied on.
    fn forget(&mut self, file: FileId) {
        let had_names = self.known.remove(&file) | self.departed.remove(&file) | self.scanned.remove(&file);
        if had_names {
            self.note(file);
        }
        self.forget_listing(file);
        self.fresh.forget(file);
    }

    /// The directory is not to be listed any more, but the mark may have been meant for the next one with the number.
    fn forget_listing(&mut self, directory: FileId) {
        if self.listings.remove(&directory).is_some() {
            self.changed.insert(directory);
        }
    }

    /// What the peer has of the file's names changes.
    fn note(&mut self, file: FileId) {
        if let Some(news) = &mut self.news {
            news.insert(file);
        }
    }

    /// Directories that are to be listed.
    pub fn marked_directories(&self) -> impl Iterator<Item = FileId> + '_ {
        self.listings.keys().copied()
    }

    /// Whether the file is a known directory.
    fn is_directory(&self, file: FileId) -> bool {
        self.scanned.contains(&file) || self.listings.contains_key(&file)
    }
}

impl Primary {
    pub(super) fn is_known(&self, file: FileId) -> bool {
        self.names.known.contains(&file)
    }

    /// The directory is to be listed (again). Where the next session lists all, nothing is to be remembered.
    pub(super) fn mark_directory(&mut self, directory: FileId, deep: bool) {
        if !self.remembers_names() {
            return;
        }
        let names = &mut self.names;
        // What is known under the number, if it is no directory, is the file before this directory or behind it.
        if names.known.contains(&directory) && names.is_directory(directory) {
            names.mark(directory, deep);
        } else {
            names.changed.insert(directory);
        }
    }

    /// The same because of an operation that is not sent.
    fn list_for_operation(&mut self, directory: FileId) {
        if self.is_known(directory) && self.is_directory(directory) {
            self.names.mark_for_operation(directory);
        } else {
            self.mark_directory(directory, false);
        }
    }

    /// The root of a volume is known from the beginning, and listed first.
    pub(super) fn begin_at_root(&mut self, root: FileId) {
        self.become_known(root);
        self.names.mark(root, false);
        self.on_attributes_changed(root);
    }

    /// Send what was logged. Comes before anything else that an event leads to, so that the stream has the order in
    /// which things happened.
    pub(super) fn flush_log(&mut self) {
        while let Some(logged) = self.log.pop_front() {
            match logged {
                Logged::Changed(directory) => self.mark_directory(directory, false),
                Logged::Forgotten(file) => self.forget_nameless(file),
                Logged::Entry(entry, NamespaceChange::Listed { directory, first, last, children }) => {
                    self.flush_list(entry, directory, first, last, &children);
                }
                Logged::Entry(entry, change) => self.flush_change(entry, &change),
            }
        }
    }

    fn flush_change(&mut self, entry: EntryId, change: &NamespaceChange) {
        self.mark_change(change);
        if self.can_follow(change) {
            let sent = self.send_frame(Kind::Namespace, |_| {}, Body::Entry { entry });
            let new = self.follow(change);
            self.doubt(sent, change, new);
        } else {
            self.out.push(Action::DropEntry { entry });
            self.list_instead(change);
        }
    }

    /// Whether the peer knows all that the operation is about.
    fn can_follow(&self, change: &NamespaceChange) -> bool {
        if self.session.is_none() {
            return false;
        }
        let names = &self.names;
        let scanned = |directory| names.scanned.contains(directory);
        // What is in a directory that is to be listed again, the peer may not know.
        let settled = |directory| scanned(directory) && !names.listings.contains_key(directory);
        let known = |file| names.known.contains(file) || names.departed.contains(file);
        match change {
            NamespaceChange::Created { parent, .. }
            | NamespaceChange::Linked { parent, .. }
            | NamespaceChange::Unlinked { parent, .. } => scanned(parent),
            NamespaceChange::Renamed { old_parent, new_parent, file, other, exchanged, .. } => {
                settled(old_parent)
                    && settled(new_parent)
                    && known(file)
                    && (!exchanged || other.as_ref().is_some_and(known))
            }
            NamespaceChange::Listed { .. } => false,
        }
    }

    /// The operation was sent: the peer knows what it says. Returns whether it is what made the file known that it names.
    fn follow(&mut self, change: &NamespaceChange) -> bool {
        let Some(queued) = self.session.as_ref().map(|session| session.positions.queued) else {
            return false;
        };
        match *change {
            NamespaceChange::Created { file, kind, .. } => {
                self.names.forget(file);
                let changed = self.names.changed.remove(&file);
                if kind == FileKind::Directory {
                    self.names.scanned.insert(file);
                    self.names.note(file);
                    if changed {
                        self.names.mark(file, false);
                    }
                }
                self.become_known(file);
                true
            }
            NamespaceChange::Linked { parent, file, kind } => {
                self.lose_former_directory(file, kind);
                let known = self.is_known(file);
                if kind == FileKind::Regular && (!known || self.names.may_lack) {
                    self.names.fresh.begin(file, parent, queued);
                } else {
                    self.names.fresh.name(file, parent);
                }
                self.become_known(file);
                !known
            }
            NamespaceChange::Unlinked { file, last, .. } => {
                self.forget_name(file, last);
                false
            }
            NamespaceChange::Renamed { old_parent, new_parent, file, other, other_last, exchanged } => {
                self.names.fresh.name(file, new_parent);
                if let Some(other) = other {
                    self.names.fresh.name(other, old_parent);
                    self.forget_name(other, other_last && !exchanged);
                }
                false
            }
            NamespaceChange::Listed { .. } => false,
        }
    }

    /// The operation was not sent: directories that were listed before are listed again.
    fn list_instead(&mut self, change: &NamespaceChange) {
        self.lose_names(change);
        if matches!(change, NamespaceChange::Renamed { .. }) {
            change.directories().for_each(|directory| self.list_for_operation(directory));
            // The lists may take the files away before they bring them back, and say so in their answers.
            self.restart_waiters();
        }
    }

    /// Of what an operation that is not sent was about, the peer knows some no more.
    pub(super) fn lose_names(&mut self, change: &NamespaceChange) {
        match *change {
            // Whatever the peer knows under this number is another file.
            NamespaceChange::Created { file, .. } => self.lose_name(file),
            NamespaceChange::Unlinked { file, last, .. } => self.forget_name(file, last),
            NamespaceChange::Renamed { other: Some(other), other_last, exchanged, .. } => {
                self.forget_name(other, other_last && !exchanged);
            }
            NamespaceChange::Linked { .. }
            | NamespaceChange::Renamed { other: None, .. }
            | NamespaceChange::Listed { .. } => {}
        }
    }

    /// A file of another kind got a name: a directory that is known under its number is another file.
    pub(super) fn lose_former_directory(&mut self, file: FileId, kind: FileKind) {
        if kind != FileKind::Directory && self.is_directory(file) {
            self.lose_name(file);
        }
    }

    /// A read found the file gone.
    pub(super) fn depart(&mut self, file: FileId) {
        self.touch(file, Touch::All);
        self.names.depart(file);
        self.marks.unlist(file);
        if let Some(session) = &mut self.session {
            session.compare_files.remove(&file);
        }
        self.unpace(file);
    }

    /// What the peer has under this number is another file, or will be.
    pub(super) fn lose_name(&mut self, file: FileId) {
        self.touch(file, Touch::All);
        self.names.forget(file);
        self.marks.unlist(file);
        if let Some(session) = &mut self.session {
            session.compare_files.remove(&file);
            self.note_nameless(file);
        }
        self.unpace(file);
    }

    /// Whether the file is a directory, as far as was told.
    pub(super) fn is_directory(&self, file: FileId) -> bool {
        self.names.is_directory(file)
    }

    pub(super) fn forget_name(&mut self, file: FileId, last: bool) {
        if last {
            self.lose_name(file);
            self.drop_waits(file);
        }
    }

    /// The peer has the file: its marks can be sent.
    pub(super) fn become_known(&mut self, file: FileId) {
        if self.session.is_none() || !self.names.known.insert(file) {
            return;
        }
        self.names.departed.remove(&file);
        self.names.note(file);
        self.names.found += 1;
        self.queue_known(file);
    }

    /// Put the marks of a file that the peer has into the queues they belong to.
    pub(super) fn queue_known(&mut self, file: FileId) {
        let Some(marks) = self.marks.get(file) else { return };
        if marks.needs_sync() {
            self.queues.mapped.insert((self.now, file));
        }
        self.settle(file);
        self.queue_compare(file);
    }

    fn flush_list(
        &mut self,
        entry: EntryId,
        directory: FileId,
        first: bool,
        last: bool,
        children: &[(FileId, FileKind)],
    ) {
        if first {
            let known = self.names.known.contains(&directory);
            let is_first = !self.names.scanned.contains(&directory);
            if let Some(listing) = self.names.listings.get_mut(&directory) {
                listing.begun = true;
            }
            self.names.open = known.then(|| SentList { directory, first: is_first, children: Vec::new() });
        }
        // Parts of a list that began in a former session, or whose directory is gone, are worth nothing.
        if self.session.is_none() || self.names.open.as_ref().is_none_or(|open| open.directory != directory) {
            self.out.push(Action::DropEntry { entry });
            return;
        }
        // In a directory's first list the peer takes files it has for those of the list: nothing told before is to be relied
        // on, though a child may have been seen elsewhere.
        let deep = !self.names.scanned.contains(&directory)
            || self.names.listings.get(&directory).is_some_and(|listing| listing.deep);
        let Some(sequence) = self.send_frame(Kind::Namespace, |_| {}, Body::Entry { entry }) else { return };
        self.names.seen += children.len() as u64;
        for &(file, kind) in children {
            self.see(file, kind, deep);
        }
        self.pacing.spend_operations(children.len() as u64);
        if last {
            if let Some(open) = self.names.open.take() {
                self.names.unanswered.insert(sequence, open);
            }
            // Marked again while it was read for the first time, it was not known then that this would be another list.
            self.names.may_lack |= !self.names.scanned.insert(directory);
            self.names.note(directory);
            self.mark_change(&NamespaceChange::Listed { directory, first, last, children: Vec::new() });
        }
    }

    /// A name in a list that was sent.
    fn see(&mut self, file: FileId, kind: FileKind, deep: bool) {
        let Some(session) = &self.session else { return };
        let (queued, scanning) = (session.positions.queued, session.resync == Resync::Scanning);
        let names = &mut self.names;
        if names.departed.contains(&file) {
            // The number was given to a new file.
            names.forget(file);
        }
        let known = names.known.contains(&file);
        // A number that belongs to a file of another kind than before belongs to another file.
        let was_directory = names.is_directory(file);
        let kept = known && !deep && was_directory == (kind == FileKind::Directory);
        let Some(open) = &mut names.open else { return };
        let directory = open.directory;
        open.children.push(Listed { directory, file, kind, kept, new: !known, made: false });
        if kept && kind == FileKind::Regular {
            names.fresh.doubt(file, directory, queued);
        } else {
            names.fresh.name(file, directory);
        }
        // Also of one that is not known: a read of a former file with its number may be under way.
        self.read_again(file);
        if kept {
            return;
        }
        if known && was_directory && kind != FileKind::Directory {
            self.names.forget(file);
        }
        if kind != FileKind::Regular
            && let Some(marks) = self.marks.get_mut(file)
        {
            // Nothing but names and attributes can differ.
            marks.compare.clear();
            marks.compare_gated = false;
            marks.lost = false;
            marks.syncing.clear();
            self.compare_ended(file);
        }
        self.unbury(file, kind);
        match kind {
            FileKind::Directory => {
                self.become_known(file);
                self.names.changed.remove(&file);
                self.names.scanned.remove(&file);
                self.names.note(file);
                self.names.found_marks += 1;
                self.names.mark(file, known);
                self.on_attributes_changed(file);
            }
            FileKind::Regular => {
                if !scanning {
                    self.names.fresh.begin(file, directory, queued);
                }
                if scanning {
                    self.record_marks(file);
                }
                self.become_known(file);
                self.mark_compare(file, true);
            }
            _ => {
                self.become_known(file);
                self.on_attributes_changed(file);
            }
        }
        self.marks.note_listed(file);
    }

    /// Ask for the lists of marked directories, a few at a time, and none while what earlier ones brought is not dealt with: that
    /// bounds the memory for marks, but for those of one directory.
    pub(super) fn list_directories(&mut self) {
        let now = self.now;
        if self.session.is_none() {
            return;
        }
        let names = &mut self.names;
        while let Some(&(at, directory)) = names.resting.first() {
            if at > now {
                break;
            }
            names.resting.pop_first();
            names.queue.push_back(directory);
        }
        while names.reading < LISTINGS_MAX
            && self.marks.listed() < self.config.listed_files_max
            && !names.queue.is_empty()
            && self.pacing.may_start(now)
        {
            let Some(directory) = names.queue.pop_front() else { break };
            let Some(listing) = names.listings.get_mut(&directory).filter(|listing| listing.read.is_none())
            else {
                continue;
            };
            self.numbers.read = self.numbers.read.next();
            let read = self.numbers.read;
            (listing.read, listing.begun) = (Some(read), false);
            names.reading += 1;
            self.reads.insert(read, Some(directory));
            self.lists_ordered += 1;
            self.out.push(Action::ReadDirectory { read, directory });
        }
    }

    pub(super) fn on_directory_read(&mut self, read: ReadId, outcome: ReadOutcome<()>) {
        let Some(ordered) = self.reads.remove(&read) else { return };
        self.lists_ordered -= 1;
        let Some(directory) = ordered.filter(|_| self.session.is_some()) else { return };
        let names = &mut self.names;
        names.reading -= 1;
        let Some(listing) = names.listings.get_mut(&directory).filter(|l| l.read == Some(read)) else {
            return;
        };
        listing.read = None;
        match outcome {
            // A list that did not come, or did not come whole, is asked for again.
            ReadOutcome::Read(()) if !names.scanned.contains(&directory) => {
                names.resting.insert((self.now.after(RETRY), directory));
            }
            ReadOutcome::Read(()) => {
                if let Some(number) = listing.again.take() {
                    listing.number = number;
                    names.queue.push_back(directory);
                } else {
                    names.listings.remove(&directory);
                }
            }
            ReadOutcome::Gone => {
                self.depart(directory);
                self.drop_waits(directory);
            }
            ReadOutcome::Failed(errno) => {
                names.resting.insert((self.now.after(RETRY), directory));
                self.report(Notice::ReadFailed { file: directory, errno });
                self.counters.reads_failed += 1;
                self.fail_waiting_for_names(errno);
            }
        }
    }

    fn fail_waiting_for_names(&mut self, errno: Errno) {
        for waiter in self.waiters.values_mut() {
            waiter.fail_names(errno);
        }
        self.review = true;
    }
}
