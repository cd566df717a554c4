//! The primary's safe set: which files may differ from the copy, on record before they do (`replicator_core::activity`).
//!
//! A toy of what a daemon does: intents that are waited for, records that nobody waits for, members that leave when nobody holds
//! them and both nodes have them durably, and a look at all files after a crash. The look is as good as that of a daemon: a file
//! that was changed looks different, unless a power cut took the look back and not the bytes.

use std::collections::{BTreeMap, BTreeSet};

use replicator_core::action::Notice;
use replicator_core::activity::{Activity, Record};
use replicator_core::event::NamespaceChange;
use replicator_core::resume::Beginning;
use replicator_core::succession::Legacy;

use super::*;
use crate::disk::Found;

/// What a file looks like ([`look_of`]), by its number.
pub type Looks = BTreeMap<u64, u64>;

/// What was known at a moment: followed by the journal of that number.
#[derive(Clone, Debug)]
pub struct Base {
    number: u64,
    activity: Activity,
    looks: Looks,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    #[default]
    Off,
    Forming,
    On,
}

#[derive(Clone, Copy, Default, Debug)]
struct Member {
    touched: u64,
    /// So many records are to be durable for its intent to be.
    commit: Option<usize>,
    made: bool,
    narrowed: bool,
}

/// A member that nobody held when it was picked.
#[derive(Clone, Copy, Debug)]
struct Idle {
    inode: u64,
    touched: u64,
    narrowed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Look {
    Like(u64),
    Gone,
    Busy,
}

#[derive(Default, Debug)]
enum Step {
    #[default]
    Resting,
    Begun,
    Establishing(Activity, Option<Looks>),
    Picked(Vec<Idle>),
    Looking(Vec<Idle>),
    Looked(Vec<(Idle, Look)>),
}

/// What a run of the primary has of it in memory.
#[derive(Default, Debug)]
pub struct SafeSet {
    state: State,
    number: u64,
    members: BTreeMap<u64, Member>,
    touches: u64,
    /// Not yet written.
    pending: Vec<Record>,
    written: usize,
    durable: usize,
    /// Directories whose lists may not be answered.
    relisted: Vec<u64>,
    step: Step,
}

impl SafeSet {
    /// Whether a crash is followed by a look at its members alone.
    pub fn is_on(&self) -> bool {
        self.state == State::On
    }

    /// Whether the file is in doubt.
    pub fn is_in(&self, file: FileId) -> bool {
        self.members.contains_key(&inode_of(file))
    }

    fn push(&mut self, record: Record) -> usize {
        self.pending.push(record);
        self.written + self.pending.len()
    }

    fn touch(&mut self, inode: u64, made: bool) -> Option<usize> {
        self.touches += 1;
        let member = self.members.entry(inode).or_default();
        member.touched = self.touches;
        if made {
            (member.made, member.commit) = (true, None);
        }
        self.enter(inode, made)
    }

    fn enter(&mut self, inode: u64, new: bool) -> Option<usize> {
        if self.state == State::Off {
            self.members.remove(&inode);
            return None;
        }
        if let Some(commit) = self.members.get(&inode).and_then(|member| member.commit) {
            return Some(commit);
        }
        let commit = self.push(Record::Intent { file: id(inode), new });
        let member = self.members.entry(inode).or_default();
        (member.commit, member.narrowed) = (Some(commit), false);
        Some(commit)
    }
}

/// So many bits of a look say which file it is, as a handle's generation does: no power cut takes that back.
const IDENTITY_BITS: u32 = 20;

/// FNV-1a over what is seen of a file, and which file it is.
fn look_of(file: &File) -> u64 {
    let seen = format!("{:?} {:?} {:?} {:?}", file.kind, file.cells, file.attributes, file.entries);
    let seen = seen
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    seen << IDENTITY_BITS | identity(file.uid)
}

/// The bits of a look that say which file it is.
fn identity(uid_or_look: u64) -> u64 {
    uid_or_look & ((1 << IDENTITY_BITS) - 1)
}

impl World {
    /// These files are about to be changed by the application: whether it is on record by now.
    pub(super) fn intend(&mut self, inodes: &[u64], made: bool) -> bool {
        if !self.shape.safe_set || !self.running {
            return true;
        }
        let mut needed = 0;
        for inode in inodes {
            let commit = self.safe_set.touch(*inode, made).unwrap_or(0);
            let waits = self.safe_set.members.get(inode).is_some_and(|member| !member.made);
            needed = needed.max(if waits { commit } else { 0 });
        }
        if self.safe_set.state != State::On || needed <= self.safe_set.durable {
            return true;
        }
        if self.random.chance(self.danger()) {
            self.cut_soon();
        }
        if self.sabotage == Sabotage::UnwaitedIntent {
            return true;
        }
        // The application waits, and perhaps its machine does not live to see the end of that.
        let waits = self.random.chance(80);
        if waits {
            self.commit_all();
        }
        waits
    }

    /// How likely, in percent, it is that the power is cut when a file has just come into the set; a saboteur is not spared.
    fn danger(&self) -> usize {
        if self.sabotage == Sabotage::UnwaitedIntent { 60 } else { 12 }
    }

    /// The same when a file has just left it.
    fn danger_of_leaving(&self) -> usize {
        if self.sabotage == Sabotage::EarlySettle { 60 } else { 15 }
    }

    /// The machine is about to lose its power: when a file has just come into the set, or left it.
    fn cut_soon(&mut self) {
        if self.faults && self.shape.power_cuts && self.cut_in.is_none() {
            self.cut_in = Some(self.random.below(12));
        }
    }

    fn commit_all(&mut self) {
        self.write_records();
        self.sync_records();
    }

    fn write_records(&mut self) {
        for record in std::mem::take(&mut self.safe_set.pending) {
            self.trace("journal", &record);
            self.safe_set.written = self.primary_disk.journal.append(record);
        }
    }

    fn sync_records(&mut self) {
        self.trace("journal", &("synced", self.safe_set.written));
        self.primary_disk.journal.synced(self.safe_set.written);
        self.safe_set.durable = self.safe_set.written;
    }

    /// What nobody waits for is written some time, and synced.
    pub(super) fn commit_some(&mut self) {
        if self.safe_set.durable < self.safe_set.written {
            self.sync_records();
        } else {
            self.write_records();
        }
    }

    pub(super) fn make_void(&mut self) {
        let number = self.safe_set.number;
        self.safe_set = SafeSet { number, ..SafeSet::default() };
        self.primary_disk.base.replace(None, Reached::Synced);
    }

    /// What is told to the core is about files that may differ from now on.
    pub(super) fn note_event(&mut self, event: &Event) {
        if self.safe_set.state == State::Off {
            return;
        }
        let mut note = |file: FileId| {
            self.safe_set.touch(inode_of(file), false);
        };
        match event {
            Event::WriteTraced { file, .. }
            | Event::StoreMapped { file, .. }
            | Event::AttributesChanged { file }
            | Event::CaptureLost { file }
            | Event::DirectoryChanged { directory: file } => note(*file),
            Event::NamespaceLogged { change, .. } => match change {
                NamespaceChange::Created { parent, .. }
                | NamespaceChange::Linked { parent, .. }
                | NamespaceChange::Unlinked { parent, .. } => note(*parent),
                NamespaceChange::Renamed { old_parent, new_parent, .. } => {
                    note(*old_parent);
                    note(*new_parent);
                }
                NamespaceChange::Listed { .. } => {}
            },
            Event::Untold { .. } => self.make_void(),
            _ => {}
        }
    }

    /// A directory is about to be listed for the peer.
    pub(super) fn relist(&mut self, directory: u64) {
        if self.safe_set.state != State::Off {
            self.safe_set.touch(directory, false);
            self.safe_set.push(Record::Relist(id(directory)));
            self.safe_set.relisted.push(directory);
            if self.sabotage == Sabotage::EarlyAnswer {
                self.record_answers();
            }
            self.commit_all();
        }
    }

    /// All lists are answered.
    fn record_answers(&mut self) {
        self.record_news();
        for directory in std::mem::take(&mut self.safe_set.relisted) {
            self.safe_set.push(Record::Listed(id(directory)));
        }
    }

    /// A session begins: what was recorded goes on, or is worth nothing.
    pub(super) fn on_notice(&mut self, notice: &Notice) {
        let Notice::Begun { beginning } = notice else { return };
        self.listed_again = false;
        match (beginning, self.primary.stream()) {
            (Beginning::Resumed, Some(stream)) if self.safe_set.state != State::Off => {
                self.safe_set.push(Record::Begin(stream));
            }
            (Beginning::Resumed, Some(_)) => {}
            (Beginning::Recovered, _) => {
                self.stats.durable_resumed += 1;
                self.make_void();
            }
            _ => self.make_void(),
        }
    }

    /// Take the next step towards a set that is on, or towards members that leave it.
    pub(super) fn settle_members(&mut self) {
        // Everything that is known is told to the core first.
        self.drain_capture();
        self.tell_primary(Event::Tick);
        if !self.safe_set.relisted.is_empty() && self.primary.is_answered() {
            self.record_answers();
        }
        if !matches!(self.safe_set.step, Step::Resting) && self.random.chance(30) {
            // Whoever was asked is slow.
            return;
        }
        match std::mem::take(&mut self.safe_set.step) {
            Step::Resting => self.rest(),
            Step::Begun => self.take_base(),
            Step::Establishing(activity, None) => {
                let volumes = (0..self.shape.volumes).map(VolumeId).collect::<Vec<_>>();
                if volumes.into_iter().all(|volume| self.sync_local(SyncScope::Volume(volume)).is_ok()) {
                    self.safe_set.step = Step::Establishing(activity, Some(self.looks()));
                } else {
                    self.make_void();
                }
            }
            Step::Establishing(activity, Some(looks)) => self.establish(activity, looks),
            Step::Picked(picked) => {
                self.record_news();
                let (node, narrows) = (&self.primary, |idle: &Idle| !idle.narrowed);
                let ready = picked.into_iter().filter(|idle| {
                    let file = id(idle.inode);
                    node.settled(file).is_some() || narrows(idle) && node.doubtful(file).is_some()
                });
                self.safe_set.step = Step::Looking(ready.collect());
            }
            Step::Looking(ready) => {
                let looked = ready.into_iter().map(|idle| (idle, self.make_member_durable(idle.inode)));
                self.safe_set.step = Step::Looked(looked.collect());
            }
            Step::Looked(looked) => {
                self.record_news();
                looked.into_iter().for_each(|(idle, look)| self.end_doubt(idle, look));
            }
        }
    }

    fn rest(&mut self) {
        if self.safe_set.state == State::On {
            let members = self.safe_set.members.clone();
            let idle = members.into_iter().filter(|(inode, _)| !self.is_held(*inode));
            let idle =
                idle.map(|(inode, Member { touched, narrowed, .. })| Idle { inode, touched, narrowed });
            let idle: Vec<Idle> = idle.collect();
            let picked: Vec<Idle> = idle.into_iter().filter(|_| self.random.chance(60)).collect();
            self.safe_set.step = Step::Picked(picked);
        } else if self.safe_set.state == State::Off
            && self.primary.stream().is_some()
            && self.primary.is_mirrored()
        {
            self.safe_set.number += 1;
            self.primary_disk.journal.rewrite(Vec::new(), Reached::Synced);
            let number = self.safe_set.number;
            self.safe_set =
                SafeSet { number, state: State::Forming, step: Step::Begun, ..SafeSet::default() };
            // Who can write to a file now was not asked.
            let inodes = self.files.files.keys().copied();
            let held: Vec<u64> = inodes.filter(|inode| self.is_held(*inode)).collect();
            for inode in held {
                self.safe_set.touch(inode, false);
            }
        }
    }

    fn take_base(&mut self) {
        let Some(activity) = self.primary.activity() else { return self.make_void() };
        // What was made since the journal was begun is recorded as unknown to the peer, which may know it by now.
        let made = self.safe_set.members.iter().filter(|(_, member)| member.made);
        for inode in made.map(|(inode, _)| *inode).collect::<Vec<_>>() {
            self.safe_set.push(Record::Named(id(inode), activity.named(id(inode))));
        }
        self.safe_set.step = Step::Establishing(activity, None);
    }

    fn looks(&self) -> Looks {
        self.files.files.iter().map(|(inode, file)| (*inode, look_of(file))).collect()
    }

    fn establish(&mut self, activity: Activity, looks: Looks) {
        for file in activity.doubtful().collect::<Vec<_>>() {
            self.safe_set.touch(inode_of(file), false);
        }
        self.commit_all();
        self.safe_set.state = State::On;
        let base = Base { number: self.safe_set.number, activity, looks };
        self.trace("journal", &base);
        self.primary_disk.base.replace(Some(base), Reached::Synced);
        self.stats.safe_sets += 1;
    }

    /// Somebody can write to it.
    fn is_held(&self, inode: u64) -> bool {
        self.files.files.get(&inode).is_some_and(|file| file.open || !file.stored_pages.is_empty())
    }

    fn make_member_durable(&mut self, inode: u64) -> Look {
        if !self.files.files.contains_key(&inode) {
            return Look::Gone;
        }
        if self.is_held(inode) {
            return Look::Busy;
        }
        let scope = SyncScope::File { file: id(inode), data_only: false };
        if self.sabotage != Sabotage::EarlySettle && self.sync_local(scope).is_err() {
            return Look::Busy;
        }
        Look::Like(look_of(&self.files.files[&inode]))
    }

    fn record_news(&mut self) {
        if self.safe_set.state == State::Off {
            return;
        }
        for file in self.primary.marked_files() {
            self.safe_set.touch(inode_of(file), false);
        }
        for (file, named) in self.primary.take_news() {
            self.safe_set.push(Record::Named(file, named));
        }
    }

    fn end_doubt(&mut self, idle: Idle, look: Look) {
        let file = id(idle.inode);
        let unchanged = |member: &Member| member.touched == idle.touched;
        let is_idle = self.safe_set.members.get(&idle.inode).is_some_and(unchanged);
        if self.safe_set.state != State::On || !is_idle || self.is_held(idle.inode) {
            return;
        }
        let look = match look {
            Look::Busy => return,
            Look::Like(look) => Some(look),
            Look::Gone => None,
        };
        if let Some(named) = self.primary.settled(file) {
            self.safe_set.push(Record::Settled { file, named, look: look.unwrap_or(0) });
            self.safe_set.members.remove(&idle.inode);
            self.stats.settled += 1;
            if self.random.chance(self.danger_of_leaving()) {
                self.commit_all();
                self.cut_soon();
            }
        } else if let (Some(look), Some(doubt)) = (look, self.primary.doubtful(file)) {
            let (dirty, attributes) = (doubt.dirty, doubt.attributes);
            self.safe_set.push(Record::Parts { file, dirty, attributes, look });
            if let Some(member) = self.safe_set.members.get_mut(&idle.inode) {
                (member.commit, member.made, member.narrowed) = (None, false, true);
            }
        }
    }

    // ---- after a crash -----------------------------------------------------------------------------------

    /// What a primary that has ended recorded, and the files that the other node is sure to have.
    pub(super) fn legacy(&mut self, sure: bool) -> Option<(Legacy, BTreeSet<FileId>)> {
        let mut base = self.read_activity()?;
        for event in self.unlike(&base, sure) {
            let (Event::CaptureLost { file }
            | Event::DirectoryChanged { directory: file }
            | Event::AttributesChanged { file }) = event
            else {
                continue;
            };
            base.activity.apply(Record::Intent { file, new: false });
        }
        if self.sabotage == Sabotage::WithheldLegacy {
            for file in base.activity.doubtful().collect::<Vec<_>>() {
                let named = base.activity.named(file);
                base.activity.apply(Record::Settled { file, named, look: 0 });
            }
        }
        let there = self.files.files.keys().map(|inode| id(*inode));
        Some((Legacy::of(&base.activity, there)?, base.activity.vouched().collect()))
    }

    /// What is on disk of the safe set.
    fn read_activity(&mut self) -> Option<Base> {
        let mut base = self.primary_disk.base.get().clone()?;
        for found in self.primary_disk.journal.read() {
            match found {
                Found::Whole(record) => base.activity.apply(record.clone()),
                Found::Torn => break,
            }
        }
        for (file, look) in base.activity.take_looks() {
            let inode = inode_of(file);
            match self.files.files.get(&inode) {
                Some(_) if look != 0 => base.looks.insert(inode, look),
                _ => base.looks.remove(&inode),
            };
        }
        Some(base)
    }

    /// The node starts after a crash. `sure`: what a file looks like tells whether it was changed.
    pub(super) fn recover_activity(&mut self, sure: bool) {
        let Some(mut base) = self.read_activity() else { return self.make_void() };
        base.number += 1;
        self.primary_disk.journal.rewrite(Vec::new(), Reached::Synced);
        self.primary_disk.base.replace(Some(base.clone()), Reached::Synced);
        let members = base.activity.doubtful().map(|file| (inode_of(file), Member::default())).collect();
        self.safe_set = SafeSet { state: State::On, number: base.number, members, ..SafeSet::default() };
        self.primary.restore_activity(&base.activity);
        self.trace("journal", &("recovered", &base.activity));
        self.stats.recovered += 1;
        self.survey(&base, sure);
    }

    /// Tell of files that do not look as they did.
    fn survey(&mut self, base: &Base, sure: bool) {
        for inode in self.files.files.keys().copied().collect::<Vec<_>>() {
            self.learn(inode);
        }
        let mut found = self.unlike(base, sure);
        while !found.is_empty() {
            let event = found.swap_remove(self.random.below(found.len()));
            self.tell_primary(event);
        }
    }

    /// What is to be told of files that do not look as they did.
    fn unlike(&mut self, base: &Base, sure: bool) -> Vec<Event> {
        let seen = if self.sabotage == Sabotage::None { 50 } else { 10 };
        let mut found = Vec::new();
        for (inode, file) in &self.files.files {
            let Some(look) = base.looks.get(inode) else {
                // New: its directory has changed.
                found.extend(
                    self.files
                        .name_of(*inode)
                        .map(|(parent, _)| Event::DirectoryChanged { directory: id(parent) }),
                );
                continue;
            };
            if *look == look_of(file) || base.activity.is_wholly_doubtful(id(*inode)) {
                continue;
            }
            // A power cut may take back what is seen of a file and not what is in it.
            let another = identity(*look) != identity(file.uid);
            if sure || another || file.kind == FileKind::Directory || self.random.chance(seen) {
                found.extend(change_of(*inode, file));
            }
        }
        let gone = base.looks.keys().filter(|inode| !self.files.files.contains_key(inode));
        found.extend(gone.map(|inode| Event::CaptureLost { file: id(*inode) }));
        found
    }
}

/// What is told of a file that does not look as it did.
fn change_of(inode: u64, file: &File) -> Vec<Event> {
    let id = id(inode);
    match file.kind {
        FileKind::Regular => vec![Event::CaptureLost { file: id }],
        FileKind::Directory => {
            vec![Event::DirectoryChanged { directory: id }, Event::AttributesChanged { file: id }]
        }
        _ => vec![Event::AttributesChanged { file: id }],
    }
}
