//! Whatever is renamed, the peer's names are those of the tree: a model of the peer is told, and compared with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use replicator_core::ids::VolumeId;

use super::*;
use crate::patterns::TreePattern;
use crate::volume::{Acquaintance, FileHandle};

/// Names of which some are left out everywhere, some in some places, some as directories only.
const NAMES: [&str; 7] = ["p", "q", "a", "b.x", "cache", "z", "keep.x"];
const EXCLUDE: [&str; 4] = ["*.x", "/p/q", "cache/", "a/*/z"];
/// The same without any that looks at a path.
const EXCLUDE_NAMES: [&str; 3] = ["*.x", "cache/", "[q]"];
const INCLUDE: [&str; 1] = ["keep.x"];
const STEPS: u64 = 400;

/// The peer: which directory has which names.
#[derive(Default)]
struct Peer {
    directories: BTreeMap<FileId, BTreeMap<Vec<u8>, FileId>>,
}

impl Peer {
    fn apply(&mut self, told: Told) {
        let Told::Operation(operation) = told else { return };
        match operation {
            Operation::Unlink { directory: false, last: true, file, .. } => self.require_one_name(file),
            Operation::Rename { other: Some(other), other_last: true, .. } => self.require_one_name(other),
            _ => {}
        }
        match operation {
            Operation::Create { parent, name, node } => {
                self.name(parent, name, node.file);
                if node.kind == FileKind::Directory {
                    assert!(self.directories.insert(node.file, BTreeMap::new()).is_none(), "made twice");
                }
            }
            Operation::Link { parent, name, node } => self.name(parent, name, node.file),
            Operation::Unlink { parent, name, file, directory, .. } => {
                assert_eq!(self.directories.get_mut(&parent).unwrap().remove(&name), Some(file));
                if directory {
                    assert_eq!(self.directories.remove(&file), Some(BTreeMap::new()), "not empty");
                }
            }
            Operation::Rename {
                old_parent, old_name, new_parent, new_name, file, other, exchange, ..
            } => {
                assert_eq!(self.directories.get_mut(&old_parent).unwrap().remove(&old_name), Some(file));
                let replaced = self.directories.get_mut(&new_parent).unwrap().insert(new_name, file);
                assert_eq!(replaced, other);
                match other {
                    Some(other) if exchange => self.name(old_parent, old_name, other),
                    Some(other) => drop(self.directories.remove(&other)),
                    None => {}
                }
            }
            Operation::List { .. } => panic!("nothing is listed here"),
        }
    }

    /// What is said to lose its last name has no other.
    fn require_one_name(&self, file: FileId) {
        let names = self.directories.values().flat_map(BTreeMap::values).filter(|named| **named == file);
        assert!(self.directories.contains_key(&file) || names.count() == 1, "{file} has other names");
    }

    fn name(&mut self, parent: FileId, name: Vec<u8>, file: FileId) {
        assert_eq!(self.directories.get_mut(&parent).unwrap().insert(name, file), None);
    }

    fn walk(&self, directory: FileId, path: &[u8], found: &mut BTreeSet<(Vec<u8>, u64)>) {
        for (name, file) in &self.directories[&directory] {
            let path = joined(path, name);
            found.insert((path.clone(), file.inode));
            if self.directories.contains_key(file) {
                self.walk(*file, &path, found);
            }
        }
    }
}

struct Ground {
    volume: Volume,
    peer: Peer,
    random: u64,
}

impl Ground {
    fn new(path: &Path, seed: u64) -> Ground {
        let read = |list: &[&str]| list.iter().map(|text| TreePattern::parse(text).unwrap()).collect();
        let exclude = if seed.is_multiple_of(2) { &EXCLUDE_NAMES[..] } else { &EXCLUDE };
        let patterns = Patterns::new(read(exclude), read(&INCLUDE));
        let volume = Volume::open(VolumeId(0), path).unwrap().with_patterns(patterns);
        let mut peer = Peer::default();
        peer.directories.insert(volume.root_file(), BTreeMap::new());
        Ground { volume, peer, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % bound
    }

    fn path(&mut self) -> PathBuf {
        let mut path = self.volume.path.clone();
        for _ in 0..=self.below(4) {
            path.push(NAMES[self.below(NAMES.len())]);
        }
        path
    }

    fn file(&self, path: &Path) -> Option<(FileId, bool, u64)> {
        let found = fs::symlink_metadata(path).ok()?;
        Some((self.volume.file(found.ino()), found.is_dir(), found.nlink()))
    }

    /// Directory and name, as the gate knows them.
    fn name(&self, path: &Path) -> (FileId, Vec<u8>) {
        use std::os::unix::ffi::OsStrExt;
        let parent = path.parent().unwrap();
        let (file, ..) = self.file(parent).unwrap();
        if parent != self.volume.path {
            let above = fs::File::open(parent.parent().unwrap()).unwrap();
            self.volume.learn_at(above.as_fd(), parent.file_name().unwrap().as_bytes(), file.inode).unwrap();
        }
        (file, path.file_name().unwrap().as_bytes().to_vec())
    }

    fn tell(&mut self, operation: Operation) {
        let mut told = Vec::new();
        translate(&self.volume, operation, &mut |one| told.push(one)).unwrap();
        told.into_iter().for_each(|one| self.peer.apply(one));
    }

    fn node(&self, path: &Path) -> NewNode {
        let (parent, name) = self.name(path);
        assert_eq!(parent, self.file(path.parent().unwrap()).unwrap().0);
        let directory = fs::File::open(path.parent().unwrap()).unwrap();
        reader::describe(&self.volume, directory.as_fd(), &name).unwrap().unwrap()
    }

    /// Do something at random; what does not go is no step.
    fn step(&mut self) -> String {
        let (one, other) = (self.path(), self.path());
        match self.below(10) {
            0 | 1 if fs::create_dir(&one).is_ok() => {
                let ((parent, name), node) = (self.name(&one), self.node(&one));
                self.tell(Operation::Create { parent, name, node });
                format!("mkdir {one:?}")
            }
            2 if fs::File::create_new(&one).is_ok() => {
                let ((parent, name), node) = (self.name(&one), self.node(&one));
                self.tell(Operation::Create { parent, name, node });
                format!("create {one:?}")
            }
            3 if fs::hard_link(&one, &other).is_ok() => {
                let ((parent, name), node) = (self.name(&other), self.node(&other));
                self.tell(Operation::Link { parent, name, node });
                format!("link {one:?} {other:?}")
            }
            4 => self.remove(&one),
            9 => self.open(&one),
            5 => self.rename(&one, &other, RenameFlags::RENAME_EXCHANGE),
            _ => self.rename(&one, &other, RenameFlags::empty()),
        }
    }

    fn remove(&mut self, path: &Path) -> String {
        let Some((file, directory, links)) = self.file(path) else { return String::new() };
        let removed = if directory { fs::remove_dir(path) } else { fs::remove_file(path) };
        if removed.is_ok() {
            let (parent, name) = self.name(path);
            let last = directory || links == 1;
            self.tell(Operation::Unlink { parent, name, file, directory, last });
            if last {
                self.volume.forget(file.inode);
            }
        }
        format!("remove {path:?}: {removed:?}")
    }

    fn rename(&mut self, old: &Path, new: &Path, flags: RenameFlags) -> String {
        let (before, other) = (self.file(old), self.file(new));
        let renamed = renameat2(AT_FDCWD, old, AT_FDCWD, new, flags);
        if let (Ok(()), Some((file, ..))) = (renamed, before)
            && other.is_none_or(|(other, ..)| other != file)
        {
            let ((old_parent, old_name), (new_parent, new_name)) = (self.name(old), self.name(new));
            // The gate knew what was renamed: it was looked up for that.
            drop((self.node(new), self.file(old).map(|_| self.node(old))));
            let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
            let other_last = !exchange && other.is_some_and(|(_, directory, links)| directory || links == 1);
            let other = other.map(|(other, ..)| other);
            self.tell(Operation::Rename {
                old_parent,
                old_name,
                new_parent,
                new_name,
                file,
                other,
                other_last,
                exchange,
            });
        }
        format!("rename {old:?} {new:?} {flags:?}: {renamed:?}")
    }

    /// All names that belong to the tree.
    fn truth(&self, directory: &Path, path: &[u8], found: &mut BTreeSet<(Vec<u8>, u64)>) {
        use std::os::unix::ffi::OsStrExt;
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = joined(path, entry.file_name().as_bytes());
            let directory = entry.file_type().unwrap().is_dir();
            if self.volume.patterns().unwrap().excludes(&path, directory) {
                continue;
            }
            found.insert((path.clone(), entry.metadata().unwrap().ino()));
            if directory {
                self.truth(&entry.path(), &path, found);
            }
        }
    }

    fn require_same(&self, what: &str) {
        let (mut there, mut told) = (BTreeSet::new(), BTreeSet::new());
        self.truth(&self.volume.path, b"", &mut there);
        self.peer.walk(self.volume.root_file(), b"", &mut told);
        assert_eq!(there, told, "{what}");
        // Whose changes are passed over has no name in the tree.
        let wrong = there.iter().find(|(_, inode)| self.volume.is_outside(*inode));
        assert_eq!(wrong, None, "{what}");
    }

    /// Open something for writing, as the gate does. One whose only name is left out lies outside from then on.
    fn open(&mut self, path: &Path) -> String {
        let Some((file, false, links)) = self.file(path) else { return String::new() };
        drop(self.node(path));
        let side = self.volume.judge(file.inode);
        assert!(side != Side::Readmitted, "{path:?} came in and nobody said so");
        let below = path.strip_prefix(&self.volume.path).unwrap().as_os_str().as_encoded_bytes();
        if links == 1 {
            assert_eq!(
                side == Side::Outside,
                self.volume.patterns().unwrap().excludes(below, false),
                "{path:?}"
            );
        }
        format!("open {path:?}")
    }
}

#[test]
fn the_peer_has_the_names_of_the_tree_after_any_operation() {
    for seed in 1..=30 {
        let directory = tempfile::tempdir().unwrap();
        let mut ground = Ground::new(directory.path(), seed);
        for step in 0..STEPS {
            let what = ground.step();
            ground.require_same(&format!("seed {seed}, step {step}: {what}"));
        }
    }
}

/// What the gate says of the rename of a file in the root.
fn rename_told(ground: &Ground, from: &Path, to: &Path) -> Vec<Told> {
    let (file, ..) = ground.file(from).unwrap();
    let other = ground.file(to);
    fs::rename(from, to).unwrap();
    let ((old_parent, old_name), (new_parent, new_name)) = (ground.name(from), ground.name(to));
    told(
        ground,
        Operation::Rename {
            old_parent,
            old_name,
            new_parent,
            new_name,
            file,
            other: other.map(|(other, ..)| other),
            other_last: other.is_some_and(|(_, _, links)| links == 1),
            exchange: false,
        },
    )
}

fn told(ground: &Ground, operation: Operation) -> Vec<Told> {
    let mut told = Vec::new();
    translate(&ground.volume, operation, &mut |one| told.push(one)).unwrap();
    told
}

fn link_told(ground: &Ground, from: &Path, to: &Path) -> Vec<Told> {
    fs::hard_link(from, to).unwrap();
    let ((parent, name), node) = (ground.name(to), ground.node(to));
    told(ground, Operation::Link { parent, name, node })
}

fn unlink_told(ground: &Ground, path: &Path) -> Vec<Told> {
    let (file, _, links) = ground.file(path).unwrap();
    fs::remove_file(path).unwrap();
    let (parent, name) = ground.name(path);
    told(ground, Operation::Unlink { parent, name, file, directory: false, last: links == 1 })
}

#[test]
fn what_comes_in_is_doubted_and_what_goes_out_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let ground = Ground::new(directory.path(), 1);
    let (out, kept) = (ground.volume.path.join("b.x"), ground.volume.path.join("z"));
    fs::write(&out, "x").unwrap();
    let file = ground.node(&out).file;
    assert_eq!(ground.volume.judge(file.inode), Side::Outside);
    let root = ground.volume.root_file();
    let rename = |from: &Path, to: &Path| {
        let mut told = rename_told(&ground, from, to);
        let times = told.iter().filter(|one| **one == Told::Attributes(root)).count();
        assert_eq!(times, 2, "the times of both directories changed: {told:?}");
        told.retain(|one| *one != Told::Attributes(root));
        (told, ground.volume.is_outside(file.inode))
    };
    for _ in 0..2 {
        let (told, outside) = rename(&out, &kept);
        assert!(
            matches!(
                &told[..],
                // In this order: what is known of a file that is made is forgotten.
                [Told::Operation(Operation::Create { node, .. }), Told::Readmitted(doubted)]
                    if node.file == file && *doubted == file
            ),
            "{told:?}"
        );
        assert!(!outside);
        let (told, outside) = rename(&kept, &out);
        assert!(
            matches!(
                &told[..],
                [Told::Operation(Operation::Unlink { last: true, .. }), Told::Forgotten(gone)] if *gone == file
            ),
            "{told:?}"
        );
        assert!(outside);
    }
}

#[test]
fn a_file_with_a_name_on_each_side_is_inside() {
    let directory = tempfile::tempdir().unwrap();
    let ground = Ground::new(directory.path(), 1);
    let [out, other_out, kept, other] = ["b.x", "c.x", "z", "q"].map(|name| ground.volume.path.join(name));
    fs::write(&out, "x").unwrap();
    let file = ground.node(&out).file;
    assert_eq!(ground.volume.judge(file.inode), Side::Outside);
    // A further name that is left out changes nothing, and one in the tree all.
    assert_eq!(link_told(&ground, &out, &other_out)[1..], [Told::Forgotten(file)]);
    assert_eq!(ground.volume.judge(file.inode), Side::Outside, "both names are left out");
    let told = link_told(&ground, &out, &kept);
    assert!(matches!(&told[..], [Told::Operation(Operation::Link { .. }), Told::Readmitted(_)]), "{told:?}");
    assert_eq!(ground.volume.judge(file.inode), Side::Inside);
    // Which name is lost decides.
    unlink_told(&ground, &other_out);
    assert_eq!(ground.volume.judge(file.inode), Side::Inside);
    let told = unlink_told(&ground, &kept);
    assert!(
        matches!(
            &told[..],
            [Told::Operation(Operation::Unlink { last: true, .. }), Told::Forgotten(gone)] if *gone == file
        ),
        "its last name of the tree: {told:?}"
    );
    assert!(ground.volume.is_outside(file.inode));
    // So where another file takes its place, from either side.
    for name in ["new", "new.x"].map(|name| ground.volume.path.join(name)) {
        link_told(&ground, &out, &other);
        assert!(!ground.volume.is_outside(file.inode));
        fs::write(&name, "another").unwrap();
        drop(ground.node(&name));
        let told = rename_told(&ground, &name, &other);
        let says_last = |one: &Told| match one {
            Told::Operation(Operation::Rename { other: Some(other), other_last, .. }) => {
                *other == file && *other_last
            }
            Told::Operation(Operation::Unlink { file: gone, last, .. }) => *gone == file && *last,
            _ => false,
        };
        assert!(told.iter().any(says_last) && told.contains(&Told::Forgotten(file)), "{told:?}");
        assert!(ground.volume.is_outside(file.inode));
        fs::remove_file(&other).unwrap();
    }
}

#[test]
fn a_directory_that_goes_out_takes_its_hard_links_along() {
    let directory = tempfile::tempdir().unwrap();
    let mut ground = Ground::new(directory.path(), 1);
    let [tree, out, beside] = ["a", "b.x", "z"].map(|name| ground.volume.path.join(name));
    fs::create_dir_all(tree.join("p")).unwrap();
    let paths = [tree.join("one"), tree.join("p/two"), tree.join("split"), tree.join("single")];
    fs::write(&paths[0], "x").unwrap();
    fs::hard_link(&paths[0], &paths[1]).unwrap();
    fs::write(&paths[2], "x").unwrap();
    fs::hard_link(&paths[2], &beside).unwrap();
    fs::write(&paths[3], "x").unwrap();
    for path in [&tree, &tree.join("p"), &beside].into_iter().chain(&paths) {
        let ((parent, name), node) = (ground.name(path), ground.node(path));
        ground.peer.apply(Told::Operation(Operation::Create { parent, name, node }));
    }
    let [both, _, split, single] = paths.map(|path| ground.file(&path).unwrap().0);
    for one in rename_told(&ground, &tree, &out) {
        ground.peer.apply(one);
    }
    ground.require_same("the directory is out");
    for (file, expected) in [(both, true), (split, false), (single, true)] {
        assert_eq!(ground.volume.is_outside(file.inode), expected, "{file}");
    }
    // Somebody who has it open all the while, and one who opens it again.
    assert_eq!(ground.volume.judge(both.inode), Side::Outside);
}

#[test]
fn a_number_that_is_given_to_another_file_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let ground = Ground::new(directory.path(), 1);
    let out = ground.volume.path.join("b.x");
    fs::write(&out, "x").unwrap();
    let inode = ground.node(&out).file.inode;
    assert_eq!(ground.volume.judge(inode), Side::Outside);
    // Removed and made behind the gate's back.
    let handle = FileHandle::from_parts(1, b"another");
    assert_eq!(ground.volume.learn(inode, handle.clone()), Acquaintance::Other);
    assert!(!ground.volume.is_outside(inode));
    assert_eq!(ground.volume.learn(inode, handle), Acquaintance::Old);
}

#[test]
fn a_tree_that_is_too_deep_to_be_told_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut ground = Ground::new(directory.path(), 1);
    let (out, kept) = (ground.volume.path.join("b.x"), ground.volume.path.join("z"));
    let deepest = (0..DEPTH_MAX + 5).fold(out.clone(), |path, _| path.join("d"));
    fs::create_dir_all(&deepest).unwrap();
    drop(ground.node(&out));
    fs::rename(&out, &kept).unwrap();
    let ((old_parent, old_name), (new_parent, new_name)) = (ground.name(&out), ground.name(&kept));
    let (file, ..) = ground.file(&kept).unwrap();
    let operation = Operation::Rename {
        old_parent,
        old_name,
        new_parent,
        new_name,
        file,
        other: None,
        other_last: false,
        exchange: false,
    };
    let mut told = Vec::new();
    let result = translate(&ground.volume, operation, &mut |one| told.push(one));
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    // What was told is true all the same.
    told.into_iter().for_each(|one| ground.peer.apply(one));
    let (mut there, mut known) = (BTreeSet::new(), BTreeSet::new());
    ground.truth(&ground.volume.path, b"", &mut there);
    ground.peer.walk(ground.volume.root_file(), b"", &mut known);
    assert!(!known.is_empty() && known.is_subset(&there));
}
