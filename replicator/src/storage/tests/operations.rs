//! Single operations on a replica: idempotent, converging, and ignored where that is safe.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use replicator_core::event::AppliedOutcome;
use replicator_core::extent::Extent;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::attributes::{Attributes, InodeFlags, Timestamp};
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};

use super::fixture::{self, Image, inode};
use super::mirror::Mirror;
use super::random_tree::set_xattr;
use crate::storage::replica::{Applied, ReplicaError};

/// A replica of an empty tree, after its resync. Files of the primary are made up: only their numbers matter.
pub(super) struct Replicated {
    pub(super) mirror: Mirror,
    _directory: tempfile::TempDir,
}

impl Replicated {
    pub(super) fn new() -> Option<Replicated> {
        let directory = fixture::directory()?;
        let mut mirror = Mirror::new(directory.path());
        mirror.resync();
        Some(Replicated { mirror, _directory: directory })
    }

    pub(super) fn root(&self) -> FileId {
        self.mirror.primary.root_file()
    }

    pub(super) fn path(&self) -> &Path {
        &self.mirror.secondary.path
    }

    pub(super) fn inode(&self, name: &str) -> u64 {
        inode(&self.path().join(name))
    }

    pub(super) fn apply(&self, operation: &Operation) -> AppliedOutcome {
        let outcome = self.mirror.replica.apply_namespace(operation).expect("apply");
        // Each may come again.
        let before = super::random_tree::walk(self.path());
        self.mirror.replica.apply_namespace(operation).expect("apply again");
        assert_eq!(super::random_tree::walk(self.path()), before, "{operation:?} is not idempotent");
        outcome
    }

    pub(super) fn create(&self, number: u64, name: &str, kind: FileKind) {
        let operation =
            Operation::Create { parent: self.root(), name: name.into(), node: self.node(number, kind) };
        assert_eq!(self.apply(&operation), AppliedOutcome::Done);
    }

    pub(super) fn node(&self, number: u64, kind: FileKind) -> NewNode {
        let file = self.file(number);
        NewNode { file, kind, mode: 0o4755, uid: 5, gid: 6, rdev: 0, target: Vec::new() }
    }

    pub(super) fn file(&self, number: u64) -> FileId {
        self.mirror.primary.file(number)
    }

    pub(super) fn rename(
        &self,
        number: u64,
        from: &str,
        to: &str,
        other: Option<(u64, bool)>,
        exchange: bool,
    ) -> Operation {
        Operation::Rename {
            old_parent: self.root(),
            old_name: from.into(),
            new_parent: self.root(),
            new_name: to.into(),
            file: self.file(number),
            other: other.map(|(other, _)| self.file(other)),
            other_last: other.is_some_and(|(_, last)| last),
            exchange,
        }
    }

    pub(super) fn list(&self, entries: &[(&str, u64, FileKind)]) -> Operation {
        let entries = entries
            .iter()
            .map(|&(name, number, kind)| ListedEntry { name: name.into(), node: self.node(number, kind) })
            .collect();
        Operation::List { directory: self.root(), first: true, last: true, entries }
    }

    pub(super) fn names(&self) -> Vec<String> {
        super::random_tree::walk(self.path())[1..]
            .iter()
            .map(|path| path.strip_prefix(self.path()).expect("inside").display().to_string())
            .collect()
    }
}

use FileKind::{Directory, Regular};

#[test]
fn a_new_file_has_its_mode_and_owner_at_once() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    let found = fs::metadata(replicated.path().join("f")).expect("stat");
    assert_eq!((found.mode(), found.uid(), found.gid()), (0o104_755, 5, 6));
}

#[test]
fn a_new_file_inherits_no_list_on_the_copy() {
    let Some(replicated) = Replicated::new() else { return };
    set_xattr(replicated.path(), c"system.posix_acl_default", &super::random_tree::acl(3));
    replicated.create(1000, "f", Regular);
    replicated.create(1001, "d", Directory);
    for name in ["f", "d"] {
        let path = replicated.path().join(name);
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o4755);
        let opened = fs::File::open(&path).expect("open");
        let attributes = crate::storage::reader::attributes_of(opened.as_fd()).expect("attributes");
        assert_eq!(attributes.xattrs, []);
    }
}

#[test]
fn a_number_that_is_used_again_is_a_new_file() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "old", Regular);
    fs::write(replicated.path().join("old"), b"content").expect("write");
    replicated.create(1000, "new", Regular);
    assert_ne!(replicated.inode("old"), replicated.inode("new"));
    assert_eq!(fs::read(replicated.path().join("new")).expect("read"), b"");
    // The descriptor follows.
    let descriptor =
        replicated.mirror.replica.descriptor(replicated.file(1000)).expect("open").expect("known");
    assert_eq!(nix::sys::stat::fstat(&descriptor).expect("stat").st_ino, replicated.inode("new"));
}

#[test]
fn a_link_to_an_unknown_file_makes_it() {
    let Some(replicated) = Replicated::new() else { return };
    let link = |name: &str| Operation::Link {
        parent: replicated.root(),
        name: name.into(),
        node: replicated.node(1000, Regular),
    };
    let outcome = replicated.apply(&link("one"));
    assert_eq!(outcome, AppliedOutcome::Created(vec![replicated.file(1000)]));
    assert_eq!(replicated.apply(&link("two")), AppliedOutcome::Done);
    assert_eq!(replicated.inode("one"), replicated.inode("two"));
    let directory = Operation::Link {
        parent: replicated.root(),
        name: b"three".to_vec(),
        node: replicated.node(1001, Directory),
    };
    let refused = replicated.mirror.replica.apply_namespace(&directory);
    assert!(matches!(refused, Err(ReplicaError::Malformed { .. })));
}

#[test]
fn in_a_resync_an_unlink_elsewhere_ends_a_file() {
    let Some(replicated) = Replicated::new() else { return };
    let unlink = |parent| Operation::Unlink {
        parent: replicated.file(parent),
        name: b"f".to_vec(),
        file: replicated.file(1000),
        directory: false,
        last: true,
    };
    replicated.create(1000, "f", Regular);
    let refused = replicated.mirror.replica.apply_namespace(&unlink(4242));
    assert!(matches!(refused, Err(ReplicaError::Unknown { .. })));
    replicated.mirror.replica.begin_resync();
    replicated.apply(&replicated.list(&[("f", 1000, Regular)]));
    replicated.apply(&unlink(4242));
    assert!(replicated.mirror.replica.descriptor(replicated.file(1000)).expect("ignored").is_none());
    assert_eq!(replicated.names(), ["f"]);
}

#[test]
fn a_number_that_comes_back_as_another_kind_is_a_new_file() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    replicated.mirror.replica.begin_resync();
    replicated.apply(&replicated.list(&[("f", 1000, Regular)]));
    replicated.apply(&replicated.list(&[("f", 1000, Directory), ("g", 1001, Regular)]));
    assert!(fs::metadata(replicated.path().join("f")).expect("stat").is_dir());
    replicated.apply(&replicated.list(&[("g", 1000, FileKind::Fifo)]));
    assert_eq!(replicated.names(), ["g"]);
    replicated.mirror.replica.end_resync().expect("end");
    assert!(!replicated.path().join(".replicator/orphans").exists());
}

#[test]
fn an_unlink_removes_the_name_and_with_the_last_the_file() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "one", Regular);
    let two = Operation::Link {
        parent: replicated.root(),
        name: b"two".to_vec(),
        node: replicated.node(1000, Regular),
    };
    replicated.apply(&two);
    let unlink = |name: &str, last| Operation::Unlink {
        parent: replicated.root(),
        name: name.into(),
        file: replicated.file(1000),
        directory: false,
        last,
    };
    replicated.apply(&unlink("one", false));
    assert!(replicated.mirror.replica.descriptor(replicated.file(1000)).expect("open").is_some());
    replicated.apply(&unlink("two", true));
    assert_eq!(replicated.names(), [""; 0]);
    assert!(replicated.mirror.replica.descriptor(replicated.file(1000)).expect("ignored").is_none());
    assert_eq!(replicated.mirror.replica.counters().deviations, 0);
}

#[test]
fn a_directory_that_is_not_empty_is_not_lost_by_rmdir() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "d", Directory);
    fs::write(replicated.path().join("d/unexpected"), b"x").expect("write");
    let rmdir = Operation::Unlink {
        parent: replicated.root(),
        name: b"d".to_vec(),
        file: replicated.file(1000),
        directory: true,
        last: true,
    };
    replicated.apply(&rmdir);
    assert_eq!(replicated.names(), [""; 0]);
    let counters = replicated.mirror.replica.counters();
    assert_eq!((counters.deviations, counters.orphaned), (1, 1));
    let orphans = super::random_tree::walk(&replicated.path().join(".replicator"));
    assert!(orphans.iter().any(|path| path.ends_with("unexpected")));
    replicated.mirror.replica.end_resync().expect("empty the orphanage");
    assert!(!replicated.path().join(".replicator/orphans").exists());
}

#[test]
fn renames_replace_exchange_and_do_nothing_between_links() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "a", Regular);
    replicated.create(1001, "b", Regular);
    replicated.create(1002, "c", Directory);
    let (a, c) = (replicated.inode("a"), replicated.inode("c"));
    replicated.apply(&replicated.rename(1000, "a", "b", Some((1001, true)), false));
    assert_eq!((replicated.names(), replicated.inode("b")), (vec!["b".into(), "c".into()], a));
    assert!(replicated.mirror.replica.descriptor(replicated.file(1001)).expect("gone").is_none());
    replicated.apply(&replicated.rename(1000, "b", "c", Some((1002, false)), true));
    assert_eq!((replicated.inode("b"), replicated.inode("c")), (c, a));
    let link = Operation::Link {
        parent: replicated.root(),
        name: b"link".to_vec(),
        node: replicated.node(1000, Regular),
    };
    replicated.apply(&link);
    replicated.apply(&replicated.rename(1000, "c", "link", Some((1000, false)), false));
    assert_eq!(replicated.names(), ["b", "c", "link"]);
    assert_eq!(replicated.mirror.replica.counters().deviations, 0);
}

#[test]
fn a_rename_of_what_is_elsewhere_converges() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "a", Regular);
    replicated.create(1001, "d", Directory);
    fs::create_dir(replicated.path().join("in-the-way")).expect("mkdir");
    let (a, d) = (replicated.inode("a"), replicated.inode("d"));
    replicated.apply(&replicated.rename(1000, "wrong", "b", None, false));
    assert_eq!(replicated.inode("b"), a);
    replicated.apply(&replicated.rename(1001, "wrong", "in-the-way", None, false));
    assert_eq!(replicated.inode("in-the-way"), d);
    assert!(replicated.mirror.replica.counters().deviations > 0);
    let unknown = replicated.rename(4242, "a", "b", None, false);
    assert!(matches!(replicated.mirror.replica.apply_namespace(&unknown), Err(ReplicaError::Unknown { .. })));
}

/// A directory that was moved out of the tree and back may be listed before its new parent's list brings it: nothing is done, part by part,
/// and what comes later is not taken for a part of it.
#[test]
fn a_list_of_a_directory_without_a_copy_is_passed_over() {
    let Some(replicated) = Replicated::new() else { return };
    let list =
        |first, last| Operation::List { directory: replicated.file(4242), first, last, entries: Vec::new() };
    let before = replicated.mirror.replica.counters().ignored;
    for (first, last) in [(true, false), (false, false), (false, true), (true, true), (true, false)] {
        let outcome = replicated.mirror.replica.apply_namespace(&list(first, last)).expect("passed over");
        assert_eq!(outcome, replicator_core::event::AppliedOutcome::Done);
    }
    assert_eq!(replicated.mirror.replica.counters().ignored, before + 5);
    // It is cut off, and the directory is here by now.
    replicated.create(4242, "d", Directory);
    fs::write(replicated.path().join("d/left"), b"1").expect("write");
    replicated.apply(&list(true, true));
    assert_eq!(fs::read_dir(replicated.path().join("d")).expect("list").count(), 0);
    assert!(matches!(
        replicated.mirror.replica.apply_namespace(&Operation::List {
            directory: replicated.file(4242),
            first: false,
            last: true,
            entries: Vec::new(),
        }),
        Err(ReplicaError::Malformed { .. })
    ));
}

#[test]
fn links_follow_the_numbers() {
    let Some(replicated) = Replicated::new() else { return };
    // Here a and b are one file, c another; on the primary a and c are one.
    fs::write(replicated.path().join("a"), b"1").expect("write");
    fs::hard_link(replicated.path().join("a"), replicated.path().join("b")).expect("link");
    fs::write(replicated.path().join("c"), b"2").expect("write");
    replicated.mirror.replica.begin_resync();
    let list = replicated.list(&[("a", 1, Regular), ("b", 2, Regular), ("c", 1, Regular)]);
    let outcome = replicated.apply(&list);
    assert_eq!(outcome, AppliedOutcome::Created(vec![replicated.file(2)]));
    assert_eq!(replicated.inode("a"), replicated.inode("c"));
    assert_ne!(replicated.inode("a"), replicated.inode("b"));
}

#[test]
fn kinds_that_changed_are_replaced() {
    let Some(replicated) = Replicated::new() else { return };
    for name in ["directory", "file", "fifo"] {
        fs::create_dir_all(replicated.path().join(name).join("with/content")).expect("mkdir");
    }
    fs::write(replicated.path().join("other"), b"x").expect("write");
    replicated.mirror.replica.begin_resync();
    let list = replicated.list(&[
        ("directory", 1, Directory),
        ("file", 2, Regular),
        ("fifo", 3, FileKind::Fifo),
        ("other", 4, Directory),
    ]);
    let outcome = replicated.apply(&list);
    assert_eq!(outcome, AppliedOutcome::Created([2, 3, 4].map(|number| replicated.file(number)).to_vec()));
    replicated.mirror.replica.end_resync().expect("end");
    assert_eq!(
        replicated.names(),
        ["directory", "fifo", "file", "other", "directory/with", "directory/with/content"]
    );
}

#[test]
fn what_was_deleted_too_early_is_made_anew_and_not_adopted() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    replicated.create(1001, "d", Directory);
    replicated.apply(&replicated.list(&[]));
    assert!(replicated.mirror.replica.delete_orphans().expect("delete"));
    fs::write(replicated.path().join("f"), b"of somebody else").expect("write");
    let outcome = replicated.apply(&replicated.list(&[("d", 1001, Directory), ("f", 1000, Regular)]));
    let both = [1001, 1000].map(|number| replicated.file(number)).to_vec();
    assert_eq!(outcome, AppliedOutcome::Created(both));
    assert_eq!(fs::read(replicated.path().join("f")).expect("read"), b"");
}

#[test]
fn a_stream_that_goes_on_keeps_what_is_mapped_and_drops_half_a_list() {
    let Some(replicated) = Replicated::new() else { return };
    let replica = &replicated.mirror.replica;
    for (number, name) in [(1000, "f"), (1001, "g"), (1002, "h")] {
        replicated.create(number, name, Regular);
    }
    let inodes = ["f", "g"].map(|name| replicated.inode(name));
    let Operation::List { directory, entries, .. } = replicated.list(&[("g", 1000, Regular)]) else { return };
    // The session ends within a list, by which one file has the name of another.
    let half = Operation::List { directory, first: true, last: false, entries };
    replica.apply_namespace(&half).expect("the first part");
    replica.resume();
    assert!(replica.descriptor(replicated.file(1001)).expect("still a file").is_some());
    let outcome = replicated.apply(&replicated.list(&[("g", 1000, Regular), ("moved", 1001, Regular)]));
    assert_eq!(outcome, AppliedOutcome::Done);
    assert_eq!([replicated.inode("g"), replicated.inode("moved")], inodes);
    replica.end_resync().expect("end");
    assert_eq!(replicated.names(), ["g", "moved"]);
    assert_eq!(replica.counters().deviations, 0);
}

#[test]
fn a_list_is_not_interrupted() {
    let Some(replicated) = Replicated::new() else { return };
    let replica = &replicated.mirror.replica;
    let root = replicated.root();
    let part = |first, last| Operation::List { directory: root, first, last, entries: Vec::new() };
    let malformed = |result: Result<_, _>| matches!(result, Err(ReplicaError::Malformed { .. }));
    assert!(malformed(replica.apply_namespace(&part(false, true))));
    replica.apply_namespace(&part(true, false)).expect("the first part");
    let create = Operation::Create { parent: root, name: b"n".to_vec(), node: replicated.node(1, Regular) };
    assert!(malformed(replica.apply_namespace(&create)));
    assert!(malformed(replica.apply_namespace(&part(true, true))));
    assert!(malformed(replica.end_resync().map(|()| AppliedOutcome::Done)));
}

#[test]
fn frames_about_unknown_files_are_ignored_and_counted() {
    let Some(replicated) = Replicated::new() else { return };
    let replica = &replicated.mirror.replica;
    let file = replicated.file(1000);
    let attributes = Attributes { mode: 0o100_600, ..Attributes::default() };
    let extent = Extent { start: 0, end: 1 };
    let payload = [0, 0, 1, 0].into_iter().chain([9; 16]).collect::<Vec<_>>();
    assert_eq!(replica.apply_attributes(file, &attributes).expect("ignored"), Applied::Ignored);
    assert_eq!(replica.apply_hole(file, extent).expect("ignored"), Applied::Ignored);
    assert!(replica.compare(file, extent, &payload).expect("ignored").is_none());
    assert!(replica.descriptor(file).expect("ignored").is_none());
    assert_eq!(replica.counters().ignored, 4);
    // A directory is known, and is nothing with bytes.
    assert_eq!(replica.apply_hole(replicated.root(), extent).expect("ignored"), Applied::Ignored);
    assert!(replica.compare(replicated.root(), extent, &payload).expect("ignored").is_none());
    assert!(replica.descriptor(replicated.root()).expect("open").is_some());
}

#[test]
fn a_file_that_somebody_else_deleted_is_lost_and_not_ignored() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    let replica = &replicated.mirror.replica;
    let file = replicated.file(1000);
    let _open = replica.descriptor(file).expect("open").expect("known");
    fs::remove_file(replicated.path().join("f")).expect("remove");
    assert!(matches!(replica.descriptor(file), Err(ReplicaError::Lost { .. })));
    assert!(matches!(replica.sync_target(file), Err(ReplicaError::Lost { .. })));
}

/// xfs shows root its own form of access lists beside them.
#[test]
fn a_list_is_one_attribute_on_every_file_system() {
    let Some(image) = Image::xfs() else { return };
    let path = image.path().join("f");
    fs::write(&path, b"").expect("write");
    let list = super::random_tree::acl(3);
    set_xattr(&path, c"system.posix_acl_access", &list);
    let opened = fs::File::open(&path).expect("open");
    let attributes = crate::storage::reader::attributes_of(opened.as_fd()).expect("attributes");
    assert_eq!(attributes.xattrs, [(b"system.posix_acl_access".to_vec(), list)]);
}

#[test]
fn attributes_are_set_exactly() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    let path = replicated.path().join("f");
    fs::write(&path, vec![1; 10_000]).expect("write");
    set_xattr(&path, c"user.extra", b"1");
    set_xattr(&path, c"system.posix_acl_access", &super::random_tree::acl(3));
    let capability = [1, 0, 0, 2, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let wanted = Attributes {
        mode: 0o106_751,
        uid: 77,
        gid: 88,
        size: 5000,
        atime: Timestamp { seconds: -5, nanoseconds: 1 },
        mtime: Timestamp { seconds: 3_000_000_000, nanoseconds: 999_999_999 },
        xattrs: vec![(b"security.capability".to_vec(), capability), (b"user.new".to_vec(), Vec::new())],
        flags: Some(InodeFlags::NONE),
    };
    let replica = &replicated.mirror.replica;
    let file = replicated.file(1000);
    for _ in 0..2 {
        assert_eq!(replica.apply_attributes(file, &wanted).expect("apply"), Applied::Done);
        let secondary = &replicated.mirror.secondary;
        let number = inode(&path);
        secondary.learn_at(secondary.root(), b"f", number).expect("learn");
        assert_eq!(crate::storage::reader::attributes(secondary, number).expect("read"), wanted);
    }
    assert_eq!(fs::read(&path).expect("read"), vec![1; 5000]);
    for nonsense in [
        Attributes { mode: 0o600, ..wanted.clone() },
        Attributes { uid: u32::MAX, ..wanted.clone() },
        Attributes { size: u64::MAX, ..wanted.clone() },
        Attributes { mtime: Timestamp { seconds: 0, nanoseconds: 0x3fff_ffff }, ..wanted.clone() },
        Attributes { xattrs: vec![(b"system.other".to_vec(), vec![1])], ..wanted.clone() },
        Attributes { xattrs: vec![(b"user.a\0b".to_vec(), vec![1])], ..wanted.clone() },
    ] {
        let refused = replica.apply_attributes(file, &nonsense);
        assert!(matches!(refused, Err(ReplicaError::Malformed { .. })), "{nonsense:?}");
    }
}

#[test]
fn digests_that_differ_are_told_apart() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    let replica = &replicated.mirror.replica;
    let file = replicated.file(1000);
    let block = 65_536_u64;
    let theirs = tempfile::tempfile().expect("a file");
    theirs.write_all_at(&vec![1; 10 * block as usize + 100], 0).expect("write");
    let ours = fs::OpenOptions::new().write(true).open(replicated.path().join("f")).expect("open");
    ours.write_all_at(&vec![1; 10 * block as usize + 100], 0).expect("write");
    let compare = || {
        let (payload, extent) =
            crate::storage::reader::digests(std::os::fd::AsFd::as_fd(&theirs), Extent::WHOLE)
                .expect("digest");
        replica.compare(file, extent, &payload).expect("compare").expect("known")
    };
    assert_eq!(compare(), []);
    for at in [block, 2 * block + 5, 10 * block + 99] {
        ours.write_all_at(&[2], at).expect("write");
    }
    let end = 10 * block + 100;
    assert_eq!(compare(), [Extent { start: block, end: 3 * block }, Extent { start: 10 * block, end }]);
    ours.set_len(5 * block + 1).expect("shorter");
    assert_eq!(compare(), [Extent { start: block, end: 3 * block }, Extent { start: 5 * block, end }]);
    ours.set_len(0).expect("empty");
    assert_eq!(compare(), [Extent { start: 0, end }]);
    let extent = Extent { start: 0, end: block };
    for nonsense in [&b""[..], &[0; 20], &[0, 0, 1, 0], &[1, 0, 1, 0, 1], &[0; 37]] {
        let refused = replica.compare(file, extent, nonsense);
        assert!(matches!(refused, Err(ReplicaError::Malformed { .. })), "{nonsense:?}");
    }
}

#[test]
fn holes_are_punched_and_extend_as_bytes_do() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    let path = replicated.path().join("f");
    fs::write(&path, vec![1; 100_000]).expect("write");
    let replica = &replicated.mirror.replica;
    let file = replicated.file(1000);
    assert_eq!(replica.apply_hole(file, Extent { start: 8192, end: 90_112 }).expect("punch"), Applied::Done);
    assert_eq!(
        replica.apply_hole(file, Extent { start: 1 << 30, end: 2 << 30 }).expect("punch"),
        Applied::Done
    );
    let found = fs::metadata(&path).expect("stat");
    assert_eq!(found.len(), 2 << 30);
    assert!(found.blocks() * 512 <= 32 << 10, "{} blocks", found.blocks());
    fs::File::options().write(true).open(&path).expect("open").set_len(100_000).expect("cut off");
    let bytes = fs::read(&path).expect("read");
    assert!(bytes[..8192].iter().chain(&bytes[90_112..]).all(|&b| b == 1));
    assert!(bytes[8192..90_112].iter().all(|&b| b == 0));
    replica.apply_hole(file, Extent { start: 0, end: u64::MAX }).expect_err("beyond any file");
}

#[test]
fn a_hole_at_the_end_takes_the_last_block_with_it() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    let path = replicated.path().join("f");
    fs::write(&path, vec![1; 23_183]).expect("write");
    fs::File::open(&path).expect("open").sync_all().expect("sync");
    let file = replicated.file(1000);
    replicated.mirror.replica.apply_hole(file, Extent { start: 16_384, end: 23_183 }).expect("punch");
    let found = fs::metadata(&path).expect("stat");
    assert_eq!(found.len(), 23_183);
    assert_eq!(found.blocks() * 512, 16_384);
}

#[test]
fn a_hole_before_the_end_leaves_the_block_behind_it_alone() {
    let Some(replicated) = Replicated::new() else { return };
    replicated.create(1000, "f", Regular);
    let path = replicated.path().join("f");
    fs::write(&path, vec![1; 20_000]).expect("write");
    let file = replicated.file(1000);
    replicated.mirror.replica.apply_hole(file, Extent { start: 4096, end: 10_000 }).expect("punch");
    let bytes = fs::read(&path).expect("read");
    assert!(bytes[4096..10_000].iter().all(|&byte| byte == 0));
    assert!(bytes[..4096].iter().chain(&bytes[10_000..]).all(|&byte| byte == 1));
}

#[test]
fn a_full_disk_is_an_error_with_its_number() {
    // Some hundred inodes only.
    let Some(image) = Image::new(8, &["mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "128"]) else { return };
    let mut mirror = Mirror::new(image.path());
    mirror.resync();
    let parent = mirror.primary.root_file();
    let mut failed = None;
    for number in 0..1000 {
        let file = mirror.primary.file(100_000 + number);
        let node = NewNode { file, kind: Regular, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
        let create = Operation::Create { parent, name: number.to_string().into_bytes(), node };
        if let Err(error) = mirror.replica.apply_namespace(&create) {
            failed = Some((error, file));
            break;
        }
    }
    let (error, file) = failed.expect("the disk has no end");
    assert_eq!(error.errno().0, libc::ENOSPC);
    assert!(mirror.replica.descriptor(file).expect("ignored").is_none());
}

#[test]
fn roots_stay_and_volumes_sync() {
    let Some(replicated) = Replicated::new() else { return };
    let replica = &replicated.mirror.replica;
    replicated.create(1000, "f", Regular);
    assert_eq!(replica.known_files(), 2);
    replica.begin_resync();
    assert_eq!(replica.known_files(), 1);
    replica.sync_volume(replicated.root().volume).expect("sync");
    replica.sync_volume(replicator_core::ids::VolumeId(9)).expect_err("no such volume");
}
