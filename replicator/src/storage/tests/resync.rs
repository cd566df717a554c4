//! Whatever the secondary had before and whatever happens meanwhile: after a resync both trees are the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{Mode, mkdirat};
use replicator_core::ids::FileKind;

use super::fixture::{self, Image, inode};
use super::mirror::Mirror;
use super::random_tree::{Change, Random, Release, change, change_directories, walk};
use crate::storage::replica::Replica;

/// Report a change on the primary to who mirrors it.
fn report(mirror: &mut Mirror, change: Change) {
    match change {
        Change::Name(operation) => mirror.happened(operation),
        Change::Content(path) | Change::Attributes(path) => {
            let found = fs::symlink_metadata(&path).expect("stat");
            let kind = FileKind::from_mode(found.mode()).expect("a kind");
            mirror.touched(mirror.primary.file(found.ino()), kind, false);
        }
    }
}

/// List a directory again, or delete the orphans if no list is under way.
fn disturb(mirror: &mut Mirror, random: &mut Random) {
    if random.below(4) == 0 {
        let directories = walk(&mirror.primary.path);
        let path = &directories[random.below(directories.len() as u64) as usize];
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            mirror.list_again(mirror.primary.file(inode(path)));
        }
    }
    if random.below(4) == 0 && mirror.is_quiet() {
        mirror.replica.delete_orphans().expect("delete");
    }
}

/// One random run; `parent` gets the directories `a` and `b`.
fn run(parent: &Path, seed: u64) {
    let mut random = Random(seed);
    let mut mirror = Mirror::new(parent);
    for _ in 0..random.below(150) {
        change(&mirror.primary, &mut random);
    }
    // What the secondary has: nothing in common, or an older state of the primary that was changed since.
    let related = random.below(2) == 0;
    if related {
        mirror.resync();
        mirror.assert_same(&format!("seed {seed}, first"));
    }
    for _ in 0..random.below(100) {
        change(&mirror.primary, &mut random);
    }
    for _ in 0..random.below(100) {
        change(&mirror.secondary, &mut random);
    }
    if random.below(2) == 0 {
        // The secondary's daemon was restarted: no hints.
        mirror.replica = Replica::new(vec![mirror.secondary.clone()]);
        mirror.replica.set_root(mirror.primary.root_file()).expect("the root");
    }
    if related && random.below(4) == 0 {
        // A resync that was broken off.
        mirror.begin();
        for _ in 0..random.below(30) {
            mirror.step();
        }
    }
    mirror.begin();
    for _ in 0..random.below(400) {
        if random.below(3) > 0 {
            mirror.step();
        } else if let Some(change) = change(&mirror.primary, &mut random) {
            report(&mut mirror, change);
        }
    }
    mirror.finish();
    mirror.assert_same(&format!("seed {seed}, after the resync"));
    // Steady state: every operation is sent.
    for _ in 0..random.below(100) {
        if let Some(change) = change(&mirror.primary, &mut random) {
            report(&mut mirror, change);
        }
        if random.below(4) == 0 {
            while mirror.step() {}
        }
    }
    while mirror.step() {}
    mirror.assert_same(&format!("seed {seed}, steady"));
    assert_eq!(mirror.replica.counters().deviations, 0, "seed {seed}: deviations");
    // Steady state in which some directories are listed again, and operations on them are not sent.
    for _ in 0..random.below(100) {
        disturb(&mut mirror, &mut random);
        if let Some(change) = change(&mirror.primary, &mut random) {
            report(&mut mirror, change);
        }
        if random.below(3) == 0 {
            mirror.step();
        }
    }
    while mirror.step() {}
    assert!(mirror.replica.delete_orphans().expect("delete"), "seed {seed}: a directory is still aside");
    mirror.assert_same(&format!("seed {seed}, listed again"));
}

/// Seeds of this run: one (`REPLICATOR_SEED=7`) or some (`REPLICATOR_SEED=100..200`) of the environment, or fixed ones.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("REPLICATOR_SEED") else { return 1..count + 1 };
    let (from, to) = wanted.split_once("..").unwrap_or((&wanted, ""));
    let from = from.parse().expect("REPLICATOR_SEED: a number, or two with .. between");
    from..to.parse().unwrap_or(from + 1)
}

fn run_seeds(parent: &Path, count: u64, run: fn(&Path, u64)) {
    for seed in seeds(count) {
        let directory = tempfile::tempdir_in(parent).expect("a temporary directory");
        let _release = Release(directory.path());
        let at = directory.path().to_owned();
        let result = std::panic::catch_unwind(move || run(&at, seed));
        if let Err(panic) = result {
            eprintln!("again: REPLICATOR_SEED={seed} cargo test -p replicator --lib storage::tests::resync");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn random_trees_become_the_same() {
    let Some(directory) = fixture::directory() else { return };
    run_seeds(directory.path(), 60, run);
}

/// Directories that move into each other while some are listed and some are not.
fn run_directories(parent: &Path, seed: u64) {
    let mut random = Random(seed);
    let mut mirror = Mirror::new(parent);
    for _ in 0..20 {
        change_directories(&mirror.primary, &mut random);
    }
    for round in 0..4 {
        if round % 2 == 0 {
            mirror.begin();
        }
        for _ in 0..60 {
            disturb(&mut mirror, &mut random);
            if random.below(2) > 0 {
                mirror.step();
            } else if let Some(change) = change_directories(&mirror.primary, &mut random) {
                report(&mut mirror, change);
            }
        }
        mirror.finish();
        mirror.assert_same(&format!("seed {seed}, round {round}"));
    }
}

#[test]
fn directories_that_move_into_each_other() {
    let Some(directory) = fixture::directory() else { return };
    run_seeds(directory.path(), 80, run_directories);
}

#[test]
fn random_trees_become_the_same_on_ext4() {
    let Some(image) = Image::ext4() else { return };
    run_seeds(image.path(), 20, run);
}

#[test]
fn random_trees_become_the_same_on_xfs() {
    let Some(image) = Image::xfs() else { return };
    run_seeds(image.path(), 20, run);
}

#[test]
fn paths_longer_than_any_path_may_be() {
    let Some(directory) = fixture::directory() else { return };
    let mut mirror = Mirror::new(directory.path());
    make_deep(&mirror.primary, 40, &"d".repeat(200));
    mirror.resync();
    mirror.assert_same("deep");
    // Removed on the primary: all of it goes through the orphanage.
    fs::remove_dir_all(mirror.primary.path.join("d".repeat(200))).expect("remove");
    mirror.resync();
    mirror.assert_same("deep, removed");
}

fn make_deep(volume: &crate::volume::Volume, levels: u32, name: &str) {
    use nix::fcntl::{OFlag, openat};
    let mut at = volume.root().try_clone_to_owned().expect("a descriptor");
    for _ in 0..levels {
        mkdirat(&at, name, Mode::S_IRWXU).expect("mkdir");
        at = openat(&at, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).expect("open");
    }
}

#[test]
fn a_list_of_several_parts_and_many_names() {
    let Some(directory) = fixture::directory() else { return };
    let mut mirror = Mirror::new(directory.path());
    let padding = "n".repeat(150);
    for number in 0..6000 {
        fs::write(mirror.primary.path.join(format!("{number}{padding}")), b"").expect("make a file");
    }
    fs::write(mirror.secondary.path.join("superfluous"), b"x").expect("make a file");
    mirror.resync();
    mirror.assert_same("many names");
}

#[test]
fn a_directory_that_was_renamed_while_the_peer_was_away_is_not_copied_again() {
    let Some(directory) = fixture::directory() else { return };
    let mut mirror = Mirror::new(directory.path());
    let a = mirror.primary.path.clone();
    fs::create_dir_all(a.join("old/deep")).expect("mkdir");
    fs::create_dir(a.join("new")).expect("mkdir");
    for number in 0..20 {
        fs::write(a.join(format!("old/deep/{number}")), vec![number; 100_000]).expect("write");
    }
    mirror.resync();
    let copied = mirror.sent;
    assert!(copied >= 2_000_000);
    fs::rename(a.join("old/deep"), a.join("new/elsewhere")).expect("rename");
    let before = inode(&mirror.secondary.path.join("old/deep"));
    mirror.resync();
    mirror.assert_same("renamed");
    assert_eq!(mirror.sent, copied, "the bytes were sent again");
    assert_eq!(inode(&mirror.secondary.path.join("new/elsewhere")), before);
}

#[test]
fn an_unchanged_tree_sends_nothing() {
    let Some(directory) = fixture::directory() else { return };
    let _release = Release(directory.path());
    let mut random = Random(7);
    let mut mirror = Mirror::new(directory.path());
    for _ in 0..300 {
        change(&mirror.primary, &mut random);
    }
    mirror.resync();
    let sent = mirror.sent;
    mirror.replica = Replica::new(vec![mirror.secondary.clone()]);
    mirror.replica.set_root(mirror.primary.root_file()).expect("the root");
    mirror.resync();
    mirror.assert_same("again");
    assert_eq!(mirror.sent, sent);
    assert_eq!(mirror.replica.counters().orphaned, 0);
}
