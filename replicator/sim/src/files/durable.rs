//! What of the primary's files is on its machine's disk, and what a power cut leaves of them.
//!
//! Content: each page of a file has the content of some moment between the file's last sync and now, independently of all others, and
//! so has the size; a page that had no content at its moment is zeros. Attributes likewise. Names: file systems order their
//! changes, so that all of them up to some moment are there, and none after it; that moment lies behind the last sync of anything,
//! and it moves on by itself (a journal commits every few seconds).

use std::collections::{BTreeMap, VecDeque};

use replicator_core::ids::FileKind;

use super::{File, Files, PAGE, at, root_of, volume_of};
use crate::disk::PowerCut;
use crate::random::Random;

/// As many changes of names may be on their way to the disk.
const UNCOMMITTED_MAX: usize = 12;

/// All names, as they were at a moment.
#[derive(Clone, Debug)]
struct Topology {
    names: u64,
    directories: BTreeMap<u64, BTreeMap<String, u64>>,
    uids: BTreeMap<u64, u64>,
}

/// What is not durable of the names.
#[derive(Clone, Default, Debug)]
pub struct Uncommitted {
    /// Ascending; the first is durable.
    states: VecDeque<Topology>,
    /// Files that are gone and belong to one of the states.
    gone: Vec<(u64, File)>,
}

impl Files {
    /// Between two steps: the names are those of some whole operation.
    pub fn note_names(&mut self) {
        if self.uncommitted.states.back().is_some_and(|state| state.names == self.names) {
            return;
        }
        let state = self.topology();
        self.uncommitted.states.push_back(state);
        while self.uncommitted.states.len() > UNCOMMITTED_MAX {
            self.uncommitted.states.pop_front();
        }
        let states = &self.uncommitted.states;
        let belongs = |inode: u64, uid: u64| states.iter().any(|state| state.uids.get(&inode) == Some(&uid));
        self.uncommitted.gone.retain(|(inode, file)| belongs(*inode, file.uid));
    }

    /// A file is dropped: its number may be used again, and a power cut may bring it back.
    pub(super) fn bury(&mut self, inode: u64, file: File) {
        if self.uncommitted.states.iter().any(|state| state.uids.get(&inode) == Some(&file.uid)) {
            self.uncommitted.gone.push((inode, file));
        }
    }

    /// A sync of these files has ended well.
    pub fn synced(&mut self, inodes: &[u64], data_only: bool) {
        let version = self.version;
        for inode in inodes {
            let Some(file) = self.files.get_mut(inode) else { continue };
            // Pages that are written to through a mapping are read-only again.
            file.stored_pages.clear();
            file.durable.content = version;
            if !data_only {
                file.durable.mode = version;
            }
        }
        self.commit_names();
    }

    /// What is there before anything begins is durable.
    pub fn settle(&mut self) {
        let all: Vec<u64> = self.files.keys().copied().collect();
        self.synced(&all, false);
    }

    fn commit_names(&mut self) {
        self.uncommitted = Uncommitted::default();
        self.note_names();
    }

    fn topology(&self) -> Topology {
        let directories = self.files.iter().filter(|(_, file)| file.kind == FileKind::Directory);
        Topology {
            names: self.names,
            directories: directories.map(|(inode, file)| (*inode, file.entries.clone())).collect(),
            uids: self.files.iter().map(|(inode, file)| (*inode, file.uid)).collect(),
        }
    }

    fn return_to(&mut self, state: &Topology) {
        let mut before: Vec<(u64, File)> = std::mem::take(&mut self.files).into_iter().collect();
        before.append(&mut self.uncommitted.gone);
        for (inode, mut file) in before {
            if state.uids.get(&inode) != Some(&file.uid) {
                continue;
            }
            file.entries = state.directories.get(&inode).cloned().unwrap_or_default();
            let root = root_of(volume_of(inode));
            let named = state.directories.values().flat_map(BTreeMap::values);
            let links = named.filter(|child| **child == inode).count() as u32;
            file.links = if inode == root { 1 } else { links };
            (file.named, file.open) = (links > 0, false);
            if file.links > 0 {
                self.files.insert(inode, file);
            }
        }
    }
}

impl PowerCut for Files {
    fn power_cut(&mut self, random: &mut Random) {
        self.note_names();
        let at = random.below(self.uncommitted.states.len());
        if let Some(state) = self.uncommitted.states.get(at).cloned() {
            self.return_to(&state);
        }
        // Whoever compares numbers of changes finds that something happened.
        self.version += 1;
        self.names += 1;
        let version = self.version;
        for file in self.files.values_mut() {
            file.power_cut(version, random);
        }
        self.settle();
    }
}

impl File {
    /// Whether all up to that version is on the disk.
    pub fn is_on_disk(&self, version: u64, data_only: bool) -> bool {
        let written = |history: &[(u64, Option<u64>)]| {
            history.iter().any(|(at, _)| *at > self.durable.content && *at <= version)
        };
        let content = !self.cell_history.iter().any(|history| written(history));
        let mode = |(at, _): &(u64, u64)| *at > self.durable.mode && *at <= version;
        content && (data_only || !self.mode_history.iter().any(mode))
    }

    fn power_cut(&mut self, now: u64, random: &mut Random) {
        let moment = |since: u64, random: &mut Random| since + random.below((now - since) as usize) as u64;
        // Half of the files had been written back.
        let all = if random.chance(50) { now } else { self.durable.content };
        let sized = moment(all.min(now - 1), random);
        let length = self.cell_history.iter().take_while(|cells| at(cells, sized).is_some()).count();
        let mut cells = Vec::with_capacity(length);
        for page in 0..length.div_ceil(PAGE) {
            let written = moment(all.min(now - 1), random);
            for cell in (page * PAGE..length).take(PAGE) {
                cells.push(at(&self.cell_history[cell], written).unwrap_or(0));
            }
        }
        self.cells = cells;
        self.note_cells(now);
        let moded = moment(self.durable.mode.min(now - 1), random);
        self.attributes.mode = *at(&self.mode_history, moded);
        self.mode_history.push((now, self.attributes.mode));
    }
}
