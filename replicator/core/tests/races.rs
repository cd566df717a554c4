//! Orders of events in which names change behind the gate's back, numbers are used again, or an answer comes late: each by
//! itself, driven against a primary. The model test finds such orders by chance.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use replicator_core::action::{Action, Body, DurableScope, Phase};
use replicator_core::config::{PrimaryConfig, VolumeRoot};
use replicator_core::event::{
    Event, NamespaceChange, ReadOutcome, ReceivedBody, Segment, SegmentContent, SyncScope,
};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, Errno, FileId, FileKind, LocalSyncId, Sequence, SessionId, Term, Ticket, Time, VolumeId,
};
use replicator_core::node::Node;
use replicator_core::wire::body::{decode_barrier, encode_extents, encode_files};
use replicator_core::wire::header::{Header, Kind};

const SESSION: SessionId = SessionId(1);
const ROOT: u64 = 1;

fn id(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

/// A primary, with its directories as they are listed and a peer that answers. All regular files are empty.
struct Driven {
    node: Node,
    now: Time,
    session: SessionId,
    actions: Vec<Action>,
    /// Orders that are not answered.
    held: Vec<Action>,
    entries: u64,
    lists: BTreeMap<FileId, Vec<(FileId, FileKind)>>,
    /// Files that the peer makes anew when it gets the next list that names them.
    lacking: BTreeSet<FileId>,
    /// The names in the lists on their way.
    listed: BTreeMap<EntryId, Vec<FileId>>,
}

impl Driven {
    fn opened() -> Driven {
        Driven::opened_with(PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root: id(ROOT) }]))
    }

    fn opened_with(config: PrimaryConfig) -> Driven {
        let now = Time(1_000_000_000);
        let mut driven = Driven {
            node: Node::primary(config, record::alone(), now),
            now,
            session: SESSION,
            actions: Vec::new(),
            held: Vec::new(),
            entries: 0,
            lists: BTreeMap::new(),
            lacking: BTreeSet::new(),
            listed: BTreeMap::new(),
        };
        driven.tell(Event::Tick);
        driven.tell(Event::SessionOpened { session: SESSION, version: 1 });
        driven
    }

    fn mirrored() -> Driven {
        let mut driven = Driven::opened();
        driven.run(|_| false);
        assert_eq!(driven.node.snapshot().phase, Phase::Mirrored);
        driven
    }

    fn tell(&mut self, event: Event) {
        self.node.handle(self.now, event, &mut self.actions);
    }

    fn log(&mut self, change: NamespaceChange) -> EntryId {
        self.entries += 1;
        let entry = EntryId(self.entries);
        self.tell(Event::NamespaceLogged { entry, change });
        entry
    }

    fn create(&mut self, file: u64, kind: FileKind) {
        self.log(NamespaceChange::Created { parent: id(ROOT), file: id(file), kind });
    }

    fn unlink(&mut self, file: u64) {
        self.log(NamespaceChange::Unlinked { parent: id(ROOT), file: id(file), last: true });
    }

    fn change(&mut self, directory: u64) {
        self.tell(Event::DirectoryChanged { directory: id(directory) });
    }

    fn request_sync(&mut self, file: u64) {
        let scope = SyncScope::File { file: id(file), data_only: false };
        self.tell(Event::SyncRequested { ticket: Ticket(1), scope });
    }

    /// Two seconds in which everything is answered but what is to be held.
    fn run(&mut self, holds: impl Fn(&Action) -> bool) {
        self.run_for(Duration::from_secs(2), holds);
    }

    fn run_for(&mut self, time: Duration, holds: impl Fn(&Action) -> bool) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(10));
            self.reply(Kind::KeepAlive, Sequence(0), Vec::new());
            for action in mem::take(&mut self.actions) {
                if holds(&action) {
                    self.held.push(action);
                } else {
                    self.answer(action);
                }
            }
        }
    }

    /// Answer what is held, and hold nothing more.
    fn let_go(&mut self) {
        for action in mem::take(&mut self.held) {
            self.answer(action);
        }
        self.run(|_| false);
    }

    fn answer(&mut self, action: Action) {
        match action {
            Action::SyncLocal { sync, .. } => self.tell(Event::LocalSynced { sync, result: Ok(()) }),
            Action::PersistState { persist, .. } => {
                self.tell(Event::StatePersisted { persist, result: Ok(()) });
            }
            Action::ReadDirectory { read, directory } => {
                let children = self.lists.get(&directory).cloned().unwrap_or_default();
                let files = children.iter().map(|(file, _)| *file).collect();
                let entry =
                    self.log(NamespaceChange::Listed { directory, first: true, last: true, children });
                self.listed.insert(entry, files);
                self.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
            }
            Action::ReadAttributes { read, .. } => {
                self.tell(Event::AttributesRead { read, outcome: ReadOutcome::Read(0) });
            }
            Action::ReadExtent { read, .. } => {
                self.tell(Event::ExtentRead { read, outcome: ReadOutcome::Read(Vec::new()) });
            }
            Action::ReadDigests { read, .. } => {
                self.tell(Event::DigestsRead { read, outcome: ReadOutcome::Read(Extent::default()) });
            }
            Action::SendFrame { header, body, .. } => self.answer_frame(&header, &body),
            _ => {}
        }
    }

    /// As a secondary would.
    fn answer_frame(&mut self, header: &Header, body: &Body) {
        match (header.kind, body) {
            (Kind::Namespace, Body::Entry { entry }) => {
                if let Some(files) = self.listed.remove(entry) {
                    let made: Vec<FileId> =
                        files.into_iter().filter(|file| self.lacking.remove(file)).collect();
                    self.reply(Kind::CreatedReply, header.sequence, encode_files(&made));
                }
            }
            (Kind::Digests, _) => self.reply(Kind::DigestReply, header.sequence, encode_extents(&[])),
            (Kind::Barrier | Kind::ResyncEnd, _) => {
                self.reply(Kind::BarrierDone, header.sequence, Vec::new());
            }
            _ => {}
        }
    }

    fn reply(&mut self, kind: Kind, about: Sequence, body: Vec<u8>) {
        let mut header = Header::new(kind, Term(2));
        header.offset = about.0;
        let body = ReceivedBody::Structured(body);
        self.tell(Event::FrameReceived { session: self.session, header, body });
    }

    /// The local syncs that are held.
    fn held_syncs(&self) -> Vec<LocalSyncId> {
        let sync = |action: &Action| match action {
            Action::SyncLocal { sync, .. } => Some(*sync),
            _ => None,
        };
        self.held.iter().filter_map(sync).collect()
    }
}

/// The files that a caller's barrier is about. The core's own barriers are about everything.
fn barrier_files(action: &Action) -> Option<Vec<(FileId, bool)>> {
    match action {
        Action::SendFrame { header, body: Body::Structured(body), .. } if header.kind == Kind::Barrier => {
            match decode_barrier(body) {
                Ok(DurableScope::Files(files)) => Some(files),
                _ => None,
            }
        }
        _ => None,
    }
}

fn barriers(actions: &[Action]) -> Vec<Vec<(FileId, bool)>> {
    actions.iter().filter_map(barrier_files).collect()
}

fn is_barrier(action: &Action) -> bool {
    barrier_files(action).is_some()
}

fn lists(of: u64) -> impl Fn(&Action) -> bool {
    move |action| matches!(action, Action::ReadDirectory { directory, .. } if *directory == id(of))
}

/// A list on its way to the peer; the tests that hold those have no other namespace frames then.
fn is_list(action: &Action) -> bool {
    matches!(action, Action::SendFrame { header, .. } if header.kind == Kind::Namespace)
}

fn reads(of: u64) -> impl Fn(&Action) -> bool {
    move |action| match action {
        Action::ReadExtent { file, .. } | Action::ReadDigests { file, .. } => *file == id(of),
        _ => false,
    }
}

fn syncs(of: u64) -> impl Fn(&Action) -> bool {
    move |action| matches!(action, Action::SyncLocal { scope: SyncScope::File { file, .. }, .. } if *file == id(of))
}

/// A report about a directory that comes before those of the end of what had its number, and of its own creation.
fn a_directory_reported_early_is_listed(before: FileKind) {
    let mut driven = Driven::mirrored();
    driven.create(2, before);
    driven.run(|_| false);
    driven.change(2);
    driven.unlink(2);
    driven.create(2, FileKind::Directory);
    driven.run(lists(2));
    assert_eq!(driven.held.len(), 1, "no operation tells what is in it");
}

#[test]
fn a_directory_reported_before_the_file_with_its_number_is_gone_is_listed() {
    a_directory_reported_early_is_listed(FileKind::Regular);
}

#[test]
fn a_directory_reported_before_the_directory_with_its_number_is_gone_is_listed() {
    a_directory_reported_early_is_listed(FileKind::Directory);
}

#[test]
fn a_directory_reported_after_its_number_went_to_a_file_is_not_listed() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Directory);
    driven.run(|_| false);
    driven.create(2, FileKind::Regular);
    driven.change(2);
    driven.run(lists(2));
    // The answer would be that there is no such directory, and the file would be taken for gone.
    assert!(driven.held.is_empty());
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent::at(0, 4) });
    driven.run(reads(2));
    assert!(!driven.held.is_empty(), "the file is known");
}

/// Others removed it, and made another file that got its number, before the directory is listed again: the list would take the one for the other.
#[test]
fn a_number_that_others_gave_to_another_file_before_the_next_list_is_compared() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Regular)]);
    driven.run(|_| false);
    driven.tell(Event::FileForgotten { file: id(2) });
    driven.change(ROOT);
    let compares = |action: &Action| matches!(action, Action::ReadDigests { file, .. } if *file == id(2));
    driven.run(compares);
    assert!(driven.held.iter().any(compares), "{:?}", driven.node.snapshot());
}

/// A directory is gone, which one of two reads of it finds; a list names a new file with its number; then the other is answered.
#[test]
fn a_late_answer_about_a_former_file_is_not_about_the_one_that_a_list_named() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Directory);
    driven.run(|_| false);
    driven.tell(Event::AttributesChanged { file: id(2) });
    driven.change(2);
    let attributes =
        |action: &Action| matches!(action, Action::ReadAttributes { file, .. } if *file == id(2));
    driven.run(|action| attributes(action) || lists(2)(action));
    let held = mem::take(&mut driven.held);
    let list = held.iter().find_map(|action| match action {
        Action::ReadDirectory { read, .. } => Some(*read),
        _ => None,
    });
    let late = held.iter().find_map(|action| match action {
        Action::ReadAttributes { read, .. } => Some(*read),
        _ => None,
    });
    driven.tell(Event::DirectoryRead { read: list.unwrap(), outcome: ReadOutcome::Gone });
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Regular)]);
    driven.change(ROOT);
    driven.run(|_| false);
    driven.tell(Event::AttributesRead { read: late.unwrap(), outcome: ReadOutcome::Gone });
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent::at(0, 4) });
    driven.run(reads(2));
    assert!(driven.held.iter().any(reads(2)), "the file is known");
}

#[test]
fn stores_of_a_failed_local_sync_are_waited_for_by_the_caller_of_a_later_one() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Regular)]);
    driven.run(|_| false);
    driven.tell(Event::StoreMapped { file: id(2), extent: Extent::at(0, 4096) });
    driven.run(|action| matches!(action, Action::SyncLocal { .. }));
    assert_eq!(driven.held_syncs().len(), 1);
    // The caller waits for the list before its marks are taken.
    driven.change(ROOT);
    driven.request_sync(2);
    driven.run(|action| {
        matches!(action, Action::SyncLocal { .. }) || lists(ROOT)(action) || is_barrier(action)
    });
    let syncs = driven.held_syncs();
    driven.tell(Event::LocalSynced { sync: syncs[0], result: Err(Errno(5)) });
    driven.held.retain(|action| !matches!(action, Action::SyncLocal { .. }));
    for list in mem::take(&mut driven.held) {
        driven.answer(list);
    }
    driven.run(is_barrier);
    assert!(driven.held.is_empty(), "a barrier before the stores could be read");
    driven.tell(Event::LocalSynced { sync: syncs[1], result: Ok(()) });
    driven.run(reads(2));
    assert!(barriers(&driven.actions).is_empty());
    assert!(
        driven.held.iter().any(|action| {
            matches!(action, Action::ReadExtent { extent, .. } if extent.contains(Extent::at(0, 4096)))
        }),
        "the stores are read: {:?}",
        driven.held
    );
}

/// The caller's own sync is of the directory alone.
#[test]
fn stores_to_a_newly_named_file_are_waited_for_with_its_directory_until_the_sync_of_that_file_has_ended() {
    let mut driven = Driven::mirrored();
    driven.log(NamespaceChange::Linked { parent: id(ROOT), file: id(2), kind: FileKind::Regular });
    driven.tell(Event::StoreMapped { file: id(2), extent: Extent::at(0, 4096) });
    driven.run(syncs(2));
    assert_eq!(driven.held_syncs().len(), 1);
    driven.request_sync(ROOT);
    driven.run(|action| syncs(2)(action) || is_barrier(action));
    assert!(barriers(&driven.held).is_empty(), "a barrier before the stores could be read");
    for sync in mem::take(&mut driven.held) {
        driven.answer(sync);
    }
    driven.run(|action| reads(2)(action) || is_barrier(action));
    assert!(barriers(&driven.held).is_empty(), "a barrier before the stores were read");
    assert!(driven.held.iter().any(reads(2)));
    driven.let_go();
    assert_eq!(driven.node.snapshot().waiting, 0);
}

/// Until the caller that waits for the directory has its barrier, nothing is asked but what `content` says.
fn waits_for_content(driven: &mut Driven, directory: u64, content: u64) {
    driven.request_sync(directory);
    driven.run(|action| reads(content)(action) || is_barrier(action));
    assert!(barriers(&driven.held).is_empty(), "a barrier before the content was read");
    assert!(driven.held.iter().any(reads(content)));
    for read in mem::take(&mut driven.held) {
        driven.answer(read);
    }
    driven.run(is_barrier);
    let barriers = barriers(&driven.held);
    let covers = |files: &Vec<(FileId, bool)>| files.contains(&(id(content), false));
    assert!(barriers.first().is_some_and(covers), "the first barrier covers the content: {barriers:?}");
    driven.let_go();
    assert_eq!(driven.node.snapshot().waiting, 0);
}

#[test]
fn a_file_named_again_after_a_list_took_it_away_is_waited_for_with_its_directory() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    // Its only name is taken behind the gate's back, and the list says so to the peer. The number goes to an O_TMPFILE.
    driven.change(ROOT);
    driven.run(|_| false);
    driven.tell(Event::FileForgotten { file: id(2) });
    driven.log(NamespaceChange::Linked { parent: id(ROOT), file: id(2), kind: FileKind::Regular });
    waits_for_content(&mut driven, ROOT, 2);
}

#[test]
fn a_file_named_again_after_it_lived_on_under_a_name_left_out_is_waited_for_with_its_directory() {
    let roots = vec![VolumeRoot { volume: VolumeId(0), root: id(ROOT) }];
    let mut driven = Driven::opened_with(PrimaryConfig { partial: true, ..PrimaryConfig::new(roots) });
    driven.run(|_| false);
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    // The peer has no other name for it; the one that is left here is not told.
    driven.log(NamespaceChange::Unlinked { parent: id(ROOT), file: id(2), last: false });
    driven.run(|_| false);
    driven.log(NamespaceChange::Linked { parent: id(ROOT), file: id(2), kind: FileKind::Regular });
    waits_for_content(&mut driven, ROOT, 2);
}

#[test]
fn a_loss_told_behind_the_new_name_is_not_forgotten_with_the_former() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    // Out of the tree and in again before anything of it is looked at.
    driven.unlink(2);
    driven.tell(Event::FileForgotten { file: id(2) });
    driven.create(2, FileKind::Regular);
    driven.tell(Event::CaptureLost { file: id(2) });
    driven.run(syncs(2));
    assert!(!driven.held_syncs().is_empty(), "what mappings hold is brought to light");
    driven.let_go();
}

/// Stores that are told before the end of the file that had the number, which is told before the new file: its pages are writable,
/// and what is stored to them from now on is silent until a local sync.
fn stores_told_early_lead_to_a_sync(forget: impl Fn(&mut Driven)) {
    for settles in [false, true] {
        let mut driven = Driven::mirrored();
        driven.create(2, FileKind::Regular);
        driven.run(|_| false);
        driven.tell(Event::StoreMapped { file: id(2), extent: Extent::at(0, 4096) });
        if settles {
            // The sync found the former file, and nothing is confirmed yet.
            driven.run(|action| reads(2)(action) || is_barrier(action));
        }
        forget(&mut driven);
        driven.create(2, FileKind::Regular);
        driven.run(syncs(2));
        assert!(!driven.held_syncs().is_empty(), "the new file's pages are made read-only");
        driven.request_sync(2);
        driven.run(|action| syncs(2)(action) || is_barrier(action));
        assert!(barriers(&driven.held).is_empty(), "a barrier before the stores could be read");
        driven.let_go();
        assert_eq!(driven.node.snapshot().waiting, 0);
        driven.run(syncs(2));
        assert!(driven.held_syncs().is_empty(), "once is enough");
    }
}

#[test]
fn stores_told_before_the_file_with_their_number_was_forgotten_lead_to_a_sync() {
    stores_told_early_lead_to_a_sync(|driven| {
        driven.unlink(2);
        driven.tell(Event::FileForgotten { file: id(2) });
    });
}

#[test]
fn stores_told_before_two_files_with_their_number_were_forgotten_lead_to_a_sync() {
    for between in [FileKind::Regular, FileKind::Directory] {
        stores_told_early_lead_to_a_sync(|driven| {
            driven.unlink(2);
            driven.tell(Event::FileForgotten { file: id(2) });
            driven.create(2, between);
            driven.unlink(2);
            driven.tell(Event::FileForgotten { file: id(2) });
        });
    }
}

#[test]
fn stores_told_before_a_list_names_the_new_file_with_their_number_lead_to_a_sync() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    driven.tell(Event::StoreMapped { file: id(2), extent: Extent::at(0, 4096) });
    driven.unlink(2);
    driven.tell(Event::FileForgotten { file: id(2) });
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Regular)]);
    driven.change(ROOT);
    driven.run(syncs(2));
    assert!(!driven.held_syncs().is_empty(), "the new file's pages are made read-only");
    driven.let_go();
}

#[test]
fn marks_told_after_the_end_of_a_file_are_dropped() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    driven.unlink(2);
    driven.tell(Event::FileForgotten { file: id(2) });
    driven.tell(Event::StoreMapped { file: id(2), extent: Extent::at(0, 4096) });
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent::WHOLE });
    driven.tell(Event::AttributesChanged { file: id(2) });
    // Before the peer is there, too.
    driven.tell(Event::SessionLost { session: SESSION });
    driven.tell(Event::StoreMapped { file: id(3), extent: Extent::at(0, 4096) });
    assert!(driven.node.snapshot().dirty_files >= 2);
    driven.run(|_| false);
    driven.tell(Event::SessionOpened { session: SessionId(2), version: 1 });
    driven.session = SessionId(2);
    driven.run(|_| false);
    assert_eq!(driven.node.snapshot().phase, Phase::Mirrored);
    assert_eq!(driven.node.snapshot().dirty_files, 0);
}

#[test]
fn marks_that_wait_for_a_local_sync_are_dropped_with_the_last_name() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    driven.tell(Event::StoreMapped { file: id(2), extent: Extent::at(0, 4096) });
    driven.run_for(Duration::from_millis(500), |_| false);
    assert_eq!(driven.node.snapshot().dirty_files, 1);
    // It is open still, so that its end is not told.
    driven.unlink(2);
    driven.run_for(Duration::from_secs(5), |_| false);
    assert_eq!(driven.node.snapshot().dirty_files, 0);
}

#[test]
fn more_forgotten_numbers_than_are_kept_lead_to_a_sync_of_everything() {
    const KEPT: u64 = 1 << 16;
    let mut driven = Driven::mirrored();
    for file in 2..=KEPT + 2 {
        driven.tell(Event::StoreMapped { file: id(file), extent: Extent::at(0, 4096) });
        driven.tell(Event::FileForgotten { file: id(file) });
    }
    driven.create(2, FileKind::Regular);
    driven.run(|action| matches!(action, Action::SyncLocal { .. }));
    assert_eq!(driven.held_syncs().len(), 1);
    assert!(matches!(driven.held[0], Action::SyncLocal { scope: SyncScope::Volume(_), .. }));
    driven.request_sync(2);
    driven.run(|action| matches!(action, Action::SyncLocal { .. }) || reads(2)(action));
    assert!(!driven.held.iter().any(reads(2)), "nothing is read before the pages are read-only");
    driven.let_go();
    assert_eq!(driven.node.snapshot().waiting, 0);
}

#[test]
fn a_file_moved_before_its_content_came_is_waited_for_with_the_directory_it_was_moved_to() {
    let mut driven = Driven::mirrored();
    driven.create(3, FileKind::Directory);
    driven.log(NamespaceChange::Linked { parent: id(ROOT), file: id(2), kind: FileKind::Regular });
    driven.run(reads(2));
    // Behind the gate's back; the list of its new directory comes first.
    driven.lists.insert(id(ROOT), vec![(id(3), FileKind::Directory)]);
    driven.lists.insert(id(3), vec![(id(2), FileKind::Regular)]);
    driven.change(3);
    driven.change(ROOT);
    driven.run(reads(2));
    waits_for_content(&mut driven, 3, 2);
}

#[test]
fn a_file_made_anew_after_the_end_of_a_resync_was_sent_is_waited_for_with_its_directory() {
    let mut driven = Driven::opened();
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Directory)]);
    driven.lists.insert(id(2), vec![(id(3), FileKind::Regular)]);
    let is_end = |action: &Action| matches!(action, Action::SendFrame { header, .. } if header.kind == Kind::ResyncEnd);
    driven.run(is_end);
    assert_eq!(driven.held.len(), 1);
    // The directory is moved behind the gate's back: one list takes it away, with all that is in it, and another brings it
    // back.
    driven.lacking = BTreeSet::from([id(2), id(3)]);
    driven.change(ROOT);
    driven.run(reads(3));
    let end = driven.held.remove(0);
    driven.answer(end);
    let content = mem::take(&mut driven.held);
    driven.run(|action| matches!(action, Action::ReadExtent { .. }));
    assert_eq!(driven.node.snapshot().phase, Phase::Mirrored);
    driven.request_sync(2);
    driven.run(is_barrier);
    assert!(driven.held.is_empty(), "a barrier before the content was read");
    for read in content {
        driven.answer(read);
    }
    driven.run(is_barrier);
    assert_eq!(barriers(&driven.held).first(), Some(&vec![(id(2), false), (id(3), false)]));
}

#[test]
fn a_resync_does_not_end_while_a_list_may_have_the_peer_make_a_file_anew() {
    let is_end = |action: &Action| matches!(action, Action::SendFrame { header, .. } if header.kind == Kind::ResyncEnd);
    let mut driven = Driven::opened();
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Regular)]);
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent::at(0, 4) });
    let content = |action: &Action| matches!(action, Action::ReadExtent { .. });
    // First what was marked before is sent, and then, with callers held, what was marked since.
    driven.run(|action| content(action) || is_end(action));
    assert_eq!(driven.held.len(), 1, "{:?}", driven.held);
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent::at(0, 4) });
    let read = driven.held.remove(0);
    driven.answer(read);
    driven.run(|action| content(action) || is_end(action));
    assert_eq!(driven.held.len(), 1, "{:?}", driven.held);
    let read = driven.held.remove(0);
    // A list took the file away, and the next one brings it back.
    driven.lacking = BTreeSet::from([id(2)]);
    driven.change(ROOT);
    driven.run(|action| is_list(action) || is_end(action));
    assert_eq!(driven.held.len(), 1, "the list is sent");
    driven.answer(read);
    driven.run(is_end);
    assert!(!driven.held.iter().any(is_end), "before the content of the file");
    driven.let_go();
    assert_eq!(driven.node.snapshot().phase, Phase::Mirrored);
}

#[test]
fn a_file_made_anew_while_a_caller_waits_for_its_comparison_is_waited_for_as_a_whole() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Regular)]);
    driven.tell(Event::CaptureLost { file: id(2) });
    driven.run(reads(2));
    driven.request_sync(2);
    driven.run(reads(2));
    // All is in doubt: what is known is not kept because of the list.
    driven.lacking = BTreeSet::from([id(2)]);
    driven.tell(Event::CaptureLost { file: id(ROOT) });
    driven.run(|action| reads(2)(action) || is_barrier(action));
    assert!(driven.held.iter().any(reads(2)));
    assert_eq!(barriers(&driven.held), Vec::<Vec<(FileId, bool)>>::new(), "before the content");
    driven.let_go();
}

/// A known file that the next list has the peer make anew is named by the list of the second directory.
fn made_anew_by_a_list_not_answered() -> Driven {
    let mut driven = Driven::mirrored();
    driven.create(3, FileKind::Directory);
    driven.create(4, FileKind::Directory);
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    // A list of the root took the file away before.
    driven.lacking = BTreeSet::from([id(2)]);
    driven.lists.insert(id(ROOT), vec![(id(3), FileKind::Directory), (id(4), FileKind::Directory)]);
    driven.lists.insert(id(3), vec![(id(2), FileKind::Regular)]);
    driven.change(3);
    driven.run(is_list);
    assert_eq!(driven.held.len(), 1);
    driven
}

#[test]
fn a_file_named_by_a_second_list_before_the_first_is_found_to_make_it_anew_is_waited_for_with_both_directories()
 {
    let mut driven = made_anew_by_a_list_not_answered();
    // Moved behind the gate's back.
    driven.lists.insert(id(3), Vec::new());
    driven.lists.insert(id(4), vec![(id(2), FileKind::Regular)]);
    driven.change(4);
    driven.run(|action| is_list(action) || reads(2)(action));
    for list in mem::take(&mut driven.held) {
        driven.answer(list);
    }
    driven.run(reads(2));
    waits_for_content(&mut driven, 4, 2);
}

#[test]
fn a_file_moved_before_the_list_is_found_to_make_it_anew_is_waited_for_with_the_directory_it_was_moved_to() {
    let mut driven = made_anew_by_a_list_not_answered();
    driven.log(NamespaceChange::Renamed {
        old_parent: id(3),
        new_parent: id(4),
        file: id(2),
        other: None,
        other_last: false,
        exchanged: false,
    });
    driven.tell(Event::Tick);
    for list in mem::take(&mut driven.held) {
        driven.answer(list);
    }
    driven.run(reads(2));
    waits_for_content(&mut driven, 4, 2);
}

#[test]
fn a_file_named_again_after_the_second_list_of_a_resync_took_it_away_is_waited_for_with_its_directory() {
    let mut driven = Driven::opened();
    driven.lists.insert(id(ROOT), vec![(id(2), FileKind::Regular)]);
    driven.run(lists(ROOT));
    assert_eq!(driven.held.len(), 1);
    // The directory changes while its first list is read: there will be another.
    driven.change(ROOT);
    for list in mem::take(&mut driven.held) {
        driven.answer(list);
    }
    driven.run(lists(ROOT));
    assert_eq!(driven.held.len(), 1);
    driven.lists.insert(id(ROOT), Vec::new());
    driven.let_go();
    assert_eq!(driven.node.snapshot().phase, Phase::Mirrored);
    driven.tell(Event::FileForgotten { file: id(2) });
    driven.log(NamespaceChange::Linked { parent: id(ROOT), file: id(2), kind: FileKind::Regular });
    waits_for_content(&mut driven, ROOT, 2);
}

#[test]
fn bytes_that_a_size_brings_back_are_waited_for_by_a_caller_whose_stores_are_not_readable_yet() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    // The file is cut, and found so by a read.
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent { start: 4096, end: Extent::END } });
    driven.run(reads(2));
    driven.tell(Event::StoreMapped { file: id(2), extent: Extent::at(0, 4096) });
    driven.request_sync(2);
    let waits = |action: &Action| match action {
        Action::SyncLocal { .. } | Action::ReadAttributes { .. } => true,
        action => reads(2)(action) || is_barrier(action),
    };
    let read = driven.held.remove(0);
    driven.answer(read);
    driven.run(waits);
    // It grows again before the size is read: the bytes behind the cut, more than are read at once, are the peer's old ones.
    let size = 1 << 40;
    let attributes = |action: &Action| match action {
        Action::ReadAttributes { read, .. } => Some(*read),
        _ => None,
    };
    let read = driven.held.iter().find_map(attributes).expect("the size is read");
    driven.held.retain(|action| attributes(action).is_none());
    driven.tell(Event::AttributesRead { read, outcome: ReadOutcome::Read(size) });
    for sync in driven.held_syncs() {
        driven.tell(Event::LocalSynced { sync, result: Ok(()) });
    }
    driven.run(waits);
    for _ in 0..3 {
        for action in mem::take(&mut driven.held) {
            if let Action::ReadExtent { read, extent, .. } = action {
                let segments = vec![Segment { extent, content: SegmentContent::Hole }];
                driven.tell(Event::ExtentRead { read, outcome: ReadOutcome::Read(segments) });
            }
        }
        driven.run(waits);
    }
    assert!(driven.held.iter().any(reads(2)), "there is more to read: {:?}", driven.held);
    assert!(driven.held.iter().all(reads(2)), "all of it comes before anything else: {:?}", driven.held);
}

/// Each read behind the end tells about all that lies there, so one is enough; more of them would come with each further cut.
#[test]
fn a_file_that_is_cut_again_while_it_is_read_behind_its_end_is_not_read_there_piece_by_piece() {
    let mut driven = Driven::mirrored();
    driven.create(2, FileKind::Regular);
    driven.run(|_| false);
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent { start: 1 << 30, end: Extent::END } });
    driven.run(reads(2));
    driven.tell(Event::WriteTraced { file: id(2), extent: Extent { start: 0, end: Extent::END } });
    driven.run(reads(2));
    assert_eq!(driven.held.len(), 1, "{:?}", driven.held);
    // A caller need not wait for more of it either.
    driven.request_sync(2);
    driven.run(reads(2));
    assert_eq!(driven.held.len(), 1, "{:?}", driven.held);
    let read = driven.held.remove(0);
    driven.answer(read);
    driven.run(reads(2));
    let asked = |action: &Action| match action {
        Action::ReadExtent { extent, .. } => Some(extent.start),
        _ => None,
    };
    assert_eq!(driven.held.iter().map(asked).collect::<Vec<_>>(), [Some(0)]);
    let released = |action: &Action| matches!(action, Action::ReleaseBarrier { .. });
    let read = driven.held.remove(0);
    driven.answer(read);
    driven.run(released);
    assert!(matches!(driven.held[..], [Action::ReleaseBarrier { result: Ok(()), .. }]), "{:?}", driven.held);
    assert_eq!(driven.node.snapshot().dirty_files, 0);
}

/// A file gets another name in the directory, which may be told or not.
fn move_a_name(driven: &mut Driven, directory: u64, file: u64) {
    driven.log(NamespaceChange::Renamed {
        old_parent: id(directory),
        new_parent: id(directory),
        file: id(file),
        other: None,
        other_last: false,
        exchanged: false,
    });
}

/// A comparison of everything ends, however often names move in a directory that is to be listed for it: whatever moved before the list is in it.
#[test]
fn a_comparison_of_everything_ends_while_names_move() {
    let mut driven = Driven::opened();
    driven.lists.insert(id(ROOT), vec![(id(5), FileKind::Directory)]);
    driven.lists.insert(id(5), vec![(id(6), FileKind::Regular)]);
    let mut listed = 0;
    for _ in 0..5 {
        driven.run(lists(5));
        for order in mem::take(&mut driven.held) {
            listed += 1;
            move_a_name(&mut driven, 5, 6);
            driven.answer(order);
        }
    }
    assert_eq!((driven.node.snapshot().phase, listed), (Phase::Mirrored, 1));
}

/// A list that was ordered before its directory was renamed comes behind the one that was ordered instead. Until then it may have the peer make
/// something anew.
#[test]
fn lists_are_answered_only_when_those_of_former_orders_have_come_too() {
    let mut driven = Driven::mirrored();
    driven.create(5, FileKind::Directory);
    driven.run(|_| false);
    driven.change(5);
    driven.run(lists(5));
    move_a_name(&mut driven, ROOT, 5);
    driven.run(lists(5));
    assert_eq!(driven.held.len(), 2, "it is ordered again");
    let second = driven.held.pop().unwrap();
    driven.answer(second);
    driven.run(lists(5));
    assert_eq!((driven.held.len(), driven.node.snapshot().resync.directories_left), (1, 0));
    assert!(!driven.node.is_answered());
    driven.let_go();
    assert!(driven.node.is_answered());
}

/// Names move in a directory while it is waited for its list, and are not told, because the list will have them. It is not listed once more for
/// that; it is for what moves when a part of the list was told already.
#[test]
fn a_directory_in_which_names_move_is_listed_once() {
    let directory = 5;
    let moves = |driven: &mut Driven| move_a_name(driven, directory, 6);
    let mut driven = Driven::mirrored();
    driven.create(directory, FileKind::Directory);
    driven.log(NamespaceChange::Created { parent: id(directory), file: id(6), kind: FileKind::Regular });
    driven.run(|_| false);
    driven.lists.insert(id(directory), vec![(id(6), FileKind::Regular)]);
    driven.change(directory);
    driven.run(lists(directory));
    assert_eq!(driven.held.len(), 1, "it is being read");
    moves(&mut driven);
    driven.run(lists(directory));
    let Some(Action::ReadDirectory { read, .. }) = driven.held.pop() else { panic!("it is held") };
    assert!(driven.held.is_empty());
    // Told after the first part: the list does not have it.
    let part = |first, last| NamespaceChange::Listed {
        directory: id(directory),
        first,
        last,
        children: vec![(id(6), FileKind::Regular)],
    };
    driven.log(part(true, false));
    driven.log(part(false, true));
    driven.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
    driven.run(lists(directory));
    assert!(driven.held.is_empty(), "once is enough");
    driven.change(directory);
    driven.run(lists(directory));
    let Some(Action::ReadDirectory { read, .. }) = driven.held.pop() else { panic!("it is being read") };
    driven.log(part(true, true));
    moves(&mut driven);
    driven.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
    driven.run(lists(directory));
    assert_eq!(driven.held.len(), 1, "the list is older");
}
