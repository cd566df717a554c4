//! The primary's toy file system: files of a few cells (a cell stands for a byte and holds a number that no other write
//! uses), with the history of each cell, so that a checker can tell whether a copy is as new as it must be.

mod durable;
mod turned;

use std::collections::{BTreeMap, BTreeSet};

use replicator_core::ids::{FileId, FileKind, VolumeId};

/// The inode number of each volume's root.
const ROOT: u64 = 1;
/// Files are told apart by inode number and volume in one: this much for each volume.
const VOLUME: u64 = 1 << 32;
pub const PAGE: usize = 4;

pub type Cells = Vec<u64>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub mode: u64,
    pub mtime: u64,
}

pub fn id(inode: u64) -> FileId {
    FileId { volume: volume_of(inode), inode: inode % VOLUME }
}

pub fn inode_of(file: FileId) -> u64 {
    u64::from(file.volume.0) * VOLUME + file.inode
}

pub fn volume_of(inode: u64) -> VolumeId {
    VolumeId(u16::try_from(inode / VOLUME).unwrap())
}

pub fn root_of(volume: VolumeId) -> u64 {
    inode_of(FileId { volume, inode: ROOT })
}

/// What held at that version.
fn at<T>(history: &[(u64, T)], version: u64) -> &T {
    let found = history.iter().rposition(|(from, _)| *from <= version).unwrap_or(0);
    &history[found].1
}

/// Values with the version from which on they held.
type History<T> = Vec<(u64, T)>;

#[derive(Clone, Debug)]
pub struct File {
    /// Unlike the inode number, never used again.
    pub uid: u64,
    pub kind: FileKind,
    pub cells: Cells,
    pub attributes: Attributes,
    pub entries: BTreeMap<String, u64>,
    pub links: u32,
    /// Had a name: without one, it gets none again (linkat(2), ENOENT), unlike an O_TMPFILE.
    pub named: bool,
    pub open: bool,
    /// Pages that are writable through a mapping: stores to them are silent.
    pub stored_pages: BTreeSet<usize>,
    cell_history: Vec<History<Option<u64>>>,
    mode_history: History<u64>,
    durable: DurableUpto,
}

/// The versions up to which a file is on the disk.
#[derive(Clone, Copy, Default, Debug)]
struct DurableUpto {
    content: u64,
    mode: u64,
}

impl File {
    pub fn note_cells(&mut self, version: u64) {
        let length = self.cells.len().max(self.cell_history.len());
        self.cell_history.resize_with(length, || vec![(0, None)]);
        for (at, history) in self.cell_history.iter_mut().enumerate() {
            let now = self.cells.get(at).copied();
            if history.last().map(|(_, value)| *value) != Some(now) {
                history.push((version, now));
            }
        }
    }

    /// Whether the copy's cells are all as new as `since`, or newer.
    pub fn is_as_new(&self, since: u64, copy: &[u64]) -> Result<(), String> {
        for at in 0..self.cell_history.len().max(copy.len()) {
            let is = copy.get(at).copied();
            let Some(history) = self.cell_history.get(at) else {
                return Err(format!("cell {at} is {is:?}, was never there"));
            };
            let from = history.iter().rposition(|(version, _)| *version <= since).unwrap_or(0);
            // The file was too short since, and grew: what lies further back may have come before this cell, as on a disk
            // after a power cut.
            let short = history[from..].iter().position(|(_, value)| value.is_none());
            let grew = short.is_some_and(|at| history[from + at..].iter().any(|(_, value)| value.is_some()));
            let gap = is == Some(0) && grew;
            if !gap && !history[from..].iter().any(|(_, value)| *value == is) {
                return Err(format!(
                    "cell {at} is {is:?}, since version {since} it was {:?}",
                    &history[from..]
                ));
            }
        }
        Ok(())
    }

    pub fn has_mode_since(&self, since: u64, mode: u64) -> bool {
        let from = self.mode_history.iter().rposition(|(version, _)| *version <= since).unwrap_or(0);
        self.mode_history[from..].iter().any(|(_, value)| *value == mode)
    }
}

#[derive(Clone, Debug)]
pub struct Files {
    pub files: BTreeMap<u64, File>,
    pub version: u64,
    /// Counts changes of names.
    pub names: u64,
    next_uid: u64,
    uncommitted: durable::Uncommitted,
}

impl Files {
    pub fn new(volumes: u16) -> Files {
        let mut files = Files {
            files: BTreeMap::new(),
            version: 0,
            names: 0,
            next_uid: 1,
            uncommitted: durable::Uncommitted::default(),
        };
        for root in (0..volumes).map(|volume| root_of(VolumeId(volume))) {
            files.make(root, FileKind::Directory);
            files.files.get_mut(&root).unwrap().links = 1;
        }
        files
    }

    fn make(&mut self, inode: u64, kind: FileKind) {
        self.version += 1;
        let mode = self.version;
        let file = File {
            uid: self.next_uid,
            kind,
            cells: Vec::new(),
            attributes: Attributes { mode, mtime: self.version },
            entries: BTreeMap::new(),
            links: 0,
            named: false,
            open: false,
            stored_pages: BTreeSet::new(),
            cell_history: Vec::new(),
            mode_history: vec![(self.version, mode)],
            durable: DurableUpto { content: 0, mode: self.version },
        };
        self.next_uid += 1;
        self.files.insert(inode, file);
    }

    /// A new file in the volume of that one, under the lowest free number: numbers are used again as soon as they can be.
    pub fn create(&mut self, beside: u64, kind: FileKind) -> u64 {
        let root = root_of(volume_of(beside));
        let inode = (root..).find(|inode| !self.files.contains_key(inode)).unwrap();
        self.make(inode, kind);
        inode
    }

    /// A new file with a number that is free.
    pub fn create_as(&mut self, inode: u64, kind: FileKind) {
        assert!(!self.files.contains_key(&inode));
        self.make(inode, kind);
    }

    pub fn touch_names(&mut self, directory: u64) {
        self.version += 1;
        self.names += 1;
        let version = self.version;
        self.files.get_mut(&directory).unwrap().attributes.mtime = version;
    }

    pub fn write(&mut self, inode: u64, at: usize, length: usize) {
        self.version += 1;
        let version = self.version;
        let file = self.files.get_mut(&inode).unwrap();
        if file.cells.len() < at + length {
            file.cells.resize(at + length, 0);
        }
        for (i, cell) in file.cells[at..at + length].iter_mut().enumerate() {
            *cell = version << 8 | i as u64;
        }
        file.attributes.mtime = version;
        file.note_cells(version);
    }

    pub fn resize(&mut self, inode: u64, length: usize) -> usize {
        self.version += 1;
        let version = self.version;
        let file = self.files.get_mut(&inode).unwrap();
        let before = file.cells.len();
        file.cells.resize(length, 0);
        file.stored_pages.retain(|page| page * PAGE < length);
        file.attributes.mtime = version;
        file.note_cells(version);
        before.min(length)
    }

    pub fn zero(&mut self, inode: u64, at: usize, length: usize) {
        self.version += 1;
        let version = self.version;
        let file = self.files.get_mut(&inode).unwrap();
        let end = file.cells.len().min(at + length);
        if at < end {
            file.cells[at..end].fill(0);
        }
        file.attributes.mtime = version;
        file.note_cells(version);
    }

    pub fn chmod(&mut self, inode: u64) {
        self.version += 1;
        let version = self.version;
        let file = self.files.get_mut(&inode).unwrap();
        file.attributes.mode = version;
        file.mode_history.push((version, version));
    }

    /// Drop the file if nothing holds it. `true`: it is gone.
    pub fn reap(&mut self, inode: u64) -> bool {
        let gone = self.files.get(&inode).is_some_and(|file| file.links == 0 && !file.open);
        if gone && let Some(file) = self.files.remove(&inode) {
            self.bury(inode, file);
        }
        gone
    }

    pub fn of_kind(&self, kind: FileKind) -> Vec<u64> {
        self.files.iter().filter(|(_, file)| file.kind == kind).map(|(inode, _)| *inode).collect()
    }

    /// Directories that have a name.
    pub fn directories(&self) -> Vec<u64> {
        self.files
            .iter()
            .filter(|(_, file)| file.kind == FileKind::Directory && file.links > 0)
            .map(|(inode, _)| *inode)
            .collect()
    }

    /// A directory that names the file, and the name there.
    pub fn name_of(&self, inode: u64) -> Option<(u64, String)> {
        self.files.iter().find_map(|(parent, file)| {
            let name = file.entries.iter().find(|(_, child)| **child == inode)?.0;
            Some((*parent, name.clone()))
        })
    }

    pub fn exchange_names(&mut self, parent: u64, name: &str, other_parent: u64, other_name: &str) {
        let one = self.files[&parent].entries[name];
        let other = self.files[&other_parent].entries[other_name];
        self.files.get_mut(&parent).unwrap().entries.insert(name.to_owned(), other);
        self.files.get_mut(&other_parent).unwrap().entries.insert(other_name.to_owned(), one);
        self.touch_names(parent);
        self.touch_names(other_parent);
    }

    /// To a name that is free.
    pub fn move_name(&mut self, parent: u64, name: &str, new_parent: u64, new_name: &str) {
        let inode = self.files.get_mut(&parent).unwrap().entries.remove(name).unwrap();
        self.touch_names(parent);
        self.files.get_mut(&new_parent).unwrap().entries.insert(new_name.to_owned(), inode);
        self.touch_names(new_parent);
    }

    /// Whether `inner` is `outer` or lies in it.
    pub fn lies_in(&self, inner: u64, outer: u64) -> bool {
        inner == outer
            || self.files[&outer].entries.values().any(|child| {
                self.files.get(child).is_some_and(|file| file.kind == FileKind::Directory)
                    && self.lies_in(inner, *child)
            })
    }

    /// A path of the file from its volume's root, if it has a name.
    pub fn path(&self, inode: u64) -> Option<Vec<String>> {
        self.find(root_of(volume_of(inode)), inode)
    }

    fn find(&self, directory: u64, inode: u64) -> Option<Vec<String>> {
        if directory == inode {
            return Some(Vec::new());
        }
        self.files[&directory].entries.iter().find_map(|(name, child)| {
            let rest = if *child == inode {
                Some(Vec::new())
            } else if self.files.get(child)?.kind == FileKind::Directory {
                self.find(*child, inode)
            } else {
                None
            };
            rest.map(|mut rest| {
                rest.insert(0, name.clone());
                rest
            })
        })
    }
}
