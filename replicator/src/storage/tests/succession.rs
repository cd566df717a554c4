//! Roles change: the copy becomes the primary's tree, and the former primary's tree the copy, file by file.

use std::fs;
use std::sync::atomic::AtomicBool;

use replicator_core::event::AppliedOutcome;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::succession::CopyOf;
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};

use super::fixture;
use super::mirror::Mirror;
use crate::storage::replica::{Former, Replica, ReplicaError};
use crate::storage::survey::{Sight, survey};

/// A mirror of a few files, the replica that the former primary's tree becomes, and which file is which.
struct Turned {
    mirror: Mirror,
    replica: Replica,
    copies: Vec<CopyOf>,
    _directory: tempfile::TempDir,
}

impl Turned {
    fn new() -> Option<Turned> {
        let directory = fixture::directory()?;
        let mut mirror = Mirror::new(directory.path());
        let at = |name: &str| mirror.primary.path.join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/f"), b"one").unwrap();
        fs::write(at("d/g"), b"two").unwrap();
        mirror.resync();
        let copies = mirror.replica.inheritance().expect("nothing is under way");
        let replica = Replica::new(vec![mirror.primary.clone()]);
        Some(Turned { mirror, replica, copies, _directory: directory })
    }

    /// The replica's node was the primary. `vouched`: the other node is sure to know all its files.
    fn leave(&self, vouched: bool) {
        let volume = &self.mirror.primary;
        let (mut former, mut files) = (Former::default(), Vec::new());
        survey(volume, &AtomicBool::new(false), &mut |sight| {
            if let Sight::File(seen) = sight {
                files.push(volume.file(seen.inode));
                former.see(volume.file(seen.inode), seen.kind, seen.handle);
            }
        })
        .unwrap();
        former.vouch_for(files.into_iter().filter(|_| vouched));
        self.replica.leave(former);
    }

    fn take_over(&self, copies: &[CopyOf]) -> Result<(), ReplicaError> {
        self.replica.begin_succession();
        self.replica.set_root(self.mirror.secondary.root_file()).unwrap();
        self.replica.take_over(copies, true)
    }

    /// The number of a file on the new primary.
    fn new_number(&self, path: &str) -> FileId {
        self.mirror.secondary.file(fixture::inode(&self.mirror.secondary.path.join(path)))
    }
}

#[test]
fn operations_under_the_new_numbers_reach_the_files_of_the_old_ones() {
    let Some(turned) = Turned::new() else { return };
    turned.leave(true);
    turned.take_over(&turned.copies).unwrap();
    assert_eq!(turned.replica.known_files(), turned.copies.len());
    let rename = Operation::Rename {
        old_parent: turned.new_number("d"),
        old_name: b"f".to_vec(),
        new_parent: turned.mirror.secondary.root_file(),
        new_name: b"moved".to_vec(),
        file: turned.new_number("d/f"),
        other: None,
        other_last: false,
        exchange: false,
    };
    turned.replica.apply_namespace(&rename).unwrap();
    assert_eq!(fs::read(turned.mirror.primary.path.join("moved")).unwrap(), b"one");
    turned.replica.end_resync().unwrap();
}

#[test]
fn what_the_other_node_must_know_and_does_not_is_no_start() {
    let Some(turned) = Turned::new() else { return };
    turned.leave(true);
    let file = turned.new_number("d/g");
    let but_one: Vec<CopyOf> = turned.copies.iter().filter(|copy| copy.here != file).copied().collect();
    let refused = turned.take_over(&but_one);
    assert!(matches!(refused, Err(ReplicaError::Disowned { count: 1, .. })), "{refused:?}");
    // It is asked once.
    assert!(matches!(turned.take_over(&turned.copies), Err(ReplicaError::Malformed { .. })));
}

#[test]
fn a_part_that_was_lost_on_the_way_is_told_again() {
    let Some(turned) = Turned::new() else { return };
    turned.leave(true);
    turned.replica.begin_succession();
    turned.replica.take_over(&turned.copies[..2], false).unwrap();
    turned.take_over(&turned.copies).unwrap();
    assert_eq!(turned.replica.known_files(), turned.copies.len());
}

#[test]
fn what_is_not_here_any_more_is_made_anew_and_told() {
    let Some(turned) = Turned::new() else { return };
    fs::remove_file(turned.mirror.primary.path.join("d/g")).unwrap();
    fs::write(turned.mirror.primary.path.join("d/g"), b"another").unwrap();
    let gone = turned.new_number("d/g");
    // Its number belongs to nothing, or to the file that has the name now: of another kind, to be sure.
    let copies = turned.copies.iter().map(|copy| match copy.here == gone {
        true => CopyOf { kind: FileKind::Fifo, ..*copy },
        false => *copy,
    });
    let copies: Vec<CopyOf> = copies.collect();
    turned.leave(false);
    turned.take_over(&copies).unwrap();
    let entry = |name: &str, file: FileId| ListedEntry {
        name: name.into(),
        node: NewNode {
            file,
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
        },
    };
    let list = Operation::List {
        directory: turned.new_number("d"),
        first: true,
        last: true,
        entries: vec![entry("f", turned.new_number("d/f")), entry("g", gone)],
    };
    let outcome = turned.replica.apply_namespace(&list).unwrap();
    assert_eq!(outcome, AppliedOutcome::Created(vec![gone]));
    assert_eq!(fs::read(turned.mirror.primary.path.join("d/f")).unwrap(), b"one");
    assert_eq!(fs::read(turned.mirror.primary.path.join("d/g")).unwrap(), b"");
}

#[test]
fn a_map_that_is_not_whole_is_not_left() {
    let Some(turned) = Turned::new() else { return };
    turned.mirror.replica.begin_resync();
    assert_eq!(turned.mirror.replica.inheritance(), None);
}
