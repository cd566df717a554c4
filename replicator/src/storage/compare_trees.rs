//! Comparison of two directory trees, by their names alone: the oracle of the tests, and of an operator who doubts.
//!
//! It shares no code with what makes one tree like the other, so that a mistake there is not made here again. Compared are
//! names, types, bytes, sizes, holes, modes, owners, modification times, device numbers, symlink targets, extended attributes
//! with ACLs, inode flags that every file system has or could have, and which names are links to one file. Not compared: change and access times, sizes of directories, replicator's
//! own directory in the roots, and whatever is mounted inside.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{Whence, lseek};

use crate::volume::RESERVED_NAME;

/// A hole behind the last multiple of this many bytes does not count: a file system frees whole blocks only, so the block
/// with a file's end can be allocated in one tree and not in the other after the same calls.
const HOLE_UNIT_BYTES: u64 = 4096;

/// The inode flags that are compared (linux/fs.h): synchronous, immutable, append-only, no dump, no access time, synchronous
/// directory. Others say how one file system stores the file.
const FLAGS: libc::c_int = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x1_0000;

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;

/// One way in which two trees are not the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The file, relative to the roots; empty for the roots themselves.
    pub path: PathBuf,
    /// What is not the same.
    pub aspect: Aspect,
}

/// What is not the same about a file. Values are the first tree's, then the second's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Aspect {
    /// The second tree has no such name.
    OnlyInFirst,
    /// The first tree has no such name.
    OnlyInSecond,
    /// The type bits of the mode; nothing else of the file was compared.
    Kind(u32, u32),
    /// The permission bits.
    Mode(u32, u32),
    /// User and group.
    Owner((u32, u32), (u32, u32)),
    /// Modification time, seconds and nanoseconds.
    ModificationTime((i64, i64), (i64, i64)),
    /// Device number of a device file.
    DeviceNumber(u64, u64),
    /// Length in bytes of a regular file.
    Size(u64, u64),
    /// The bytes: the offset of the first that differs. Compared up to the shorter size.
    Bytes(u64),
    /// The holes: the offset of the first one that begins or ends elsewhere.
    Holes(u64),
    /// Target of a symlink.
    Target(OsString, OsString),
    /// An extended attribute of that name.
    ExtendedAttribute(OsString),
    /// The inode flags, of those that are compared.
    Flags(i32, i32),
    /// The name is a link to the same file as that name, each in its own tree.
    Links(PathBuf, PathBuf),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.path)?;
        match &self.aspect {
            Aspect::OnlyInFirst => f.write_str("only in the first tree"),
            Aspect::OnlyInSecond => f.write_str("only in the second tree"),
            Aspect::Kind(a, b) => write!(f, "type {a:o} is {b:o}"),
            Aspect::Mode(a, b) => write!(f, "mode {a:o} is {b:o}"),
            Aspect::Owner(a, b) => write!(f, "owner {}:{} is {}:{}", a.0, a.1, b.0, b.1),
            Aspect::ModificationTime(a, b) => {
                write!(f, "modification time {}.{:09} is {}.{:09}", a.0, a.1, b.0, b.1)
            }
            Aspect::DeviceNumber(a, b) => write!(f, "device number {a:#x} is {b:#x}"),
            Aspect::Size(a, b) => write!(f, "size {a} is {b}"),
            Aspect::Bytes(at) => write!(f, "bytes differ from offset {at}"),
            Aspect::Holes(at) => write!(f, "holes differ from offset {at}"),
            Aspect::Target(a, b) => write!(f, "target {a:?} is {b:?}"),
            Aspect::ExtendedAttribute(name) => write!(f, "extended attribute {name:?} differs"),
            Aspect::Flags(a, b) => write!(f, "inode flags {a:#x} are {b:#x}"),
            Aspect::Links(a, b) => write!(f, "one file with {a:?} there, with {b:?} here"),
        }
    }
}

/// Compare two trees, which nobody changes meanwhile. A directory that is in one tree only is reported once, not with all
/// that is in it. Memory grows with the number of differences and of files that have several names; open descriptors and stack
/// do not grow with the depth.
///
/// # Errors
/// What the system says when a file cannot be read; or that a tree changed meanwhile.
pub fn compare_trees(a: &Path, b: &Path) -> io::Result<Vec<Difference>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let roots = [open(a, flags, Mode::empty())?, open(b, flags, Mode::empty())?];
    let devices = [fstat(&roots[0])?.st_dev, fstat(&roots[1])?.st_dev];
    let mut comparison = Comparison {
        devices,
        current: roots,
        path: PathBuf::new(),
        links: [HashMap::new(), HashMap::new()],
        found: Vec::new(),
    };
    comparison.run()?;
    Ok(comparison.found)
}

struct Comparison {
    devices: [u64; 2],
    /// The directory at `path`, in both trees.
    current: [OwnedFd; 2],
    path: PathBuf,
    /// Of inodes with several names the first that was met.
    links: [HashMap<u64, PathBuf>; 2],
    found: Vec<Difference>,
}

/// A directory that is being compared.
struct Level {
    inodes: [u64; 2],
    /// Names that are left, last first, and in which trees they are.
    names: Vec<(OsString, [bool; 2])>,
}

impl Comparison {
    fn run(&mut self) -> io::Result<()> {
        let stats = [fstat(&self.current[0])?, fstat(&self.current[1])?];
        self.compare_inodes([&stats[0], &stats[1]], None)?;
        let mut levels = vec![self.level(true)?];
        while let Some(level) = levels.last_mut() {
            match level.names.pop() {
                Some((name, [true, true])) => {
                    if self.compare_name(&name)? {
                        let level = self.level(false)?;
                        levels.push(level);
                    }
                }
                Some((name, present)) => self.report_missing(&name, present)?,
                None => {
                    levels.pop();
                    if let Some(above) = levels.last() {
                        self.ascend(above.inodes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Read the names of the current directories.
    fn level(&self, root: bool) -> io::Result<Level> {
        let mut names: BTreeMap<OsString, [bool; 2]> = BTreeMap::new();
        for side in 0..2 {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOATIME;
            let mut directory = Dir::openat(&self.current[side], c".", flags, Mode::empty())?;
            for entry in directory.iter() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." && !(root && name == RESERVED_NAME) {
                    names.entry(OsStr::from_bytes(name).to_owned()).or_default()[side] = true;
                }
            }
        }
        let inodes = [fstat(&self.current[0])?.st_ino, fstat(&self.current[1])?.st_ino];
        Ok(Level { inodes, names: names.into_iter().rev().collect() })
    }

    fn ascend(&mut self, inodes: [u64; 2]) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        for (current, inode) in self.current.iter_mut().zip(inodes) {
            let above = openat(&*current, c"..", flags, Mode::empty())?;
            if fstat(&above)?.st_ino != inode {
                return Err(io::Error::other("a directory was moved while the trees were compared"));
            }
            *current = above;
        }
        self.path.pop();
        Ok(())
    }

    fn report(&mut self, path: PathBuf, aspect: Aspect) {
        self.found.push(Difference { path, aspect });
    }

    fn report_missing(&mut self, name: &OsStr, present: [bool; 2]) -> io::Result<()> {
        let side = usize::from(!present[0]);
        let Some(file) = open_path(&self.current[side], name)? else { return Ok(()) };
        // What is mounted is not part of the tree.
        if fstat(&file)?.st_dev == self.devices[side] {
            let aspect = if side == 0 { Aspect::OnlyInFirst } else { Aspect::OnlyInSecond };
            self.report(self.path.join(name), aspect);
        }
        Ok(())
    }

    /// Compare what a name stands for in both trees. If these are directories, they become the current ones (`true`).
    fn compare_name(&mut self, name: &OsStr) -> io::Result<bool> {
        let (Some(a), Some(b)) = (open_path(&self.current[0], name)?, open_path(&self.current[1], name)?)
        else {
            return Err(io::Error::other("a name vanished while the trees were compared"));
        };
        let stats = [fstat(&a)?, fstat(&b)?];
        match [stats[0].st_dev == self.devices[0], stats[1].st_dev == self.devices[1]] {
            [true, true] => {}
            [false, false] => return Ok(false),
            present => return self.report_missing(name, present).map(|()| false),
        }
        self.path.push(name);
        let same_kind = self.compare_inodes([&stats[0], &stats[1]], Some([&a, &b]))?;
        if same_kind && kind(&stats[0]) == libc::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            self.current = [openat(&a, c".", flags, Mode::empty())?, openat(&b, c".", flags, Mode::empty())?];
            return Ok(true);
        }
        self.path.pop();
        Ok(false)
    }

    /// Compare two files; `None` for `files`: the current directories. Returns whether they are of one kind.
    fn compare_inodes(&mut self, stats: [&FileStat; 2], files: Option<[&OwnedFd; 2]>) -> io::Result<bool> {
        let [a, b] = stats;
        let path = self.path.clone();
        if kind(a) != kind(b) {
            self.report(path, Aspect::Kind(kind(a), kind(b)));
            return Ok(false);
        }
        let mut found = Vec::new();
        let mut check = |same: bool, aspect: Aspect| {
            if !same {
                found.push(aspect);
            }
        };
        let (mode, owner) = (|s: &FileStat| s.st_mode & 0o7777, |s: &FileStat| (s.st_uid, s.st_gid));
        check(mode(a) == mode(b), Aspect::Mode(mode(a), mode(b)));
        check(owner(a) == owner(b), Aspect::Owner(owner(a), owner(b)));
        let time = |s: &FileStat| (s.st_mtime, s.st_mtime_nsec);
        check(time(a) == time(b), Aspect::ModificationTime(time(a), time(b)));
        if matches!(kind(a), libc::S_IFCHR | libc::S_IFBLK) {
            check(a.st_rdev == b.st_rdev, Aspect::DeviceNumber(a.st_rdev, b.st_rdev));
        }
        let at = files.unwrap_or([&self.current[0], &self.current[1]]);
        let (mut left, mut right) = (xattrs(at[0])?, xattrs(at[1])?);
        left.retain(|name, value| right.get(name) != Some(value) || right.remove(name).is_none());
        left.extend(right);
        for name in left.into_keys() {
            check(false, Aspect::ExtendedAttribute(name));
        }
        if matches!(kind(a), libc::S_IFREG | libc::S_IFDIR) {
            let flags = [inode_flags(at[0])?, inode_flags(at[1])?];
            check(flags[0] == flags[1], Aspect::Flags(flags[0], flags[1]));
        }
        match kind(a) {
            libc::S_IFLNK => {
                let (left, right) = (readlinkat(at[0], c"")?, readlinkat(at[1], c"")?);
                check(left == right, Aspect::Target(left, right));
            }
            libc::S_IFREG => {
                let (left, right) = (a.st_size as u64, b.st_size as u64);
                check(left == right, Aspect::Size(left, right));
                let files = [open_for_read(at[0])?, open_for_read(at[1])?];
                found.extend(compare_content(&files, left.min(right))?);
            }
            _ => {}
        }
        for aspect in found {
            self.report(path.clone(), aspect);
        }
        self.compare_links(stats);
        Ok(true)
    }

    /// Both names must be links to the same earlier name, or to none.
    fn compare_links(&mut self, stats: [&FileStat; 2]) {
        if kind(stats[0]) == libc::S_IFDIR || stats.iter().all(|stat| stat.st_nlink <= 1) {
            return;
        }
        let mut first_names = [0, 1].map(|side| {
            self.links[side].entry(stats[side].st_ino).or_insert_with(|| self.path.clone()).clone()
        });
        if first_names[0] != first_names[1] {
            let [a, b] = &mut first_names;
            let aspect = Aspect::Links(std::mem::take(a), std::mem::take(b));
            self.report(self.path.clone(), aspect);
        }
    }
}

fn kind(stat: &FileStat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

/// Open a name for anything but I/O, not following a symlink; `None` if it is gone.
fn open_path(directory: &OwnedFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn in_proc(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn open_for_read(file: &OwnedFd) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOATIME;
    Ok(open(&in_proc(file.as_fd()), flags, Mode::empty())?.into())
}

/// The inode flags of a regular file or directory; none where its file system has none.
fn inode_flags(file: &OwnedFd) -> io::Result<libc::c_int> {
    let file = open_for_read(file)?;
    let mut flags: libc::c_int = 0;
    // SAFETY: the call writes one int, which outlives it.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut flags) } < 0 {
        let error = io::Error::last_os_error();
        let none = matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP));
        return if none { Ok(0) } else { Err(error) };
    }
    Ok(flags & FLAGS)
}

/// Extended attributes of a file, but those that describe its file system.
fn xattrs(file: &OwnedFd) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let path = CString::new(in_proc(file.as_fd()).into_os_string().into_vec())?;
    // Largest list and largest value (linux/limits.h).
    let mut buffer = vec![0_u8; 65_536];
    // SAFETY: `path` is NUL-terminated, `buffer` as long as it says; both outlive the call.
    let length = unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOTSUP) { Ok(BTreeMap::new()) } else { Err(error) };
    };
    let list = buffer[..length].to_vec();
    let mut all = BTreeMap::new();
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let is_file_systems = name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_");
        // What xfs shows of its lists beside them.
        if is_file_systems || name.starts_with(b"trusted.SGI_ACL_") {
            continue;
        }
        let c_name = CString::new(name)?;
        // SAFETY: both strings are NUL-terminated, `buffer` is as long as it says; all outlive the call.
        let length = unsafe {
            libc::getxattr(path.as_ptr(), c_name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        all.insert(OsStr::from_bytes(name).to_owned(), buffer[..length].to_vec());
    }
    Ok(all)
}

/// Compare bytes and holes up to `size`. The map of holes is read first: reading can turn space that is reserved but
/// not written into what counts as data.
fn compare_content(files: &[File; 2], size: u64) -> io::Result<Vec<Aspect>> {
    let maps = [data_ranges(&files[0], size)?, data_ranges(&files[1], size)?];
    let mut found = Vec::new();
    if let Some(at) = first_difference(&maps[0], &maps[1])
        && at < size - size % HOLE_UNIT_BYTES
    {
        found.push(Aspect::Holes(at));
    }
    let mut buffers = [vec![0; READ_BYTES], vec![0; READ_BYTES]];
    // What is a hole in both need not be read.
    for &(start, end) in &union(&maps) {
        let mut position = start;
        while position < end {
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(READ_BYTES);
            for (file, buffer) in files.iter().zip(&mut buffers) {
                file.read_exact_at(&mut buffer[..length], position)?;
            }
            let [a, b] = &buffers;
            if a[..length] != b[..length] {
                let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                found.push(Aspect::Bytes(position + same as u64));
                return Ok(found);
            }
            position += length as u64;
        }
    }
    Ok(found)
}

/// Begin and end of all that is not a hole, ascending, up to `size`.
fn data_ranges(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match lseek(file, position as i64, Whence::SeekData) {
            Ok(start) => start as u64,
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        if start >= size {
            break;
        }
        let end = (lseek(file, start as i64, Whence::SeekHole)? as u64).min(size);
        ranges.push((start, end));
        position = end.max(position + 1);
    }
    Ok(ranges)
}

fn first_difference(a: &[(u64, u64)], b: &[(u64, u64)]) -> Option<u64> {
    let flat =
        |ranges: &[(u64, u64)]| ranges.iter().flat_map(|&(start, end)| [start, end]).collect::<Vec<_>>();
    let (a, b) = (flat(a), flat(b));
    if a == b {
        return None;
    }
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    [a.get(same), b.get(same)].into_iter().flatten().min().copied()
}

fn union(maps: &[Vec<(u64, u64)>; 2]) -> Vec<(u64, u64)> {
    let mut all: Vec<_> = maps.iter().flatten().copied().collect();
    all.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in all {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}
