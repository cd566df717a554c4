//! Inode flags: set exactly, and no obstacle to what the primary says.

use std::fs;
use std::path::Path;

use replicator_core::event::AppliedOutcome;
use replicator_core::extent::Extent;
use replicator_core::ids::FileKind;
use replicator_core::wire::attributes::{Attributes, InodeFlags};
use replicator_core::wire::namespace::Operation;

use super::fixture::{self, Image};
use super::mirror::Mirror;
use super::operations::Replicated;
use super::random_tree::{Release, flag, flags_of, put_flags};
use crate::storage::reader;
use crate::storage::replica::{Applied, ReplicaError};
use crate::volume::Volume;

const PROTECTING: [i32; 2] = [flag::IMMUTABLE, flag::APPEND_ONLY];

fn attributes(mode: u32, flags: Option<InodeFlags>) -> Attributes {
    Attributes { mode, size: 5, flags, ..Attributes::default() }
}

/// Whether the file system of the test has flags; says it if not.
fn has_flags(path: &Path) -> bool {
    let has = put_flags(path, 0).is_some();
    if !has {
        println!("not run: no inode flags on {}", path.display());
    }
    has
}

#[test]
fn flags_are_set_exactly_on_every_kind_of_file() {
    let Some(replicated) = Replicated::new() else { return };
    let _release = Release(replicated.path());
    if !has_flags(replicated.path()) {
        return;
    }
    replicated.create(1000, "f", FileKind::Regular);
    replicated.create(1001, "d", FileKind::Directory);
    let replica = &replicated.mirror.replica;
    let of = |name: &str| flags_of(&replicated.path().join(name));
    let some = InodeFlags::IMMUTABLE.or(InodeFlags::NO_DUMP);
    let sets = [some, InodeFlags::APPEND_ONLY, some, InodeFlags::SYNCHRONOUS, InodeFlags::NONE];
    for (number, name, mode) in [(1000, "f", 0o100_640), (1001, "d", 0o40_750)] {
        for flags in sets {
            let applied = replica.apply_attributes(replicated.file(number), &attributes(mode, Some(flags)));
            assert_eq!(applied.expect("apply"), Applied::Done);
            assert_eq!(of(name), flags.bits().cast_signed(), "{name}");
            // An older primary does not tell; the rest is as it says.
            let untold = Attributes { uid: 12, ..attributes(mode, None) };
            replica.apply_attributes(replicated.file(number), &untold).expect("apply");
            assert_eq!(of(name), flags.bits().cast_signed(), "{name}: flags that were not told");
            let seen = reader::attributes_of(std::os::fd::AsFd::as_fd(
                &fs::File::open(replicated.path().join(name)).expect("open"),
            ));
            let seen = seen.expect("read");
            assert_eq!((seen.uid, seen.flags), (12, Some(flags)));
        }
    }
    replicated.create(1002, "p", FileKind::Fifo);
    let pipe = |flags| replica.apply_attributes(replicated.file(1002), &attributes(0o10_600, Some(flags)));
    assert_eq!(pipe(InodeFlags::NONE).expect("apply"), Applied::Done);
    assert!(matches!(pipe(InodeFlags::NO_DUMP), Err(ReplicaError::Malformed { .. })));
    assert_eq!(replica.counters().unsupported_flags, 0);
}

#[test]
fn a_flag_that_cannot_be_had_is_counted_and_the_others_are_set() {
    let Some(replicated) = Replicated::new() else { return };
    let _release = Release(replicated.path());
    if !has_flags(replicated.path()) {
        return;
    }
    // The synchronous-directory flag is for directories, but on no file system for files.
    replicated.create(1000, "f", FileKind::Regular);
    let path = replicated.path().join("f");
    if put_flags(&path, flag::SYNCHRONOUS_DIRECTORY).is_some() {
        println!("not run: this file system says yes to everything");
        return;
    }
    let replica = &replicated.mirror.replica;
    let wanted = attributes(0o100_600, Some(InodeFlags::ALL));
    for count in 1..3 {
        replica.apply_attributes(replicated.file(1000), &wanted).expect("apply");
        assert_eq!(flags_of(&path), flag::ALL & !flag::SYNCHRONOUS_DIRECTORY);
        assert_eq!(replica.counters().unsupported_flags, count);
    }
}

/// Whatever protects the copy, what comes is applied, and the copy is protected as before.
#[test]
fn a_protected_copy_takes_bytes_and_attributes() {
    let Some(replicated) = Replicated::new() else { return };
    let _release = Release(replicated.path());
    if !has_flags(replicated.path()) {
        return;
    }
    replicated.create(1000, "f", FileKind::Regular);
    let replica = &replicated.mirror.replica;
    let (file, path) = (replicated.file(1000), replicated.path().join("f"));
    for protection in PROTECTING {
        // Opened before and after: the descriptor is kept, or not.
        for reopened in [false, true] {
            put_flags(&path, protection).expect("protect");
            if reopened {
                replica.begin_resync();
                replica.set_root(replicated.root()).expect("the root");
                replica.apply_namespace(&replicated.list(&[("f", 1000, FileKind::Regular)])).expect("list");
                replica.end_resync().expect("end");
            }
            let descriptor = replica.descriptor(file).expect("a descriptor").expect("known");
            replica.write(file, &descriptor, 0, b"hello, world").expect("write");
            assert_eq!(fs::read(&path).expect("read"), b"hello, world");
            replica.apply_hole(file, Extent { start: 0, end: 20 }).expect("a hole");
            assert_eq!(fs::read(&path).expect("read"), [0; 20]);
            replica.sync_target(file).expect("a descriptor for a sync");
            assert_eq!(flags_of(&path), protection);
            replica.apply_attributes(file, &attributes(0o100_604, None)).expect("apply");
            assert_eq!(fs::metadata(&path).expect("stat").len(), 5);
            assert_eq!(flags_of(&path), protection);
        }
    }
}

#[test]
fn protected_names_are_made_renamed_and_removed() {
    let Some(replicated) = Replicated::new() else { return };
    let _release = Release(replicated.path());
    if !has_flags(replicated.path()) {
        return;
    }
    let root = replicated.path().to_owned();
    for protection in PROTECTING {
        let protect = |name: &str| put_flags(&root.join(name), protection).expect("protect");
        protect("");
        replicated.create(1000, "f", FileKind::Regular);
        replicated.create(1001, "d", FileKind::Directory);
        replicated.create(1002, "other", FileKind::Regular);
        ["f", "d", "other"].into_iter().for_each(protect);
        let node = replicated.node(1000, FileKind::Regular);
        replicated.apply(&Operation::Link { parent: replicated.file(1001), name: "link".into(), node });
        replicated.apply(&replicated.rename(1000, "f", "g", None, false));
        replicated.apply(&replicated.rename(1001, "d", "e", None, false));
        let exchange = replicated.rename(1001, "e", "g", Some((1000, false)), true);
        replicated.mirror.replica.apply_namespace(&exchange).expect("exchange");
        replicated.apply(&replicated.rename(1000, "e", "other", Some((1002, true)), false));
        assert_eq!(replicated.names(), ["g", "other", "g/link"]);
        for name in ["", "g", "other"] {
            assert_eq!(flags_of(&root.join(name)), protection, "{name:?}");
        }
        // A list takes all of it away; a file in the tree that stays is found again in the orphanage.
        let list = replicated.list(&[("found", 1000, FileKind::Regular)]);
        assert_eq!(replicated.apply(&list), AppliedOutcome::Done);
        assert_eq!(flags_of(&root.join("found")), protection);
        assert!(replicated.mirror.replica.delete_orphans().expect("delete"));
        assert_eq!(replicated.names(), ["found"]);
        assert_eq!(flags_of(&root), protection);
        let gone = Operation::Unlink {
            parent: replicated.root(),
            name: "found".into(),
            file: replicated.file(1000),
            directory: false,
            last: true,
        };
        replicated.apply(&gone);
        put_flags(&root, 0).expect("release");
        assert!(!root.join(".replicator/orphans").exists());
    }
    assert_eq!(replicated.mirror.replica.counters().deviations, 0);
}

/// A resync over a copy that is protected where the primary is not, and the other way round; then once more.
fn resync_protected(parent: &Path) {
    let mut mirror = Mirror::new(parent);
    let _release = Release(parent);
    if !has_flags(&mirror.primary.path) {
        return;
    }
    let link_to = |directory: &str| format!("link-to-{}", directory.replace('/', "-"));
    let make = |volume: &Volume, content: u8| {
        let root = &volume.path;
        for directory in ["immutable/below", "log", "gone/below"] {
            fs::create_dir_all(root.join(directory)).expect("mkdir");
            fs::write(root.join(directory).join("file"), [content; 9000]).expect("write");
            fs::hard_link(root.join(directory).join("file"), root.join(link_to(directory))).expect("link");
        }
    };
    make(&mirror.primary, 1);
    make(&mirror.secondary, 2);
    fs::remove_dir_all(mirror.primary.path.join("gone")).expect("remove");
    fs::remove_file(mirror.primary.path.join(link_to("gone/below"))).expect("remove");
    let at = |volume: &Volume, name: &str| volume.path.join(name);
    for (name, ours, theirs) in [
        ("immutable/below/file", flag::IMMUTABLE, flag::APPEND_ONLY),
        ("immutable/below", flag::IMMUTABLE, 0),
        ("immutable", flag::APPEND_ONLY | flag::NO_DUMP, flag::IMMUTABLE),
        ("log/file", flag::APPEND_ONLY, flag::IMMUTABLE | flag::NO_ACCESS_TIME),
        ("log", 0, flag::IMMUTABLE),
        ("", flag::IMMUTABLE, flag::APPEND_ONLY),
    ] {
        put_flags(&at(&mirror.primary, name), ours).expect("protect");
        put_flags(&at(&mirror.secondary, name), theirs).expect("protect");
    }
    for name in ["gone/below/file", "gone/below"] {
        put_flags(&at(&mirror.secondary, name), flag::IMMUTABLE).expect("protect");
    }
    for round in 0..2 {
        mirror.resync();
        mirror.assert_same(&format!("round {round}"));
    }
    assert_eq!(mirror.replica.counters().unsupported_flags, 0);
}

#[test]
fn protected_trees_become_the_same() {
    let Some(directory) = fixture::directory() else { return };
    resync_protected(directory.path());
}

#[test]
fn protected_trees_become_the_same_on_other_file_systems() {
    for image in [Image::xfs(), Image::new(128, &["mkfs.btrfs", "-q", "-f"])].into_iter().flatten() {
        resync_protected(image.path());
    }
}
