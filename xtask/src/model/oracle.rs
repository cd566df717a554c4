//! What the copy may hold at a moment, given what was done and what was synced: knows nothing of how it comes there.
//!
//! The promises held here: names are on the copy in the order in which they were made, and after any sync that returned none from
//! before it is missing; a file's bytes and attributes are those of its last sync, or each a later one; a file that was
//! never synced holds, byte for byte, something that was once there, or nothing yet. One that was made with an access control
//! list may still be without it, and is then for its owner only. What was synced before it had a name (O_TMPFILE) is there after the
//! next sync of the file or of a directory that names it.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::acl;
use super::observe::{self, Content, Depth, Entry, Tree};
use super::operation::{Operation, Outcome, Protection, Step, Sync};
use super::state::{Id, State};

/// Every state there was, and what of it is promised.
#[derive(Clone, Debug)]
pub struct History {
    states: Vec<State>,
    /// For each synced inode, the state at its last sync.
    synced: BTreeMap<Id, usize>,
    /// The same of files that had no name then: nothing is promised of them until their directory is synced.
    nameless: BTreeMap<Id, usize>,
    /// No names from before this state are missing.
    names: usize,
}

impl History {
    /// Begin with a state that is on the copy.
    #[must_use]
    pub fn new(state: State) -> History {
        History { states: vec![state], synced: BTreeMap::new(), nameless: BTreeMap::new(), names: 0 }
    }

    /// The last state.
    #[must_use]
    pub fn last(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    /// Everything is on the copy now, or was on it at the last state.
    pub fn all_synced(&mut self) {
        let last = self.states.len() - 1;
        self.names = last;
        self.synced = (0..self.last().inodes()).map(|id| (id, last)).collect();
    }

    /// A step that led to `state`. Whether its outcome was a promise of durability is returned.
    pub fn note(&mut self, step: &Step, outcome: &Outcome, state: State) -> bool {
        let synced = if matches!(outcome, Outcome::Done(_)) { self.synced_by(step) } else { None };
        self.states.push(state);
        if let Some(id) = synced {
            let last = self.states.len() - 1;
            self.names = last;
            self.note_synced(id, last);
        }
        synced.is_some()
    }

    /// A step that was under way when everything ended: its effect may be there or not.
    pub fn perhaps(&mut self, step: &Step) {
        let mut state = self.last().clone();
        if state.allows(step) {
            state.take(step);
            self.states.push(state);
        }
    }

    fn note_synced(&mut self, id: Id, at: usize) {
        let state = &self.states[at];
        if state.inode(id).links == 0 {
            self.nameless.insert(id, at);
            return;
        }
        for child in state.names(id).into_iter().flat_map(|names| names.values()) {
            if let Some(before) = self.nameless.remove(child) {
                self.synced.entry(*child).or_insert(before);
            }
        }
        self.nameless.remove(&id);
        self.synced.insert(id, at);
    }

    fn synced_by(&self, step: &Step) -> Option<Id> {
        let process = &self.last().processes[usize::from(step.actor)];
        let open = |slot: &u8| process.slots[usize::from(*slot)];
        match &step.operation {
            Operation::Sync { slot, what, .. } if *what != Sync::System => open(slot).map(|open| open.id),
            Operation::SyncPath { path } => self.last().find(path, true).ok(),
            // A write of nothing waits for nobody.
            Operation::Write { slot, length, .. } if *length > 0 => open(slot)
                .filter(|open| open.synchronous && (!open.direct || *length >= super::operation::BLOCK))
                .map(|open| open.id),
            _ => None,
        }
    }

    /// What of a copy is against the promises, in words; nothing if it is legal.
    #[must_use]
    pub fn check(&self, copy: &Tree) -> Vec<String> {
        let mut best: Option<Vec<String>> = None;
        for state in self.states[self.names..].iter().rev() {
            let found = self.check_as(copy, state);
            if found.is_empty() {
                return found;
            }
            if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                best = Some(found);
            }
        }
        best.unwrap_or_default()
    }

    /// The same, if the copy's names are those of `state`.
    fn check_as(&self, copy: &Tree, state: &State) -> Vec<String> {
        let names = shape(&observe::model(state));
        let mut found = observe::differences(&names, &shape(copy), Depth::Synced);
        if !found.is_empty() {
            return found;
        }
        for (path, id) in state.tree() {
            let (Some(entry), versions) = (copy.get(&path), self.versions(id)) else { continue };
            let synced = self.synced.contains_key(&id);
            found.extend(
                illegal(entry, &versions, synced).into_iter().map(|what| format!("{path:?}: {what}")),
            );
        }
        found
    }

    /// What an inode was since its last sync, or ever.
    fn versions(&self, id: Id) -> Vec<Entry> {
        let from = self.synced.get(&id).copied().unwrap_or(0);
        let mut versions: Vec<Entry> = Vec::new();
        for state in self.states[from..].iter().filter(|state| id < state.inodes()) {
            let entry = observe::entry(state, id);
            if versions.last() != Some(&entry) {
                versions.push(entry);
            }
        }
        versions
    }
}

/// Names alone: bytes, modes and attributes left out.
fn shape(tree: &Tree) -> Tree {
    let bare = |entry: &Entry| {
        let content = match &entry.content {
            Content::Bytes(_) => Content::Bytes(Rc::default()),
            other => other.clone(),
        };
        let attributes = BTreeMap::new();
        let protection = Protection::Nothing;
        let identity = entry.identity;
        Entry { content, mode: 0, uid: 0, gid: 0, attributes, protection, modified: None, identity }
    };
    tree.iter().map(|(path, entry)| (path.clone(), bare(entry))).collect()
}

fn illegal(entry: &Entry, versions: &[Entry], synced: bool) -> Vec<String> {
    let mut found = Vec::new();
    if let Content::Bytes(bytes) = &entry.content {
        let all: Vec<&[u8]> = versions
            .iter()
            .filter_map(|version| match &version.content {
                Content::Bytes(bytes) => Some(bytes.as_slice()),
                _ => None,
            })
            .collect();
        found.extend(illegal_bytes(bytes, &all, synced));
    }
    let closed = !synced && is_closed(entry, versions);
    if !closed && !versions.iter().any(|version| version.mode == entry.mode) {
        let was: Vec<String> = versions.iter().map(|version| format!("{:o}", version.mode)).collect();
        found.push(format!("mode {:o}, was {was:?}", entry.mode));
    }
    if !versions.iter().any(|version| (version.uid, version.gid) == (entry.uid, entry.gid)) {
        let was: Vec<_> = versions.iter().map(|version| (version.uid, version.gid)).collect();
        found.push(format!("owner {}:{}, was {was:?}", entry.uid, entry.gid));
    }
    if !versions.iter().any(|version| version.protection == entry.protection) {
        found.push(format!("protection {:?} was never so", entry.protection));
    }
    let keys = versions.iter().flat_map(|version| version.attributes.keys()).chain(entry.attributes.keys());
    for key in keys.collect::<std::collections::BTreeSet<_>>() {
        let inherited = closed && key == acl::ACCESS || !synced && key == acl::DEFAULT;
        if inherited && !entry.attributes.contains_key(key) {
            continue;
        }
        if !versions.iter().any(|version| version.attributes.get(key) == entry.attributes.get(key)) {
            found.push(format!("attribute {key} {:?} was never so", entry.attributes.get(key)));
        }
    }
    found
}

/// Whether it waits for its lists, open to its owner only. They may come just after its mode was looked at.
fn is_closed(entry: &Entry, versions: &[Entry]) -> bool {
    let has_list = |entry: &Entry| entry.attributes.contains_key(acl::ACCESS);
    let waits_for = |version: &Entry| has_list(version) && version.mode & !0o077 == entry.mode;
    entry.mode & 0o077 == 0 && versions.iter().any(waits_for)
}

fn illegal_bytes(bytes: &[u8], versions: &[&[u8]], synced: bool) -> Option<String> {
    if versions.contains(&bytes) {
        return None;
    }
    let longest = versions.iter().map(|version| version.len()).max().unwrap_or(0);
    let shortest = if synced { versions.iter().map(|version| version.len()).min().unwrap_or(0) } else { 0 };
    if !(shortest..=longest).contains(&bytes.len()) {
        return Some(format!("{} bytes, was {shortest} to {longest}", bytes.len()));
    }
    // What was beyond the end at a time may be a hole.
    let legal = |at: usize, byte: u8| {
        byte == 0 && (!synced || at >= shortest)
            || versions.iter().any(|version| version.get(at) == Some(&byte))
    };
    let at = bytes.iter().enumerate().position(|(at, byte)| !legal(at, *byte))?;
    let was: Vec<_> = versions.iter().map(|version| version.get(at)).collect();
    Some(format!("byte {at} of {} is {}, was {was:?}", bytes.len(), bytes[at]))
}

#[cfg(test)]
mod tests {
    use super::super::operation::{Flags, Via, Write};
    use super::*;

    fn run(steps: &[Operation]) -> History {
        let mut history = History::new(State::new(1));
        for operation in steps {
            let step = Step { actor: 0, operation: operation.clone() };
            let mut state = history.last().clone();
            let outcome = state.take(&step);
            assert!(matches!(outcome, Outcome::Done(_)), "{step}: {outcome:?}");
            history.note(&step, &outcome, state);
        }
        history
    }

    fn open(path: &str) -> Operation {
        let flags = Flags { read: true, write: true, create: true, ..Flags::default() };
        Operation::Open { slot: 0, path: path.to_owned(), flags, mode: 0o644 }
    }

    fn write(at: u64, length: u64, tag: u64) -> Operation {
        Operation::Write { slot: 0, at, length, tag, how: Write::Plain, via: Via::Call }
    }

    const SYNC: Operation = Operation::Sync { slot: 0, what: Sync::All, via: Via::Call };

    fn rename(from: &str, to: &str) -> Operation {
        let how = super::super::operation::Rename::Plain;
        Operation::Rename { from: from.to_owned(), to: to.to_owned(), how }
    }

    fn copy(steps: &[Operation]) -> Tree {
        observe::model(run(steps).last())
    }

    #[test]
    fn synced_bytes_may_be_newer_but_not_older() {
        let history = run(&[open("a"), write(0, 100, 1), SYNC, write(50, 10, 2)]);
        assert!(history.check(&copy(&[open("a"), write(0, 100, 1)])).is_empty());
        assert!(history.check(&copy(&[open("a"), write(0, 100, 1), write(50, 10, 2)])).is_empty());
        assert!(!history.check(&copy(&[open("a"), write(0, 99, 1)])).is_empty(), "too short");
        assert!(!history.check(&copy(&[open("a")])).is_empty(), "nothing");
        assert!(!history.check(&copy(&[open("a"), write(0, 100, 3)])).is_empty(), "never so");
        assert!(!history.check(&copy(&[open("b"), write(0, 100, 1)])).is_empty(), "another name");
        assert!(!history.check(&copy(&[])).is_empty(), "no name");
    }

    #[test]
    fn unsynced_bytes_may_be_missing_but_not_invented() {
        let history = run(&[open("a"), write(0, 100, 1)]);
        assert!(history.check(&copy(&[])).is_empty());
        assert!(history.check(&copy(&[open("a")])).is_empty());
        assert!(history.check(&copy(&[open("a"), write(0, 60, 1)])).is_empty());
        assert!(!history.check(&copy(&[open("a"), write(0, 60, 2)])).is_empty());
        assert!(!history.check(&copy(&[open("a"), write(0, 101, 1)])).is_empty());
    }

    #[test]
    fn names_are_those_of_one_moment_after_the_last_sync() {
        let history = run(&[open("a"), SYNC, rename("a", "b"), rename("b", "c")]);
        for name in ["a", "b", "c"] {
            assert!(history.check(&copy(&[open(name)])).is_empty(), "{name}");
        }
        let link = Operation::Link { from: "a".to_owned(), to: "b".to_owned() };
        assert!(!history.check(&copy(&[open("a"), link])).is_empty(), "both names at once");
        assert!(!history.check(&copy(&[])).is_empty(), "no name at all");
    }

    #[test]
    fn what_was_synced_without_a_name_is_there_when_its_directory_is_synced() {
        let nameless =
            Operation::OpenNameless { slot: 0, directory: "d".into(), exclusive: false, mode: 0o644 };
        let make = Operation::MakeDirectory { path: "d".into(), mode: 0o755 };
        let link = Operation::LinkSlot { slot: 0, to: "d/a".into() };
        let mut steps = vec![make.clone(), nameless.clone(), write(0, 10, 1), SYNC, link.clone()];
        let empty = copy(&[make, nameless, link]);
        assert!(run(&steps).check(&empty).is_empty());
        steps.push(Operation::SyncPath { path: "d".into() });
        assert!(!run(&steps).check(&empty).is_empty());
    }

    #[test]
    fn what_was_under_way_may_be_there_or_not() {
        let mut history = run(&[open("a"), SYNC]);
        history.perhaps(&Step { actor: 0, operation: rename("a", "b") });
        assert!(history.check(&copy(&[open("a")])).is_empty());
        assert!(history.check(&copy(&[open("b")])).is_empty());
    }
}
