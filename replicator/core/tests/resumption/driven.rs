//! A primary with a small tree and a peer that answers.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use replicator_core::action::{Action, Body, Phase};
use replicator_core::config::{PrimaryConfig, VolumeRoot};
use replicator_core::event::{Event, NamespaceChange, ReadOutcome, ReceivedBody, Segment, SegmentContent};
use replicator_core::extent::Extent;
use replicator_core::ids::{
    EntryId, FileId, FileKind, Generation, Sequence, SessionId, Term, Time, VolumeId,
};
use replicator_core::node::Node;
use replicator_core::resume::{Beginning, Held, StreamId};
use replicator_core::wire::body::{Holding, encode_extents, encode_files};
use replicator_core::wire::header::{Header, Kind, VERSION_FLAGS as VERSION};

use super::record;

pub const ROOT: u64 = 1;
pub const INCARNATION: [u8; 16] = [7; 16];

pub fn id(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

pub fn stream(number: u64) -> StreamId {
    StreamId { incarnation: INCARNATION, number }
}

/// What was asked of the edge, or sent, in a session.
#[derive(Default, Debug)]
pub struct Asked {
    pub listed: BTreeSet<u64>,
    pub read: BTreeSet<u64>,
    pub digested: BTreeSet<u64>,
    pub attributes: BTreeSet<u64>,
    pub kinds: Vec<Kind>,
}

/// A primary with a small tree, `1/{2, 3, 4/{5}}` with the directories 1 and 4, and a peer that answers.
pub struct Driven {
    pub node: Node,
    pub now: Time,
    pub actions: Vec<Action>,
    pub session: SessionId,
    pub queued: Sequence,
    pub entries: u64,
    /// Those that are lists.
    pub listed: BTreeSet<EntryId>,
    pub lists: BTreeMap<u64, Vec<(u64, FileKind)>>,
    /// The peer says nothing more.
    pub mute: bool,
    pub asked: Asked,
}

impl Driven {
    /// Both nodes hold the same.
    pub fn mirrored() -> Driven {
        Driven::mirrored_in(VERSION)
    }

    pub fn mirrored_in(version: u16) -> Driven {
        let mut config = PrimaryConfig::new(vec![VolumeRoot { volume: VolumeId(0), root: id(ROOT) }]);
        config.incarnation = Some(INCARNATION);
        let now = Time(1_000_000_000);
        let regular = |inode| (inode, FileKind::Regular);
        let mut driven = Driven {
            node: Node::primary(config, record::alone(), now),
            now,
            actions: Vec::new(),
            session: SessionId(0),
            queued: Sequence(0),
            entries: 0,
            listed: BTreeSet::new(),
            lists: BTreeMap::from([
                (ROOT, vec![regular(2), regular(3), (4, FileKind::Directory)]),
                (4, vec![regular(5)]),
            ]),
            mute: false,
            asked: Asked::default(),
        };
        driven.open(version, None);
        driven.run();
        assert_eq!(driven.node.snapshot().phase, Phase::Mirrored);
        assert_eq!(driven.asked.digested, BTreeSet::from([2, 3, 5]));
        driven
    }

    pub fn tell(&mut self, event: Event) {
        self.node.handle(self.now, event, &mut self.actions);
    }

    pub fn pass(&mut self) {
        self.now = self.now.after(Duration::from_millis(10));
        self.tell(Event::Tick);
        for action in mem::take(&mut self.actions) {
            self.answer(action);
        }
    }

    /// Three seconds.
    pub fn run(&mut self) {
        for _ in 0..300 {
            if !self.mute {
                self.reply(Kind::KeepAlive, Sequence(0), Vec::new());
            }
            self.pass();
        }
    }

    /// The next connection; the peer holds that.
    pub fn open(&mut self, version: u16, held: Option<Held>) {
        let before = self.session;
        while self.session == before {
            self.pass();
        }
        self.asked = Asked::default();
        self.mute = false;
        self.queued = Sequence(0);
        self.tell(Event::SessionOpened { session: self.session, version });
        if version == VERSION {
            let holding = Holding { generation: Generation(5), held };
            self.reply(Kind::Holding, Sequence(0), holding.encode());
        }
    }

    /// The connection is lost and there again: the peer has all that was sent up to there.
    pub fn reopen(&mut self, received: Sequence) {
        let held = Held { stream: stream(self.session.0), received };
        self.tell(Event::SessionLost { session: self.session });
        self.open(VERSION, Some(held));
        self.run();
    }

    pub fn answer(&mut self, action: Action) {
        match action {
            Action::Dial { session } => self.session = session,
            Action::SyncLocal { sync, .. } => self.tell(Event::LocalSynced { sync, result: Ok(()) }),
            Action::PersistState { persist, .. } => {
                self.tell(Event::StatePersisted { persist, result: Ok(()) });
            }
            Action::ReadDirectory { read, directory } => {
                self.asked.listed.insert(directory.inode);
                let children = self.lists.get(&directory.inode).cloned().unwrap_or_default();
                let children = children.into_iter().map(|(inode, kind)| (id(inode), kind)).collect();
                self.listed.insert(EntryId(self.entries + 1));
                self.log(NamespaceChange::Listed { directory, first: true, last: true, children });
                self.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Read(()) });
            }
            Action::ReadAttributes { read, file } => {
                self.asked.attributes.insert(file.inode);
                self.tell(Event::AttributesRead { read, outcome: ReadOutcome::Read(4) });
            }
            Action::ReadExtent { read, file, extent } => {
                self.asked.read.insert(file.inode);
                let extent = Extent { end: extent.end.min(4), ..extent };
                let segments = vec![Segment { extent, content: SegmentContent::Data }];
                let segments = if extent.is_empty() { Vec::new() } else { segments };
                self.tell(Event::ExtentRead { read, outcome: ReadOutcome::Read(segments) });
            }
            Action::ReadDigests { read, file, extent } => {
                self.asked.digested.insert(file.inode);
                let outcome = ReadOutcome::Read(Extent { end: extent.end.min(4), ..extent });
                self.tell(Event::DigestsRead { read, outcome });
            }
            Action::SendFrame { header, body, .. } => {
                self.asked.kinds.push(header.kind);
                self.queued = self.queued.max(header.sequence);
                if !self.mute {
                    self.answer_frame(&header, &body);
                }
            }
            _ => {}
        }
    }

    /// As a secondary would.
    pub fn answer_frame(&mut self, header: &Header, body: &Body) {
        let about = header.sequence;
        match (header.kind, body) {
            (Kind::Namespace, Body::Entry { entry }) if self.listed.contains(entry) => {
                self.reply(Kind::CreatedReply, about, encode_files(&[]));
            }
            (Kind::Digests, _) => self.reply(Kind::DigestReply, about, encode_extents(&[])),
            (Kind::Barrier | Kind::ResyncEnd, _) => self.reply(Kind::BarrierDone, about, Vec::new()),
            _ => {}
        }
    }

    pub fn reply(&mut self, kind: Kind, about: Sequence, body: Vec<u8>) {
        let mut header = Header::new(kind, Term(2));
        header.offset = about.0;
        let body = ReceivedBody::Structured(body);
        self.tell(Event::FrameReceived { session: self.session, header, body });
    }

    /// The connection breaks: what the peer holds then, if all that was sent arrived.
    pub fn cut(&mut self) -> Held {
        let held = Held { stream: stream(self.session.0), received: self.queued };
        self.tell(Event::SessionLost { session: self.session });
        held
    }

    pub fn log(&mut self, change: NamespaceChange) {
        self.entries += 1;
        self.tell(Event::NamespaceLogged { entry: EntryId(self.entries), change });
    }

    pub fn create(&mut self, parent: u64, file: u64) {
        self.lists.entry(parent).or_default().push((file, FileKind::Regular));
        self.log(NamespaceChange::Created { parent: id(parent), file: id(file), kind: FileKind::Regular });
    }

    pub fn write(&mut self, file: u64) {
        self.tell(Event::WriteTraced { file: id(file), extent: Extent::at(0, 2) });
    }

    /// From now on nothing arrives, and a while passes.
    pub fn fall_silent(&mut self) {
        self.mute = true;
        for _ in 0..20 {
            self.pass();
        }
    }

    pub fn beginning(&self) -> Option<Beginning> {
        self.node.snapshot().beginning
    }

    pub fn is_mirrored(&self) -> bool {
        let snapshot = self.node.snapshot();
        snapshot.phase == Phase::Mirrored && snapshot.dirty_files == 0
    }
}

pub fn set<const N: usize>(files: [u64; N]) -> BTreeSet<u64> {
    BTreeSet::from(files)
}
