//! The mount table of this process's namespace, as /proc/self/mountinfo shows it (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Its number in this boot.
    pub id: u32,
    /// The device, "major:minor".
    pub device: String,
    /// The directory of the file system that is mounted: `/`, or another one for a bind mount or a subvolume.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The file system's name, such as "ext4".
    pub filesystem: String,
    /// What the file system lives on, such as "/dev/sda1".
    pub source: String,
    /// Options of the mount and of the file system, joined by commas.
    pub options: String,
}

impl Mount {
    /// Whether it is any kind of FUSE file system.
    #[must_use]
    pub fn is_fuse(&self) -> bool {
        self.filesystem == "fuse" || self.filesystem == "fuseblk" || self.filesystem.starts_with("fuse.")
    }

    /// Whether the mount itself refuses writes; its file system may be mounted writable elsewhere.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        // The kernel writes "ro" or "rw" first (show_mountinfo in fs/proc_namespace.c).
        self.options.split(',').next() == Some("ro")
    }
}

/// All mounts of this process's namespace, a later one covering an earlier one at the same point.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountTable {
    mounts: Vec<Mount>,
}

impl MountTable {
    /// The table as it is now.
    ///
    /// # Errors
    /// /proc is not mounted or not readable.
    pub fn read() -> io::Result<MountTable> {
        Ok(MountTable::parse(&fs::read("/proc/self/mountinfo")?))
    }

    /// The table from the text of a mountinfo file. Lines that make no sense are left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> MountTable {
        MountTable { mounts: text.split(|byte| *byte == b'\n').filter_map(parse_line).collect() }
    }

    /// All mounts, in the order of the table.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The mount a path without symlinks lies on.
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let mut best: Option<&Mount> = None;
        for mount in self.mounts.iter().filter(|mount| path.starts_with(&mount.point)) {
            if best.is_none_or(|best| mount.point.starts_with(&best.point)) {
                best = Some(mount);
            }
        }
        best
    }

    /// The mount whose point is that path.
    #[must_use]
    pub fn at(&self, path: &Path) -> Option<&Mount> {
        self.mounts.iter().rev().find(|mount| mount.point == path)
    }

    /// The topmost mount at a path, if it shows the very directory that it covers; and the table without it.
    #[must_use]
    pub fn over_itself(&self, point: &Path) -> Option<(&Mount, MountTable)> {
        let top = self.mounts.iter().rposition(|mount| mount.point == point)?;
        let mut below = self.clone();
        below.mounts.remove(top);
        let covered = below.place(point)?;
        let top = self.mounts.get(top)?;
        (top.device == covered.device && top.root == covered.path).then_some((top, below))
    }

    /// The mounts below a path, the path itself not among them.
    pub fn inside<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Mount> {
        self.mounts.iter().filter(move |mount| mount.point.starts_with(path) && mount.point != path)
    }

    /// Where a path without symlinks lies on its file system: device, and path from the file system's own root.
    /// Two paths that lead to the same file through bind mounts have the same place.
    #[must_use]
    pub fn place(&self, path: &Path) -> Option<Place> {
        let mount = self.of(path)?;
        let below = path.strip_prefix(&mount.point).ok()?;
        let path = if below.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(below) };
        Some(Place { device: mount.device.clone(), path })
    }

    /// The mounts through which (a part of) what lies at `place` can also be reached, besides the one at `own`'s mount point.
    pub fn others_showing<'a>(&'a self, place: &'a Place, own: &'a Mount) -> impl Iterator<Item = &'a Mount> {
        self.mounts.iter().filter(move |mount| {
            mount.device == place.device
                && mount.point != own.point
                && (place.path.starts_with(&mount.root) || mount.root.starts_with(&place.path))
        })
    }
}

/// Where something lies on its file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The device, "major:minor".
    pub device: String,
    /// The path from the file system's own root.
    pub path: PathBuf,
}

impl Place {
    /// Whether `other` is this place or inside it.
    #[must_use]
    pub fn contains(&self, other: &Place) -> bool {
        self.device == other.device && other.path.starts_with(&self.path)
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let separator = line.windows(3).position(|window| window == b" - ")?;
    let (front, back) = (line.get(..separator)?, line.get(separator + 3..)?);
    let mut front = front.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(front.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8_lossy(front.nth(1)?).into_owned();
    let root = unescape(front.next()?);
    let point = unescape(front.next()?);
    let options = String::from_utf8_lossy(front.next()?).into_owned();
    let mut back = back.split(|byte| *byte == b' ');
    let filesystem = String::from_utf8_lossy(back.next()?).into_owned();
    let source = unescape(back.next()?).to_string_lossy().into_owned();
    let of_filesystem = back.next().map(String::from_utf8_lossy).unwrap_or_default();
    let options = format!("{options},{of_filesystem}");
    Some(Mount { id, device, root, point, filesystem, source, options })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 22 8:2 / /srv rw shared:2 - xfs /dev/sdb1 rw,attr2\n\
        31 22 8:2 /data/sub /mnt/with\\040space rw - xfs /dev/sdb1 rw\n\
        32 30 0:50 / /srv/data rw,nosuid - fuse.replicator replicator rw\n\
        nonsense\n\n33 22 - - -";

    #[test]
    fn a_path_lies_on_the_innermost_and_last_mount() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.of(Path::new("/etc")).map(|mount| mount.device.as_str()), Some("8:1"));
        assert_eq!(table.of(Path::new("/srv/other")).map(|mount| mount.device.as_str()), Some("8:2"));
        assert!(table.of(Path::new("/srv/data/x")).is_some_and(Mount::is_fuse));
        assert_eq!(table.inside(Path::new("/srv")).count(), 1);
        assert_eq!(table.at(Path::new("/srv")).map(|mount| mount.filesystem.as_str()), Some("xfs"));
    }

    #[test]
    fn a_bind_mount_leads_to_the_same_place() {
        let table = MountTable::parse(TABLE);
        let bound = table.place(Path::new("/mnt/with space/deep")).unwrap();
        assert_eq!(bound, Place { device: "8:2".into(), path: "/data/sub/deep".into() });
        let outer = table.place(Path::new("/srv/database")).unwrap();
        assert!(!outer.contains(&bound));
        assert!(Place { device: "8:2".into(), path: "/data".into() }.contains(&bound));
    }

    #[test]
    fn a_directory_over_itself_is_known() {
        let over = |line: &str| {
            let mut text = TABLE.to_vec();
            text.extend_from_slice(b"\n");
            text.extend_from_slice(line.as_bytes());
            let table = MountTable::parse(&text);
            let found = table.over_itself(Path::new("/srv/copy"));
            found.map(|(top, below)| (top.id, top.is_read_only(), below == MountTable::parse(TABLE)))
        };
        assert_eq!(over("40 30 8:2 /copy /srv/copy ro,relatime - xfs /dev/sdb1 rw"), Some((40, true, true)));
        assert_eq!(over("40 30 8:2 /copy /srv/copy rw,relatime - xfs /dev/sdb1 ro"), Some((40, false, true)));
        assert_eq!(over("40 30 8:2 /other /srv/copy ro - xfs /dev/sdb1 rw"), None);
        assert_eq!(over("40 30 8:3 /copy /srv/copy ro - xfs /dev/sdc1 rw"), None);
        assert_eq!(over("40 30 8:2 /copy /srv/elsewhere ro - xfs /dev/sdb1 rw"), None);
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic() {
        for length in 0..TABLE.len() {
            let _ = MountTable::parse(&TABLE[..length]);
            let _ = MountTable::parse(&TABLE[length..]);
        }
    }
}
