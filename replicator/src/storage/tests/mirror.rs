//! A reader and a replica joined in one thread, as the core and the link join them: which operations are sent, when a
//! directory is listed, what is compared and what is copied.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use replicator_core::event::{AppliedOutcome, SegmentContent};
use replicator_core::extent::Extent;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::namespace::{ListedEntry, Operation};

use super::fixture;
use crate::storage::compare_trees::compare_trees;
use crate::storage::digest::read_full;
use crate::storage::reader;
use crate::storage::replica::{Applied, Replica};
use crate::volume::Volume;

/// Bytes digested and copied at a time.
const PIECE_BYTES: u64 = 256 << 10;

pub(super) struct Mirror {
    pub(super) primary: Arc<Volume>,
    pub(super) secondary: Arc<Volume>,
    pub(super) replica: Replica,
    /// Directories whose names the replica knows.
    listed: HashSet<FileId>,
    /// Files of any kind that were named to the replica.
    known: HashSet<FileId>,
    to_list: VecDeque<FileId>,
    /// Directories of which all that lies below is to be told again.
    deep: HashSet<FileId>,
    /// Files whose content is to be compared, or (`true`) sent as it is.
    content: BTreeMap<FileId, bool>,
    /// Files whose attributes are to be sent.
    attributes: BTreeSet<FileId>,
    /// Bytes that were sent.
    pub(super) sent: u64,
}

impl Mirror {
    /// A mirror of `a` in `b`, both in `parent`.
    pub(super) fn new(parent: &Path) -> Mirror {
        let primary = fixture::volume(parent, "a");
        let secondary = fixture::volume(parent, "b");
        let replica = Replica::new(vec![Arc::clone(&secondary)]);
        replica.set_root(primary.root_file()).expect("the root");
        Mirror {
            primary,
            secondary,
            replica,
            listed: HashSet::new(),
            known: HashSet::new(),
            to_list: VecDeque::new(),
            deep: HashSet::new(),
            content: BTreeMap::new(),
            attributes: BTreeSet::new(),
            sent: 0,
        }
    }

    /// Forget what the replica knows and begin to list.
    pub(super) fn begin(&mut self) {
        self.replica.begin_resync();
        self.listed.clear();
        self.deep.clear();
        self.known = HashSet::from([self.primary.root_file()]);
        self.content.clear();
        self.attributes.clear();
        self.to_list = VecDeque::from([self.primary.root_file()]);
        self.attributes.insert(self.primary.root_file());
    }

    /// Do one step; `false` if nothing is left to do.
    pub(super) fn step(&mut self) -> bool {
        if let Some(directory) = self.to_list.pop_front() {
            if self.known.contains(&directory) {
                self.list(directory);
            }
            return true;
        }
        if let Some((file, whole)) = self.content.pop_first() {
            self.send_content(file, whole);
            return true;
        }
        if let Some(file) = self.attributes.pop_first() {
            self.send_attributes(file);
            return true;
        }
        false
    }

    /// Go on until nothing is left to do, and end the resync.
    pub(super) fn finish(&mut self) {
        while self.step() {}
        self.replica.end_resync().expect("end the resync");
    }

    pub(super) fn resync(&mut self) {
        self.begin();
        self.finish();
    }

    /// Whether no directory is to be listed.
    pub(super) fn is_quiet(&self) -> bool {
        self.to_list.is_empty()
    }

    /// A directory changed in a way that no operation tells.
    pub(super) fn list_again(&mut self, directory: FileId) {
        if self.known.contains(&directory) {
            self.to_list.push_back(directory);
        }
    }

    /// An operation was done on the primary. As the core does: it is sent if all its directories are listed, and, of a rename,
    /// not to be listed again; else lists tell what happened.
    pub(super) fn happened(&mut self, operation: Operation) {
        let parents = match &operation {
            Operation::Create { parent, .. }
            | Operation::Link { parent, .. }
            | Operation::Unlink { parent, .. } => vec![*parent],
            Operation::Rename { old_parent, new_parent, .. } => vec![*old_parent, *new_parent],
            Operation::List { .. } => Vec::new(),
        };
        self.attributes.extend(&parents);
        let mut send = parents.iter().all(|parent| self.listed.contains(parent));
        if let Operation::Rename { file, other, exchange, .. } = &operation {
            send &= self.known.contains(file)
                && parents.iter().all(|parent| !self.to_list.contains(parent))
                && (!exchange || other.is_some_and(|other| self.known.contains(&other)));
        }
        match &operation {
            Operation::Unlink { file, last: true, .. } => self.forget(*file),
            Operation::Rename { other: Some(other), other_last: true, exchange: false, file, .. }
                if other != file =>
            {
                self.forget(*other);
            }
            Operation::Create { node, .. } => {
                self.forget(node.file);
                self.touched(node.file, node.kind, true);
                if send {
                    self.known.insert(node.file);
                    // A new directory is empty: nothing is to be listed.
                    if node.kind == FileKind::Directory {
                        self.listed.insert(node.file);
                    }
                }
            }
            Operation::Link { node, .. } => {
                let known = self.known.contains(&node.file);
                self.touched(node.file, node.kind, !known);
                if send {
                    self.known.insert(node.file);
                }
            }
            // XFS sets the modification times of directories that are exchanged (xfs_cross_rename).
            Operation::Rename { file, other: Some(other), exchange: true, .. } => {
                self.attributes.extend([*file, *other]);
            }
            _ => {}
        }
        if send {
            let outcome = self.replica.apply_namespace(&operation).expect("apply an operation");
            self.created(outcome);
        } else if matches!(operation, Operation::Rename { .. }) {
            for parent in parents {
                self.list_again(parent);
            }
        }
    }

    /// Bytes or attributes of a file changed on the primary.
    pub(super) fn touched(&mut self, file: FileId, kind: FileKind, whole: bool) {
        self.attributes.insert(file);
        if kind == FileKind::Regular {
            *self.content.entry(file).or_default() |= whole;
        }
    }

    fn forget(&mut self, file: FileId) {
        self.listed.remove(&file);
        self.known.remove(&file);
        self.deep.remove(&file);
        self.to_list.retain(|directory| *directory != file);
        self.content.remove(&file);
        self.attributes.remove(&file);
    }

    /// What the replica had to make is to be told from the start.
    fn created(&mut self, outcome: AppliedOutcome) {
        let AppliedOutcome::Created(files) = outcome else { return };
        for file in files {
            self.content.insert(file, true);
            self.attributes.insert(file);
            if self.listed.contains(&file) {
                self.deep.insert(file);
                self.to_list.push_back(file);
            }
        }
    }

    fn list(&mut self, directory: FileId) {
        let mut parts = Vec::new();
        let result = {
            let _lock = self.primary.lock_namespace();
            reader::list_directory(&self.primary, directory.inode, &mut |part| parts.push(part))
        };
        match result {
            Err(error) if reader::is_gone(&error) => return,
            result => drop(result.expect("list a directory")),
        }
        let deep = self.deep.remove(&directory);
        self.listed.insert(directory);
        for part in parts {
            let outcome = self.replica.apply_namespace(&part).expect("apply a list");
            let Operation::List { entries, .. } = part else { continue };
            for ListedEntry { node, .. } in entries {
                // What the replica knows already is neither compared nor listed again.
                if !self.known.insert(node.file) && !deep {
                    continue;
                }
                self.touched(node.file, node.kind, false);
                if node.kind == FileKind::Directory {
                    self.listed.remove(&node.file);
                    self.to_list.push_back(node.file);
                    if deep {
                        self.deep.insert(node.file);
                    }
                }
            }
            self.created(outcome);
        }
        self.attributes.insert(directory);
    }

    fn send_content(&mut self, file: FileId, whole: bool) {
        let source = match reader::open_for_read(&self.primary, file.inode) {
            // Gone, or not a regular file.
            Err(error) if reader::is_gone(&error) || reader::has_no_bytes(&error) => return,
            source => source.expect("open for reading"),
        };
        let mut position = 0;
        loop {
            let asked = Extent::at(position, PIECE_BYTES);
            let (digests, extent) = reader::digests(source.as_fd(), asked).expect("digest");
            if extent.is_empty() {
                break;
            }
            let differing = if whole {
                vec![extent]
            } else {
                self.replica.compare(file, extent, &digests).expect("compare").unwrap_or_default()
            };
            for extent in differing {
                self.copy(file, source.as_fd(), extent);
            }
            if extent.end < asked.end {
                break;
            }
            position = extent.end;
        }
        self.attributes.insert(file);
    }

    fn copy(&mut self, file: FileId, source: std::os::fd::BorrowedFd<'_>, extent: Extent) {
        let mut bytes = vec![0; extent.length() as usize];
        let read = read_full(source, &mut bytes, extent.start).expect("read");
        bytes.truncate(read);
        for segment in reader::segments(source, extent.start, &bytes).expect("segments") {
            let range = segment.extent;
            match segment.content {
                SegmentContent::Hole => {
                    self.replica.apply_hole(file, range).expect("apply a hole");
                }
                SegmentContent::Data => {
                    let Some(target) = self.replica.descriptor(file).expect("a descriptor") else { continue };
                    let from = (range.start - extent.start) as usize;
                    let data = &bytes[from..from + range.length() as usize];
                    self.replica.write(file, &target, range.start, data).expect("write");
                    self.sent += data.len() as u64;
                }
            }
        }
    }

    fn send_attributes(&mut self, file: FileId) {
        let attributes = match reader::attributes(&self.primary, file.inode) {
            Err(error) if reader::is_gone(&error) => return,
            attributes => attributes.expect("read attributes"),
        };
        let applied = self.replica.apply_attributes(file, &attributes).expect("apply attributes");
        // A file without a name that is still open would be ignored; here everything has a name.
        assert_eq!(applied, Applied::Done, "attributes of {file}");
    }

    /// Both trees must be the same, and nothing left in the orphanage.
    pub(super) fn assert_same(&self, context: &str) {
        let differences = compare_trees(&self.primary.path, &self.secondary.path).expect("compare");
        let shown: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert!(shown.is_empty(), "{context}: {shown:#?}");
        assert!(!self.secondary.path.join(".replicator/orphans").exists(), "{context}: orphans are left");
    }
}
