//! A whole tree as it can be seen, of a directory or of the model, and how two of them differ.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};

use super::operation::Protection;
use super::state::{Id, Kind, State};
use crate::lab::{flags, xattr};

/// Attributes that are not looked at: the gate's own mark on files it does not open with passthrough, which is documented and on no
/// plain directory, and the form in which xfs shows access control lists a second time.
const LEFT_OUT: &[&[u8]] =
    &[b"trusted.replicator.strict", b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A file's bytes.
    Bytes(Rc<Vec<u8>>),
    /// A symlink's.
    Target(String),
    /// A directory; its names are entries of their own.
    Directory,
    /// Something else: its kind as in a mode, and its device number.
    Node(u32, u64),
}

/// A name of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Names with the same number are the same file.
    pub identity: u64,
    /// What it is.
    pub content: Content,
    /// Permission and set-id bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// What its flags protect it from.
    pub protection: Protection,
    /// Modification time; `None` where it cannot be foretold.
    pub modified: Option<(i64, i64)>,
}

/// Names by their path; the root is "".
pub type Tree = BTreeMap<String, Entry>;

/// The form in which an operation shows a name: kind and mode in octal, owner, links, size.
#[must_use]
pub fn line(mode: u32, uid: u32, gid: u32, links: u32, size: u64) -> String {
    format!("{mode:o} {uid}:{gid} {links} {size}")
}

/// Look at a directory.
///
/// # Errors
/// Something cannot be read, or vanishes meanwhile.
pub fn directory(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut ahead = vec![String::new()];
    while let Some(path) = ahead.pop() {
        let full = if path.is_empty() { root.to_owned() } else { root.join(&path) };
        let entry = look(&full).with_context(|| format!("look at {}", full.display()))?;
        if entry.content == Content::Directory {
            for item in fs::read_dir(&full).with_context(|| format!("list {}", full.display()))? {
                let name = item?.file_name();
                let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
                ahead.push(if path.is_empty() { name } else { format!("{path}/{name}") });
            }
        }
        tree.insert(path, entry);
    }
    Ok(tree)
}

fn look(path: &Path) -> io::Result<Entry> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let content = match () {
        () if kind.is_file() => {
            let mut bytes = Vec::new();
            File::open(path)?.read_to_end(&mut bytes)?;
            Content::Bytes(Rc::new(bytes))
        }
        () if kind.is_dir() => Content::Directory,
        () if kind.is_symlink() => Content::Target(fs::read_link(path)?.to_string_lossy().into_owned()),
        () => Content::Node(meta.mode() & libc::S_IFMT, meta.rdev()),
    };
    let attributes = xattr::all(path)?.into_iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_slice()));
    Ok(Entry {
        identity: meta.ino(),
        content,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        attributes: attributes
            .map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value))
            .collect(),
        protection: Protection::of_flags(flags::of_path(path)?),
        modified: Some((meta.mtime(), meta.mtime_nsec())),
    })
}

/// Look at the model.
#[must_use]
pub fn model(state: &State) -> Tree {
    state.tree().into_iter().map(|(path, id)| (path, entry(state, id))).collect()
}

/// An inode of the model as its name would be seen.
#[must_use]
pub fn entry(state: &State, id: Id) -> Entry {
    let inode = state.inode(id);
    let content = match &inode.kind {
        Kind::File(bytes) => Content::Bytes(Rc::clone(bytes)),
        Kind::Directory(_) => Content::Directory,
        Kind::Symlink(target) => Content::Target(target.clone()),
        Kind::Node(node) => {
            let (kind, device) = node.numbers();
            Content::Node(kind, device)
        }
    };
    Entry {
        identity: id as u64,
        content,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        attributes: inode.all_attributes(),
        protection: inode.protection,
        modified: inode.modified,
    }
}

/// Which of two trees' facts are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// All.
    Full,
    /// Modification times left out.
    NoTimes,
    /// What an fsync of every file and directory promises at once: no times, and no attributes of what cannot be synced
    /// (symlinks, pipes, devices, sockets).
    Synced,
}

/// The differences between two trees, in words.
#[must_use]
pub fn differences(one: &Tree, other: &Tree, depth: Depth) -> Vec<String> {
    let mut found = Vec::new();
    let groups = (first_names(one), first_names(other));
    for (path, left) in one {
        let Some(right) = other.get(path) else {
            found.push(format!("{path:?}: only on the left"));
            continue;
        };
        entries(path, left, right, depth, &mut found);
        let same = (groups.0.get(&left.identity), groups.1.get(&right.identity));
        if same.0 != same.1 {
            found.push(format!("{path:?}: the same file as {:?} / {:?}", same.0, same.1));
        }
    }
    found.extend(
        other
            .keys()
            .filter(|path| !one.contains_key(*path))
            .map(|path| format!("{path:?}: only on the right")),
    );
    found
}

/// The first path of each file.
#[must_use]
pub fn first_names(tree: &Tree) -> BTreeMap<u64, &str> {
    tree.iter().rev().map(|(path, entry)| (entry.identity, path.as_str())).collect()
}

fn entries(path: &str, left: &Entry, right: &Entry, depth: Depth, found: &mut Vec<String>) {
    if let Some(what) = content_difference(&left.content, &right.content) {
        found.push(format!("{path:?}: {what}"));
    }
    let special = !matches!(left.content, Content::Bytes(_)) && left.content != Content::Directory;
    if depth == Depth::Synced && special {
        return;
    }
    if left.mode != right.mode {
        found.push(format!("{path:?}: mode {:o} / {:o}", left.mode, right.mode));
    }
    if (left.uid, left.gid) != (right.uid, right.gid) {
        found.push(format!("{path:?}: owner {}:{} / {}:{}", left.uid, left.gid, right.uid, right.gid));
    }
    if left.attributes != right.attributes {
        found.push(format!("{path:?}: attributes {:?} / {:?}", left.attributes, right.attributes));
    }
    if left.protection != right.protection {
        found.push(format!("{path:?}: protection {:?} / {:?}", left.protection, right.protection));
    }
    if depth == Depth::Full
        && left.modified.is_some()
        && right.modified.is_some()
        && left.modified != right.modified
    {
        found.push(format!("{path:?}: modified {:?} / {:?}", left.modified, right.modified));
    }
}

fn content_difference(left: &Content, right: &Content) -> Option<String> {
    match (left, right) {
        (Content::Bytes(one), Content::Bytes(other)) if one != other => {
            let at = one.iter().zip(other.iter()).take_while(|(one, other)| one == other).count();
            Some(format!("{} bytes / {}, the first difference at {at}", one.len(), other.len()))
        }
        (Content::Bytes(_), Content::Bytes(_)) => None,
        _ if left == right => None,
        _ => Some(format!("{} / {}", kind(left), kind(right))),
    }
}

fn kind(content: &Content) -> String {
    match content {
        Content::Bytes(_) => "file".to_owned(),
        Content::Target(target) => format!("symlink to {target:?}"),
        Content::Directory => "directory".to_owned(),
        Content::Node(kind, device) => format!("node {kind:o} {device}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(identity: u64, bytes: &[u8]) -> Entry {
        let content = Content::Bytes(Rc::new(bytes.to_vec()));
        let attributes = BTreeMap::new();
        let protection = Protection::Nothing;
        let modified = Some((1, 0));
        Entry { identity, content, mode: 0o644, uid: 0, gid: 0, attributes, protection, modified }
    }

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        entries.iter().map(|(path, entry)| ((*path).to_owned(), entry.clone())).collect()
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let one = tree(&[("a", file(1, b"xy")), ("b", file(1, b"xy")), ("c", file(2, b""))]);
        assert_eq!(differences(&one, &one, Depth::Full), Vec::<String>::new());
        let same_links = tree(&[("a", file(9, b"xy")), ("b", file(9, b"xy")), ("c", file(4, b""))]);
        assert!(differences(&one, &same_links, Depth::Full).is_empty());
        let copied = tree(&[("a", file(9, b"xy")), ("b", file(8, b"xz")), ("d", file(4, b""))]);
        let found = differences(&one, &copied, Depth::Full).join("\n");
        for words in [
            "\"b\": 2 bytes / 2, the first difference at 1",
            "\"b\": the same file",
            "\"c\": only",
            "\"d\": only",
        ] {
            assert!(found.contains(words), "{words} in {found}");
        }
        let mut later = one.clone();
        later.get_mut("c").unwrap().modified = Some((2, 0));
        assert!(differences(&one, &later, Depth::NoTimes).is_empty());
        assert_eq!(differences(&one, &later, Depth::Full).len(), 1);
    }
}
