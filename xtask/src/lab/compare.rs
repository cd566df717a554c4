//! Whether two trees are the same: names, kinds, bytes, sizes, modes, owners, times, links, attributes, inode flags.
//!
//! Shares no code with the product: it is the judge of the promise same-tree.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{flags, xattr};

/// How many differences are kept; more say nothing new.
const KEPT: usize = 20;
const CHUNK: usize = 256 * 1024;
/// The node's own directory in the root of a mirrored one, which is no part of what is mirrored.
const RESERVED: &str = ".replicator";

/// What a comparison found.
#[derive(Clone, Default, Debug)]
pub struct Comparison {
    /// Entries of any kind on the left side, the roots not counted.
    pub entries: u64,
    /// Bytes of regular files compared.
    pub bytes: u64,
    /// The first differences, in the order of the paths.
    pub differences: Vec<String>,
    /// All differences, kept or not.
    pub count: u64,
}

impl Comparison {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.count == 0
    }

    fn note(&mut self, path: &Path, what: impl std::fmt::Display) {
        self.count += 1;
        if self.differences.len() < KEPT {
            self.differences.push(format!("{}: {what}", path.display()));
        }
    }
}

/// Compare two trees whose writers rest.
///
/// # Errors
/// A tree cannot be read. An entry that vanishes meanwhile is a difference.
pub fn trees(left: &Path, right: &Path) -> Result<Comparison> {
    trees_but(left, right, &[])
}

/// The same without the entries of the roots that have one of these names, which each side has for itself.
///
/// # Errors
/// As [`trees`].
pub fn trees_but(left: &Path, right: &Path, own: &[&str]) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    let left = scan(left, own)?;
    let right = scan(right, own)?;
    for (path, one) in &left.entries {
        comparison.entries += 1;
        match right.entries.get(path) {
            None => comparison.note(path, "only on the left"),
            Some(other) => entry(&mut comparison, path, (&left, one), (&right, other))?,
        }
    }
    for path in right.entries.keys().filter(|path| !left.entries.contains_key(*path)) {
        comparison.note(path, "only on the right");
    }
    comparison.entries = comparison.entries.saturating_sub(1);
    Ok(comparison)
}

/// A tree's entries by their path below the root ("" is the root itself).
struct Tree {
    root: PathBuf,
    entries: BTreeMap<PathBuf, Metadata>,
    /// The first path of every file with several names.
    first_names: HashMap<(u64, u64), PathBuf>,
}

fn scan(root: &Path, own: &[&str]) -> Result<Tree> {
    let mut tree = Tree { root: root.to_owned(), entries: BTreeMap::new(), first_names: HashMap::new() };
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let full = tree.full(&path);
        let meta = fs::symlink_metadata(&full).with_context(|| format!("stat {}", full.display()))?;
        if meta.is_dir() {
            let list = fs::read_dir(&full).with_context(|| format!("list {}", full.display()))?;
            let mut names: Vec<OsString> = list.map(|item| Ok(item?.file_name())).collect::<Result<_>>()?;
            let belongs = |name: &OsString| name != RESERVED && !own.iter().any(|own| name == own);
            names.retain(|name| !path.as_os_str().is_empty() || belongs(name));
            names.sort();
            open.extend(names.into_iter().rev().map(|name| path.join(name)));
        }
        tree.entries.insert(path, meta);
    }
    let many = tree.entries.iter().filter(|(_, meta)| !meta.is_dir() && meta.nlink() > 1);
    for (path, meta) in many {
        tree.first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone());
    }
    Ok(tree)
}

impl Tree {
    fn full(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn first_name(&self, meta: &Metadata) -> Option<&PathBuf> {
        self.first_names.get(&(meta.dev(), meta.ino()))
    }
}

fn entry(
    comparison: &mut Comparison,
    path: &Path,
    (left, one): (&Tree, &Metadata),
    (right, other): (&Tree, &Metadata),
) -> Result<()> {
    let kinds = (kind(one), kind(other));
    if kinds.0 != kinds.1 {
        comparison.note(path, format_args!("{} / {}", kinds.0, kinds.1));
        return Ok(());
    }
    let mut differs = |what: &str, one: String, other: String| {
        if one != other {
            comparison.note(path, format_args!("{what} {one} / {other}"));
        }
    };
    let mode = |meta: &Metadata| format!("{:o}", meta.mode() & 0o7777);
    differs("mode", mode(one), mode(other));
    let owner = |meta: &Metadata| format!("{}:{}", meta.uid(), meta.gid());
    differs("owner", owner(one), owner(other));
    let time = |meta: &Metadata| format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    differs("modified", time(one), time(other));
    if !one.is_dir() {
        differs("links", one.nlink().to_string(), other.nlink().to_string());
        let group = |tree: &Tree, meta: &Metadata| format!("{:?}", tree.first_name(meta));
        differs("same file as", group(left, one), group(right, other));
        differs("device", one.rdev().to_string(), other.rdev().to_string());
    }
    let (left, right) = (left.full(path), right.full(path));
    let attributes = |path: &Path| -> Result<String> {
        let all = xattr::all(path).with_context(|| format!("attributes of {}", path.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
        Ok(all.iter().map(|(name, value)| format!("{}={} ", text(name), text(value))).collect())
    };
    differs("attributes", attributes(&left)?, attributes(&right)?);
    let flags = |path: &Path| -> Result<String> {
        Ok(format!("{:#x}", flags::of_path(path).with_context(|| format!("flags of {}", path.display()))?))
    };
    differs("flags", flags(&left)?, flags(&right)?);
    if one.is_symlink() {
        let target = |path: &Path| Ok::<_, anyhow::Error>(format!("{:?}", fs::read_link(path)?));
        differs("target", target(&left)?, target(&right)?);
    }
    if one.is_file() {
        differs("size", one.len().to_string(), other.len().to_string());
        comparison.bytes += one.len();
        if one.len() == other.len()
            && let Some(at) = first_difference(&left, &right)?
        {
            comparison.note(path, format_args!("bytes differ at {at} of {}", one.len()));
        }
    }
    Ok(())
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_block_device() => "block device",
        () => "character device",
    }
}

fn first_difference(left: &Path, right: &Path) -> Result<Option<u64>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut one, mut other) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut offset = 0;
    loop {
        let length = fill(&mut left, &mut one)?;
        let beside = fill(&mut right, &mut other)?;
        let (one, other) = (&one[..length], &other[..beside]);
        if one != other {
            let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
            return Ok(Some(offset + same as u64));
        }
        if length == 0 {
            return Ok(None);
        }
        offset += length as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn twins() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (left, right) = (root.path().join("l"), root.path().join("r"));
        for side in [&left, &right] {
            fs::create_dir_all(side.join("d")).unwrap();
            fs::write(side.join("d/f"), vec![7; CHUNK + 5]).unwrap();
            fs::hard_link(side.join("d/f"), side.join("g")).unwrap();
            symlink("d/f", side.join("s")).unwrap();
            for path in ["d/f", "d", "s", ""] {
                stamp(&side.join(path));
            }
        }
        (root, left, right)
    }

    fn stamp(path: &Path) {
        let time = nix::sys::time::TimeSpec::new(1_000_000, 1);
        let at = nix::fcntl::AT_FDCWD;
        let flag = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(at, path, &time, &time, flag).unwrap();
    }

    fn differences(left: &Path, right: &Path) -> Vec<String> {
        trees(left, right).unwrap().differences
    }

    #[test]
    fn twins_are_identical() {
        let (_root, left, right) = twins();
        let found = trees(&left, &right).unwrap();
        assert!(found.is_identical(), "{found:?}");
        assert_eq!(found.entries, 4);
        assert_eq!(found.bytes, 2 * (CHUNK as u64 + 5));
    }

    #[test]
    fn what_each_side_has_for_itself_is_left_out_of_the_root_alone() {
        let (_root, left, right) = twins();
        fs::write(left.join("own"), "here").unwrap();
        stamp(&left.join(""));
        assert!(trees_but(&left, &right, &["own"]).unwrap().is_identical());
        assert_eq!(differences(&left, &right), ["own: only on the left"]);
        fs::write(right.join("d/own"), "there").unwrap();
        stamp(&right.join("d"));
        assert_eq!(trees_but(&left, &right, &["own"]).unwrap().differences, ["d/own: only on the right"]);
    }

    #[test]
    fn one_byte_is_found_and_its_place_named() {
        let (_root, left, right) = twins();
        let mut bytes = vec![7; CHUNK + 5];
        bytes[CHUNK + 1] = 8;
        fs::write(right.join("d/f"), bytes).unwrap();
        stamp(&right.join("d/f"));
        assert_eq!(
            differences(&left, &right),
            [
                format!("d/f: bytes differ at {} of {}", CHUNK + 1, CHUNK + 5),
                format!("g: bytes differ at {} of {}", CHUNK + 1, CHUNK + 5),
            ]
        );
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        type Change = (&'static str, fn(&Path));
        let change: [Change; 8] = [
            ("only on the right", |side| fs::write(side.join("new"), "").unwrap()),
            ("only on the left", |side| fs::remove_file(side.join("s")).unwrap()),
            ("mode", |side| fs::set_permissions(side.join("d"), fs::Permissions::from_mode(0o700)).unwrap()),
            ("modified", |side| {
                let file = File::open(side.join("g")).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }),
            ("size", |side| fs::write(side.join("g"), "short").unwrap()),
            ("same file as", |side| {
                fs::remove_file(side.join("g")).unwrap();
                fs::copy(side.join("d/f"), side.join("g")).unwrap();
            }),
            ("flags", |side| flags::set_path(&side.join("d"), flags::NO_DUMP).unwrap()),
            ("target", |side| {
                fs::remove_file(side.join("s")).unwrap();
                symlink("elsewhere", side.join("s")).unwrap();
            }),
        ];
        for (word, change) in change {
            let (_root, left, right) = twins();
            change(&right);
            let found = differences(&left, &right);
            assert!(found.iter().any(|line| line.contains(word)), "{word}: {found:?}");
        }
    }
}
