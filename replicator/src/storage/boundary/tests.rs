//! Whatever is renamed, the peer's names are those of the tree: a model of the peer is told, and compared with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use replicator_core::ids::VolumeId;

use super::*;
use crate::patterns::TreePattern;

/// Names of which some are left out everywhere, some in some places, some as directories only.
const NAMES: [&str; 7] = ["p", "q", "a", "b.x", "cache", "z", "keep.x"];
const EXCLUDE: [&str; 4] = ["*.x", "/p/q", "cache/", "a/*/z"];
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
        let patterns = Patterns::new(read(&EXCLUDE), read(&INCLUDE));
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
        match self.below(9) {
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

#[test]
fn what_comes_in_is_marked_and_what_goes_out_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let ground = Ground::new(directory.path(), 1);
    let (out, kept) = (ground.volume.path.join("b.x"), ground.volume.path.join("z"));
    fs::write(&out, "x").unwrap();
    let node = ground.node(&out);
    let inode = node.file.inode;
    ground.volume.note_writer(inode);
    assert!(ground.volume.is_excluded(inode));
    let root = ground.volume.root_file();
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).unwrap();
        let name = |path: &Path| ground.name(path).1;
        let operation = Operation::Rename {
            old_parent: root,
            old_name: name(from),
            new_parent: root,
            new_name: name(to),
            file: ground.volume.file(inode),
            other: None,
            other_last: false,
            exchange: false,
        };
        let mut told = Vec::new();
        translate(&ground.volume, operation, &mut |one| told.push(one)).unwrap();
        let times = told.iter().filter(|one| **one == Told::Attributes(root)).count();
        assert_eq!(times, 2, "the times of both directories changed: {told:?}");
        told.retain(|one| *one != Told::Attributes(root));
        (told, ground.volume.is_excluded(inode), ground.volume.take_readmitted())
    };
    let (told, excluded, readmitted) = rename(&out, &kept);
    assert!(
        matches!(&told[..], [Told::Operation(Operation::Create { node, .. })] if node.file.inode == inode)
    );
    assert_eq!((excluded, readmitted), (false, vec![inode]));
    let (told, excluded, readmitted) = rename(&kept, &out);
    assert!(
        matches!(
            &told[..],
            [Told::Operation(Operation::Unlink { last: true, .. }), Told::Forgotten(file)] if file.inode == inode
        ),
        "{told:?}"
    );
    assert_eq!((excluded, readmitted), (true, vec![]));
    // With a second name, in the tree, it is not known to be out of it.
    fs::hard_link(&out, &kept).unwrap();
    ground.volume.note_writer(inode);
    assert!(!ground.volume.is_excluded(inode));
    assert_eq!(ground.volume.take_readmitted(), [inode]);
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
