//! The secondary's toy file system and the edge that applies frames to it. Everything has a volatile and a durable state.

mod recovered;
mod succession;
mod turned;

pub use succession::Left;

use std::collections::{BTreeMap, BTreeSet};

use replicator_core::action::DurableScope;
use replicator_core::event::AppliedOutcome;
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId, FileKind, VolumeId};
use replicator_core::verify::Verdict;
use replicator_core::wire::header::{FLAG_SUCCEEDS, Header, Kind};
use replicator_core::wire::namespace::Operation;

use crate::files::{Attributes, Cells, Files, PAGE, id, root_of};
use crate::random::Random;

/// What a write of replicator's own leaves as modification time until attributes come.
pub const DISTURBED: u64 = u64::MAX;
const BLOCK: u64 = 4;

#[derive(Clone, Debug)]
pub enum Payload {
    None,
    Cells(Cells),
    Attributes(Attributes, u64),
    Names(Operation),
    Digests(Cells),
    Structured(Vec<u8>),
    Verify(Seen),
}

/// What the primary has of a part.
#[derive(Clone, Debug)]
pub enum Seen {
    State(FileKind, Attributes, u64),
    Names(BTreeMap<Vec<u8>, (FileId, FileKind)>),
    /// And how many cells are one block.
    Contents(Cells, u64),
}

/// What somebody else changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Corruption {
    State,
    Names,
    /// This cell.
    Contents(u64),
}

#[derive(Clone, Debug)]
pub struct Node {
    volume: VolumeId,
    /// Made for a known file that had been taken away by a list after the end of the resync: its content comes behind.
    pub late: bool,
    pub kind: FileKind,
    pub cells: Cells,
    pub attributes: Attributes,
    pub entries: BTreeMap<Vec<u8>, u64>,
    pub durable_cells: Cells,
    pub durable_mode: u64,
    pub durable_entries: BTreeMap<Vec<u8>, u64>,
}

impl Node {
    /// Some pages were written back, some were not.
    fn tear(&mut self, random: &mut Random) {
        let length = if random.chance(50) { self.cells.len() } else { self.durable_cells.len() };
        let mut torn = Vec::with_capacity(length);
        for page in 0..length.div_ceil(PAGE) {
            let written_back = random.chance(50);
            let durable = |cell: usize| self.durable_cells.get(cell).copied();
            for cell in (page * PAGE..length).take(PAGE) {
                // What was cut off is there as long as the size is.
                let written = self.cells.get(cell).copied().filter(|_| written_back);
                torn.push(written.or_else(|| durable(cell)).unwrap_or(0));
            }
        }
        self.cells = torn;
    }
}

#[derive(Clone, Debug)]
pub struct Replica {
    pub nodes: BTreeMap<u64, Node>,
    roots: BTreeMap<VolumeId, u64>,
    /// Which node is which file of the primary, as far as this session told.
    pub known: BTreeMap<FileId, u64>,
    /// Of a node that was the primary: which node is which of its files, and those that the other node is sure to know, until it is known which is which
    /// of the new primary's.
    left: Option<Left>,
    /// The same, as an earlier run of the daemon knew it.
    remembered: BTreeMap<FileId, u64>,
    /// Files that were on record and not there after a crash, until a resync has ended.
    missing: BTreeSet<FileId>,
    /// Those of them that a frame was about, which did nothing.
    passed_over: BTreeSet<FileId>,
    next: u64,
    listed: BTreeSet<Vec<u8>>,
    nameless: BTreeSet<u64>,
    /// Directories that were made or listed in this session: what they hold that is not known is no file of the primary's.
    settled: BTreeSet<u64>,
    /// Not all directories were listed yet.
    resyncing: bool,
    /// The first operation after a resync that found a name to stand for something else than it says.
    pub deviation: Option<String>,
}

impl Replica {
    pub fn new(volumes: u16) -> Replica {
        let mut replica = Replica {
            nodes: BTreeMap::new(),
            roots: BTreeMap::new(),
            known: BTreeMap::new(),
            left: None,
            remembered: BTreeMap::new(),
            missing: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            next: 1,
            listed: BTreeSet::new(),
            nameless: BTreeSet::new(),
            settled: BTreeSet::new(),
            resyncing: true,
            deviation: None,
        };
        for volume in (0..volumes).map(VolumeId) {
            let root = replica.make(volume, FileKind::Directory);
            replica.roots.insert(volume, root);
        }
        replica
    }

    fn make(&mut self, volume: VolumeId, kind: FileKind) -> u64 {
        let node = Node {
            volume,
            late: false,
            kind,
            cells: Vec::new(),
            attributes: Attributes { mode: 0, mtime: DISTURBED },
            entries: BTreeMap::new(),
            durable_cells: Vec::new(),
            durable_mode: 0,
            durable_entries: BTreeMap::new(),
        };
        self.nodes.insert(self.next, node);
        self.settled.insert(self.next);
        self.next += 1;
        self.next - 1
    }

    fn make_listed(&mut self, volume: VolumeId, kind: FileKind) -> u64 {
        let made = self.make(volume, kind);
        self.nodes.get_mut(&made).unwrap().late = !self.resyncing;
        made
    }

    /// Begin with something like the primary's tree: parts of it, old content, other files under the same names.
    pub fn resemble(&mut self, files: &Files, random: &mut Random) {
        for (volume, root) in self.roots.clone() {
            self.resemble_directory(files, root_of(volume), root, random);
        }
        self.make_durable(&DurableScope::Everything);
    }

    fn resemble_directory(&mut self, files: &Files, inode: u64, node: u64, random: &mut Random) {
        let mut names: Vec<(Vec<u8>, Option<u64>)> = files.files[&inode]
            .entries
            .iter()
            .map(|(name, child)| (name.clone().into_bytes(), Some(*child)))
            .collect();
        names.push((b"stale".to_vec(), None));
        for (name, child) in names {
            if random.chance(40) {
                continue;
            }
            let other = if random.chance(50) { FileKind::Regular } else { FileKind::Directory };
            let kind = child.filter(|_| random.chance(80)).map_or(other, |child| files.files[&child].kind);
            let made = self.make(self.nodes[&node].volume, kind);
            self.nodes.get_mut(&node).unwrap().entries.insert(name, made);
            let Some(child) = child else { continue };
            if kind == FileKind::Regular {
                let mut cells = files.files[&child].cells.clone();
                cells.resize(cells.len() + random.below(5), 7);
                for _ in 0..random.below(3) {
                    let at = random.below(cells.len());
                    if let Some(cell) = cells.get_mut(at) {
                        *cell = 9;
                    }
                }
                self.nodes.get_mut(&made).unwrap().cells = cells;
            } else if files.files[&child].kind == FileKind::Directory {
                self.resemble_directory(files, child, made, random);
            }
        }
    }

    fn directory(&mut self, file: FileId) -> Result<&mut Node, Errno> {
        let node = self.known.get(&file).ok_or(Errno(2))?;
        self.nodes.get_mut(node).filter(|node| node.kind == FileKind::Directory).ok_or(Errno(20))
    }

    fn is_named(&self, node: u64) -> bool {
        self.roots.values().any(|root| *root == node)
            || self.nodes.values().any(|other| other.entries.values().any(|child| *child == node))
    }

    /// A name of the node is gone: without another one it is removed with all below it.
    fn reap(&mut self, node: u64) {
        if self.is_named(node) {
            return;
        }
        self.known.retain(|_, known| *known != node);
        if let Some(gone) = self.nodes.get_mut(&node) {
            let children = std::mem::take(&mut gone.entries);
            children.into_values().for_each(|child| self.reap(child));
        }
    }

    fn set_name(&mut self, parent: FileId, name: &[u8], node: u64) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        directory.attributes.mtime = DISTURBED;
        let before = directory.entries.insert(name.to_vec(), node);
        if let Some(before) = before.filter(|before| *before != node) {
            self.reap(before);
        }
        Ok(())
    }

    fn remove_name(&mut self, parent: FileId, name: &[u8]) -> Result<Option<u64>, Errno> {
        let directory = self.directory(parent)?;
        directory.attributes.mtime = DISTURBED;
        Ok(directory.entries.remove(name))
    }

    pub fn apply(&mut self, header: &Header, payload: &Payload) -> Result<AppliedOutcome, Errno> {
        match (header.kind, payload) {
            (Kind::ResyncBegin, _) => {
                let roots = self.roots.iter();
                self.known = roots.map(|(volume, root)| (id(root_of(*volume)), *root)).collect();
                self.settled.clear();
                self.missing.clear();
                self.passed_over.clear();
                self.left = None;
                self.resyncing = true;
                self.nodes.values_mut().for_each(|node| node.late = false);
                Ok(AppliedOutcome::Done)
            }
            (Kind::ResumeBegin, _) if header.flags & FLAG_SUCCEEDS != 0 => {
                self.begin_succession();
                Ok(AppliedOutcome::Done)
            }
            (Kind::Copies, Payload::Structured(body)) => self.bind_copies(header, body),
            (Kind::ResumeBegin, _) => {
                self.resyncing = true;
                // All content that is to come comes before the end.
                self.nodes.values_mut().for_each(|node| node.late = false);
                Ok(AppliedOutcome::Done)
            }
            (Kind::Data, Payload::Cells(cells)) => {
                self.put(header, cells);
                Ok(AppliedOutcome::Done)
            }
            (Kind::Hole, _) => {
                self.put(header, &vec![0; header.length as usize]);
                Ok(AppliedOutcome::Done)
            }
            (Kind::Attributes, Payload::Attributes(attributes, size)) => {
                if let Some(node) = self.known.get(&header.file).and_then(|node| self.nodes.get_mut(node)) {
                    node.attributes = *attributes;
                    if node.kind == FileKind::Regular {
                        node.cells.resize(*size as usize, 0);
                    }
                }
                Ok(AppliedOutcome::Done)
            }
            (Kind::Digests, Payload::Digests(cells)) => Ok(self.compare(header, cells, BLOCK)),
            (Kind::Verify, Payload::Verify(seen)) => Ok(AppliedOutcome::Verified(self.verify(header, seen))),
            (Kind::Namespace, Payload::Names(operation)) => self.apply_names(operation),
            (Kind::ResyncEnd, _) => {
                let known = &self.known;
                if self.passed_over.iter().any(|file| !known.contains_key(file)) {
                    return Err(Errno(2));
                }
                self.resyncing = false;
                self.missing.clear();
                self.passed_over.clear();
                Ok(AppliedOutcome::Done)
            }
            other => panic!("nothing to apply: {other:?}"),
        }
    }

    fn put(&mut self, header: &Header, cells: &[u64]) {
        // A file that is not known (any more) is made, and told as made, by the list that names it.
        let Some(node) = self.known.get(&header.file).and_then(|node| self.nodes.get_mut(node)) else {
            self.passed_over.extend(self.missing.get(&header.file));
            return;
        };
        let (at, end) = (header.offset as usize, (header.offset + header.length) as usize);
        assert_eq!(end - at, cells.len());
        if node.cells.len() < end {
            node.cells.resize(end, 0);
        }
        node.cells[at..end].copy_from_slice(cells);
        node.attributes.mtime = DISTURBED;
    }

    fn compare(&self, header: &Header, theirs: &[u64], block: u64) -> AppliedOutcome {
        let extent = Extent::at(header.offset, header.length);
        let Some(node) = self.known.get(&header.file).and_then(|node| self.nodes.get(node)) else {
            return AppliedOutcome::Differs(vec![extent]);
        };
        let mut differs = Vec::new();
        let mut start = extent.start;
        while start < extent.end {
            let end = extent.end.min(start + block);
            let ours = node.cells.get(start as usize..end as usize);
            let theirs = &theirs[(start - extent.start) as usize..(end - extent.start) as usize];
            if ours != Some(theirs) {
                differs.push(Extent { start, end });
            }
            start = end;
        }
        AppliedOutcome::Differs(differs)
    }

    fn verify(&self, header: &Header, seen: &Seen) -> Verdict {
        let Some(node) = self.known.get(&header.file).and_then(|node| self.nodes.get(node)) else {
            return Verdict::Absent;
        };
        let same = match seen {
            Seen::Contents(cells, block) => {
                let AppliedOutcome::Differs(extents) = self.compare(header, cells, *block) else {
                    unreachable!()
                };
                // Where this file ends is a matter of its state.
                let length = node.cells.len() as u64;
                return Verdict::Extents(extents.into_iter().filter(|extent| extent.end <= length).collect());
            }
            Seen::State(kind, attributes, size) => {
                let size_is = *kind != FileKind::Regular || node.cells.len() as u64 == *size;
                node.kind == *kind && node.attributes == *attributes && size_is
            }
            Seen::Names(names) => {
                let file_of =
                    |node: u64| self.known.iter().find(|(_, known)| **known == node).map(|(file, _)| *file);
                let ours =
                    node.entries.iter().map(|(name, node)| (name, file_of(*node), self.nodes[node].kind));
                let theirs = names.iter().map(|(name, (file, kind))| (name, Some(*file), *kind));
                ours.eq(theirs)
            }
        };
        if same { Verdict::Same } else { Verdict::Details(vec![1]) }
    }

    /// Somebody else changes something in the copy; `None`: there is nothing of the kind that was drawn.
    pub fn corrupt(&mut self, random: &mut Random) -> Option<(FileId, Corruption)> {
        let known: Vec<(FileId, u64)> = self.known.iter().map(|(file, node)| (*file, *node)).collect();
        let (file, number) = random.one(&known)?;
        let roots: Vec<u64> = self.roots.values().copied().collect();
        let node = self.nodes.get_mut(&number)?;
        match random.below(5) {
            4 if !node.cells.is_empty() => {
                node.cells.truncate(random.below(node.cells.len()));
                node.durable_cells.clone_from(&node.cells);
                Some((file, Corruption::State))
            }
            0 if !node.cells.is_empty() => {
                let at = random.below(node.cells.len());
                node.cells[at] = u64::MAX - 1;
                node.durable_cells.clone_from(&node.cells);
                Some((file, Corruption::Contents(at as u64)))
            }
            1 => {
                node.attributes.mode = u64::MAX - 1;
                node.durable_mode = node.attributes.mode;
                Some((file, Corruption::State))
            }
            2 if node.kind == FileKind::Directory => {
                let volume = node.volume;
                let made = self.make(volume, FileKind::Regular);
                let node = self.nodes.get_mut(&number)?;
                node.entries.insert(b"strange".to_vec(), made);
                node.durable_entries.clone_from(&node.entries);
                Some((file, Corruption::Names))
            }
            3 if node.kind == FileKind::Directory => {
                let names: Vec<Vec<u8>> = node.entries.keys().cloned().collect();
                let name = names.get(random.below(names.len()))?;
                let gone = node.entries.remove(name)?;
                node.durable_entries.clone_from(&node.entries);
                assert!(!roots.contains(&gone));
                self.reap(gone);
                Some((file, Corruption::Names))
            }
            _ => None,
        }
    }

    /// An operation says that a name stands for this file, or for none.
    fn expect(&mut self, operation: &Operation, parent: FileId, name: &[u8], file: Option<FileId>) {
        let Ok(directory) = self.directory(parent) else { return };
        let there = directory.entries.get(name).copied();
        let expected = file.and_then(|file| self.known.get(&file).copied());
        if there != expected && !self.resyncing {
            self.deviation
                .get_or_insert_with(|| format!("{operation:?}: there is {there:?}, not {expected:?}"));
        }
    }

    fn expect_what_it_says(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { parent, name, .. } | Operation::Link { parent, name, .. } => {
                self.expect(operation, *parent, name, None);
            }
            Operation::Unlink { parent, name, file, .. } => {
                self.expect(operation, *parent, name, Some(*file));
            }
            Operation::Rename { old_parent, old_name, new_parent, new_name, file, other, .. } => {
                self.expect(operation, *old_parent, old_name, Some(*file));
                self.expect(operation, *new_parent, new_name, *other);
            }
            Operation::List { .. } => {}
        }
    }

    fn apply_names(&mut self, operation: &Operation) -> Result<AppliedOutcome, Errno> {
        self.expect_what_it_says(operation);
        match operation {
            Operation::Create { parent, name, node } => {
                self.directory(*parent)?;
                let made = self.make(parent.volume, node.kind);
                self.set_name(*parent, name, made)?;
                self.known.insert(node.file, made);
            }
            Operation::Link { parent, name, node } => {
                self.directory(*parent)?;
                let known = match self.known.get(&node.file) {
                    // A number that belongs to a file of another kind belongs to another file.
                    Some(known) if self.nodes[known].kind == node.kind => *known,
                    _ => self.make_listed(parent.volume, node.kind),
                };
                self.known.insert(node.file, known);
                self.set_name(*parent, name, known)?;
            }
            Operation::Unlink { parent, name, file, last, .. } => {
                if let Some(node) = self.remove_name(*parent, name)? {
                    self.reap(node);
                }
                if *last {
                    self.known.remove(file);
                    self.passed_over.remove(file);
                }
            }
            Operation::Rename {
                old_parent, old_name, new_parent, new_name, file, other, exchange, ..
            } => {
                let node = *self.known.get(file).ok_or(Errno(2))?;
                self.directory(*new_parent)?;
                self.remove_name(*old_parent, old_name)?;
                if *exchange {
                    let other = *self.known.get(&other.ok_or(Errno(22))?).ok_or(Errno(2))?;
                    self.set_name(*old_parent, old_name, other)?;
                }
                self.set_name(*new_parent, new_name, node)?;
            }
            Operation::List { directory, first, last, entries } => {
                return self.apply_list(*directory, *first, *last, entries);
            }
        }
        Ok(AppliedOutcome::Done)
    }

    fn apply_list(
        &mut self,
        directory: FileId,
        first: bool,
        last: bool,
        entries: &[replicator_core::wire::namespace::ListedEntry],
    ) -> Result<AppliedOutcome, Errno> {
        if self.directory(directory).is_err() {
            // It was moved out of the tree and came back: the list that names it again makes it anew.
            return Ok(AppliedOutcome::Done);
        }
        let mut created = Vec::new();
        let settled = self.settled.contains(&self.known[&directory]);
        if first {
            self.listed.clear();
        }
        for entry in entries {
            self.listed.insert(entry.name.clone());
            let there = self.directory(directory)?.entries.get(&entry.name).copied();
            let taken: BTreeSet<u64> = self.known.values().copied().collect();
            let node = match (self.known.get(&entry.node.file), there) {
                (Some(known), _) if self.nodes[known].kind == entry.node.kind => *known,
                (_, Some(there))
                    if !settled && !taken.contains(&there) && self.nodes[&there].kind == entry.node.kind =>
                {
                    there
                }
                _ => {
                    created.push(entry.node.file);
                    self.make_listed(directory.volume, entry.node.kind)
                }
            };
            self.known.insert(entry.node.file, node);
            // What loses its name by this may have another one further down: it is removed when the list is complete.
            let before = self.directory(directory)?.entries.insert(entry.name.clone(), node);
            self.nameless.extend(before);
        }
        if last {
            self.directory(directory)?.attributes.mtime = DISTURBED;
            self.settled.insert(self.known[&directory]);
            let listed = std::mem::take(&mut self.listed);
            let names: Vec<Vec<u8>> = self.directory(directory)?.entries.keys().cloned().collect();
            for name in names.iter().filter(|name| !listed.contains(*name)) {
                let before = self.remove_name(directory, name)?;
                self.nameless.extend(before);
            }
            for node in std::mem::take(&mut self.nameless) {
                self.reap(node);
            }
        }
        Ok(AppliedOutcome::Created(created))
    }

    pub fn make_durable(&mut self, scope: &DurableScope) {
        let sync = |node: &mut Node, data_only: bool| {
            node.durable_cells.clone_from(&node.cells);
            node.durable_entries.clone_from(&node.entries);
            if !data_only {
                node.durable_mode = node.attributes.mode;
            }
        };
        match scope {
            DurableScope::Files(files) => {
                for (file, data_only) in files {
                    if let Some(node) = self.known.get(file).and_then(|node| self.nodes.get_mut(node)) {
                        sync(node, *data_only);
                    }
                }
            }
            DurableScope::Volume(volume) => {
                let nodes = self.nodes.values_mut().filter(|node| node.volume == *volume);
                nodes.for_each(|node| sync(node, false));
            }
            DurableScope::Everything => self.nodes.values_mut().for_each(|node| sync(node, false)),
        }
    }

    /// The daemon is killed and started anew.
    pub fn restart(&mut self) {
        if !self.known.is_empty() {
            self.remembered = std::mem::take(&mut self.known);
        }
        self.listed.clear();
        self.nameless.clear();
        self.missing.clear();
        self.passed_over.clear();
        self.left = None;
    }

    /// Not all directories that are to be were listed yet.
    pub fn is_resyncing(&self) -> bool {
        self.resyncing
    }

    /// The machine crashes and comes back: each page of a file has its durable or its volatile content, and so has its size; each
    /// directory likewise.
    pub fn crash(&mut self, random: &mut Random) {
        self.restart();
        for node in self.nodes.values_mut() {
            match random.below(4) {
                0 => {}
                1 => node.cells.clone_from(&node.durable_cells),
                _ => node.tear(random),
            }
            if random.chance(50) {
                node.attributes.mode = node.durable_mode;
            }
            if random.chance(50) {
                node.entries.clone_from(&node.durable_entries);
            }
            node.durable_cells.clone_from(&node.cells);
            node.durable_mode = node.attributes.mode;
            node.durable_entries.clone_from(&node.entries);
        }
    }

    pub fn durable_at(&self, volume: VolumeId, path: &[String]) -> Option<u64> {
        path.iter().try_fold(self.roots[&volume], |node, name| {
            self.nodes.get(&node)?.durable_entries.get(name.as_bytes()).copied()
        })
    }

    /// Compare the whole tree with the primary's.
    pub fn same_tree(&self, files: &Files, durable: bool) -> Result<(), String> {
        let mut roots = self.roots.iter();
        roots.try_for_each(|(volume, root)| self.same(files, root_of(*volume), *root, durable, ""))
    }

    fn same(&self, files: &Files, inode: u64, node: u64, durable: bool, path: &str) -> Result<(), String> {
        let (theirs, ours) = (&files.files[&inode], &self.nodes[&node]);
        let cells = if durable { &ours.durable_cells } else { &ours.cells };
        if theirs.kind != ours.kind || (theirs.kind == FileKind::Regular && theirs.cells != *cells) {
            let known = self.known.iter().find(|(_, known)| **known == node);
            let meant = self.known.get(&id(inode));
            return Err(format!(
                "{path} (inode {inode}) differs: primary {:?}, secondary {cells:?} (node {node}, known as {known:?}; meant {meant:?})",
                theirs.cells
            ));
        }
        let attributes = if durable {
            Attributes { mode: ours.durable_mode, mtime: theirs.attributes.mtime }
        } else {
            ours.attributes
        };
        if theirs.attributes != attributes {
            return Err(format!("{path} (inode {inode}): {:?}, secondary {attributes:?}", theirs.attributes));
        }
        let entries = if durable { &ours.durable_entries } else { &ours.entries };
        let names = |names: Vec<String>| names.join(" ");
        if theirs.entries.len() != entries.len() {
            return Err(format!(
                "{path}: names {} / {}",
                names(theirs.entries.keys().cloned().collect()),
                names(entries.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
            ));
        }
        for (name, child) in &theirs.entries {
            let Some(ours) = entries.get(name.as_bytes()) else {
                return Err(format!("{path}/{name} is missing"));
            };
            self.same(files, *child, *ours, durable, &format!("{path}/{name}"))?;
        }
        Ok(())
    }
}
