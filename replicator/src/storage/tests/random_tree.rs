//! Random changes of a tree, from a seed.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod};
use replicator_core::ids::FileKind;
use replicator_core::wire::namespace::{NewNode, Operation};

use crate::storage::reader;
use crate::volume::Volume;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len() as u64) as usize) }
    }
}

/// What a change was, for who has to mirror it.
pub(super) enum Change {
    Name(Operation),
    Content(PathBuf),
    Attributes(PathBuf),
}

/// All paths of a tree, the root first, in an order that depends on the names only.
pub(super) fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            continue;
        }
        let mut inside: Vec<_> =
            fs::read_dir(&path).expect("list").map(|entry| entry.expect("an entry").path()).collect();
        inside.retain(|inside| *inside != root.join(".replicator"));
        inside.sort();
        found.extend(inside);
    }
    found
}

/// Names that collide often, and odd ones.
fn name(random: &mut Random) -> OsString {
    let odd: [&[u8]; 8] = [b"new\nline", b"\xff\xfe\x80", b" ", b"-rf", b"...", &[b'x'; 255], b"%s", b"\\"];
    match random.below(10) {
        0 => OsStr::from_bytes(odd[random.below(8) as usize]).to_owned(),
        _ => OsString::from_vec(vec![b'a' + random.below(6) as u8]),
    }
}

/// Make one random change in the tree of a volume; `None` if it turned out to be impossible.
pub(super) fn change(volume: &Volume, random: &mut Random) -> Option<Change> {
    let all = walk(&volume.path);
    let directories: Vec<_> =
        all.iter().filter(|path| fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())).cloned().collect();
    let directory = random.pick(&directories)?.clone();
    let new = directory.join(name(random));
    let existing = random.pick(&all[1..]).cloned();
    let tree = Tree { volume };
    match random.below(21) {
        20 => {
            let path = random.pick(&all)?.clone();
            set_flags(&path, random)?;
            Some(Change::Attributes(path))
        }
        0..5 => tree.make(&new, random),
        5 => tree.link(&existing?, &new),
        6..8 => tree.remove(&existing?),
        8..12 => tree.rename(&existing?, &new),
        12 => {
            let other = random.pick(&all[1..])?.clone();
            tree.exchange(&existing?, &other)
        }
        13..17 => write(&existing?, random),
        _ => {
            let path = random.pick(&all)?.clone();
            set_attributes(&path, random)?;
            Some(Change::Attributes(path))
        }
    }
}

/// Make, remove, move or exchange a directory at random.
pub(super) fn change_directories(volume: &Volume, random: &mut Random) -> Option<Change> {
    let mut all = walk(&volume.path);
    all.retain(|path| fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()));
    let tree = Tree { volume };
    let inside = random.pick(&all[1..]).cloned();
    let new = random.pick(&all)?.join(OsString::from_vec(vec![b'a' + random.below(6) as u8]));
    match random.below(if all.len() > 12 { 9 } else { 12 }) {
        0 => tree.remove(&inside?),
        1..7 => tree.rename(&inside?, &new),
        7..9 => tree.exchange(&inside?, random.pick(&all[1..])?),
        _ => {
            fs::create_dir(&new).ok()?;
            let node = tree.describe(&new);
            Some(Change::Name(Operation::Create { parent: tree.parent(&new), name: bytes(&new), node }))
        }
    }
}

struct Tree<'a> {
    volume: &'a Volume,
}

fn bytes(name: &Path) -> Vec<u8> {
    name.file_name().expect("a name").as_bytes().to_vec()
}

impl Tree<'_> {
    fn file(&self, path: &Path) -> replicator_core::ids::FileId {
        self.volume.file(super::fixture::inode(path))
    }

    fn parent(&self, path: &Path) -> replicator_core::ids::FileId {
        self.file(path.parent().expect("a parent"))
    }

    fn describe(&self, path: &Path) -> NewNode {
        let parent = fs::File::open(path.parent().expect("a parent")).expect("open");
        reader::describe(self.volume, parent.as_fd(), &bytes(path)).expect("describe").expect("exists")
    }

    fn make(&self, path: &Path, random: &mut Random) -> Option<Change> {
        let mode = Mode::from_bits_truncate(random.below(0o1000) as u32);
        let special = |kind, device| mknod(path, kind, mode, device).ok();
        match random.below(12) {
            0..4 => fs::create_dir(path).ok()?,
            4..8 => drop(OpenOptions::new().write(true).create_new(true).open(path).ok()?),
            8 => {
                let target = [name(random), "/etc/passwd".into(), "../..".into()];
                std::os::unix::fs::symlink(random.pick(&target)?, path).ok()?;
            }
            9 => special(SFlag::S_IFIFO, 0)?,
            10 => special(SFlag::S_IFSOCK, 0)?,
            _ => {
                let kind = if random.below(2) == 0 { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                special(kind, nix::sys::stat::makedev(1, 3 + random.below(3)))?;
            }
        }
        let node = self.describe(path);
        Some(Change::Name(Operation::Create { parent: self.parent(path), name: bytes(path), node }))
    }

    fn link(&self, old: &Path, new: &Path) -> Option<Change> {
        fs::hard_link(old, new).ok()?;
        let node = self.describe(new);
        Some(Change::Name(Operation::Link { parent: self.parent(new), name: bytes(new), node }))
    }

    fn remove(&self, path: &Path) -> Option<Change> {
        let found = fs::symlink_metadata(path).ok()?;
        let operation = Operation::Unlink {
            parent: self.parent(path),
            name: bytes(path),
            file: self.file(path),
            directory: found.is_dir(),
            last: found.is_dir() || found.nlink() == 1,
        };
        if found.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }.ok()?;
        Some(Change::Name(operation))
    }

    fn rename(&self, old: &Path, new: &Path) -> Option<Change> {
        let replaced = fs::symlink_metadata(new).ok();
        let operation = Operation::Rename {
            old_parent: self.parent(old),
            old_name: bytes(old),
            new_parent: self.parent(new),
            new_name: bytes(new),
            file: self.file(old),
            other: replaced.as_ref().map(|m| self.volume.file(m.ino())),
            other_last: replaced.is_some_and(|m| m.is_dir() || m.nlink() == 1),
            exchange: false,
        };
        fs::rename(old, new).ok()?;
        Some(Change::Name(operation))
    }

    fn exchange(&self, old: &Path, new: &Path) -> Option<Change> {
        let operation = Operation::Rename {
            old_parent: self.parent(old),
            old_name: bytes(old),
            new_parent: self.parent(new),
            new_name: bytes(new),
            file: self.file(old),
            other: Some(self.file(new)),
            other_last: false,
            exchange: true,
        };
        renameat2(AT_FDCWD, old, AT_FDCWD, new, RenameFlags::RENAME_EXCHANGE).ok()?;
        Some(Change::Name(operation))
    }
}

/// Write, zero, cut, extend or punch a regular file; on any other kind change attributes.
fn write(path: &Path, random: &mut Random) -> Option<Change> {
    let kind = FileKind::from_mode(fs::symlink_metadata(path).ok()?.mode());
    if kind != Some(FileKind::Regular) {
        set_attributes(path, random)?;
        return Some(Change::Attributes(path.to_owned()));
    }
    let file = OpenOptions::new().write(true).open(path).ok()?;
    let at = if random.below(2) == 0 { random.below(100) << 12 } else { random.below(400_000) };
    let length = if random.below(2) == 0 { random.below(200) << 10 } else { random.below(5000) };
    match random.below(6) {
        0 => file.set_len(at).expect("truncate"),
        1 => {
            let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&file, mode, at as i64, length as i64 + 1).expect("punch");
        }
        2 => file.write_all_at(&vec![0; length as usize], at).expect("write zeroes"),
        _ => {
            let byte = 1 + random.below(255) as u8;
            file.write_all_at(&vec![byte; length as usize], at).expect("write");
        }
    }
    Some(Change::Content(path.to_owned()))
}

/// Set the inode flags, which protect every second time; `None` if it has none.
fn set_flags(path: &Path, random: &mut Random) -> Option<()> {
    let others = [0, flag::SYNCHRONOUS, flag::NO_DUMP, flag::NO_ACCESS_TIME, flag::SYNCHRONOUS_DIRECTORY];
    let protecting = [0, 0, flag::IMMUTABLE, flag::APPEND_ONLY];
    put_flags(path, random.pick(&others)? | random.pick(&protecting)?)
}

/// Numbers of inode flags (linux/fs.h).
pub(super) mod flag {
    pub const SYNCHRONOUS: i32 = 0x8;
    pub const IMMUTABLE: i32 = 0x10;
    pub const APPEND_ONLY: i32 = 0x20;
    pub const NO_DUMP: i32 = 0x40;
    pub const NO_ACCESS_TIME: i32 = 0x80;
    pub const SYNCHRONOUS_DIRECTORY: i32 = 0x1_0000;
    pub const ALL: i32 = 0x1_00f8;
}

fn open_for_flags(path: &Path) -> Option<fs::File> {
    let kind = fs::symlink_metadata(path).expect("stat");
    (kind.is_file() || kind.is_dir()).then(|| fs::File::open(path).expect("open"))
}

/// Let a file have exactly these flags; `None` if it cannot, and it has those that it had.
pub(super) fn put_flags(path: &Path, flags: i32) -> Option<()> {
    let file = open_for_flags(path)?;
    let mut bits = 0_i32;
    // SAFETY: the call writes one int, which outlives it.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut bits) } < 0 {
        return None;
    }
    // SAFETY: the call reads one int, which outlives it.
    let set = |bits: i32| unsafe {
        libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS as _, &raw const bits) == 0
    };
    // An immutable file takes no others.
    let others = bits & !flag::ALL;
    let done = set(others) && set(others | flags);
    if !done {
        set(bits);
    }
    done.then_some(())
}

/// The flags of a regular file or directory.
pub(super) fn flags_of(path: &Path) -> i32 {
    let Some(file) = open_for_flags(path) else { return 0 };
    let mut bits = 0_i32;
    // SAFETY: the call writes one int, which outlives it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut bits) };
    if result < 0 { 0 } else { bits & flag::ALL }
}

/// Takes the flags from everything below a directory when dropped, so that it can be deleted.
pub(super) struct Release<'a>(pub(super) &'a Path);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        for path in walk(self.0) {
            if flags_of(&path) != 0 {
                put_flags(&path, 0);
            }
        }
    }
}

/// Change mode, owner, times, extended attributes or ACLs; `None` if the file is protected from it.
pub(super) fn set_attributes(path: &Path, random: &mut Random) -> Option<()> {
    if flags_of(path) & (flag::IMMUTABLE | flag::APPEND_ONLY) != 0 {
        return None;
    }
    let found = fs::symlink_metadata(path).expect("stat");
    let symlink = found.is_symlink();
    match random.below(7) {
        0 | 1 if !symlink => {
            let mode = random.below(0o10000) as u32;
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        2 => {
            let owner = Some(random.below(3) as u32 * 1000);
            std::os::unix::fs::lchown(path, owner, Some(random.below(3) as u32 * 1000)).expect("chown");
        }
        3 if !symlink => {
            let user = random.below(3) as u32 + 1;
            set_xattr(path, c"system.posix_acl_access", &acl(user));
            if found.is_dir() && random.below(2) == 0 {
                set_xattr(path, c"system.posix_acl_default", &acl(user + 1));
            }
        }
        4 if found.is_file() || found.is_dir() => {
            let name = CString::new(format!("user.{}", random.below(3))).expect("a name");
            set_xattr(path, &name, &vec![7; random.below(200) as usize]);
        }
        5 if found.is_file() => {
            // A capability set, which a change of owner or content takes away (linux/capability.h, revision 2).
            let mut value = [0; 20];
            value[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
            value[4..8].copy_from_slice(&(1_u32 << random.below(8)).to_le_bytes());
            set_xattr(path, c"security.capability", &value);
        }
        5 => {
            let name = CString::new("trusted.t").expect("a name");
            // SAFETY: both strings are NUL-terminated and outlive the call.
            unsafe { libc::lremovexattr(c_path(path).as_ptr(), name.as_ptr()) };
        }
        6 => set_xattr(path, c"trusted.t", &random.next().to_le_bytes()),
        _ => {
            let time = libc::timespec {
                tv_sec: random.below(4_000_000_000) as i64 - 1_000_000_000,
                tv_nsec: random.below(1_000_000_000) as i64,
            };
            // SAFETY: the path is NUL-terminated, there are two timespecs; both outlive the call.
            let result = unsafe {
                libc::utimensat(
                    libc::AT_FDCWD,
                    c_path(path).as_ptr(),
                    [time, time].as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                )
            };
            assert_eq!(result, 0);
        }
    }
    Some(())
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path")
}

pub(super) fn set_xattr(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
    let path = c_path(path);
    // SAFETY: both strings are NUL-terminated, `value` is as long as it says; all outlive the call.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(result, 0, "setxattr {name:?}: {}", std::io::Error::last_os_error());
}

/// An ACL that lets one more user read (posix_acl_xattr.h: version, then tag, permissions and id of each entry).
pub(super) fn acl(user: u32) -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(0x01, 7, none), (0x02, 4, user), (0x04, 5, none), (0x10, 5, none), (0x20, 0, none)];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
