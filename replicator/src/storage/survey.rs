//! What every file of a tree looks like, without a look at what it holds: whether it was changed while nobody watched.
//!
//! A file's change time (ctime) is the kernel's: no call sets it, every change of bytes, attributes and names does. So a file with the
//! same handle and the same times as before is the same file, unchanged. No clock is trusted for what was earlier or later: equal
//! is unchanged, everything else is changed. A change within the same tick of the kernel's clock as the look would not show;
//! so a file that was changed just before the look looks like nothing ([`Fingerprint::NONE`]), and counts as changed.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::time::ClockId;
use replicator_core::ids::FileKind;
use replicator_core::wire::attributes::Timestamp;

use super::reader::{is_excluded, is_gone};
use super::status::{Status, entries};
use crate::clock;
use crate::patterns::joined;
use crate::volume::{Acquaintance, FileHandle, RESERVED_NAME, Volume};

/// A file that was changed less than this before the look may be changed again without showing it: some ticks of the slowest kernel
/// clock (CONFIG_HZ=100).
const RECENT: Duration = Duration::from_millis(50);

/// Stands for all that stat(2) tells of a file, and for its handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of a file that has none: equal to no other file's, nor to itself later.
    pub const NONE: Fingerprint = Fingerprint(0);

    /// That with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Fingerprint {
        Fingerprint(number)
    }

    /// The number that stands for it: 0 for [`Fingerprint::NONE`].
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Of one file of a volume, by its remembered handle, through a descriptor of it.
    ///
    /// # Errors
    /// What the system returns; ESTALE where the file is not known any more.
    pub fn of(volume: &Volume, inode: u64, file: BorrowedFd<'_>) -> io::Result<Fingerprint> {
        let handle = volume.handle(inode).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
        Ok(Fingerprint::new(&Status::of(file)?, &handle, now()?))
    }

    fn new(status: &Status, handle: &FileHandle, now: i128) -> Fingerprint {
        let changed = changed(status);
        // In the future, too: the clock was set back, and may show that time again.
        if changed + RECENT.as_nanos() as i128 >= now {
            return Fingerprint::NONE;
        }
        let (kind, bytes) = handle.parts();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&kind.to_le_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
        hasher.update(&changed.to_le_bytes());
        hasher.update(&nanoseconds(status.mtime).to_le_bytes());
        for number in [u64::from(status.mode), status.size, u64::from(status.links), status.rdev] {
            hasher.update(&number.to_le_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Fingerprint(u64::from_le_bytes(first).max(1))
    }
}

/// What a survey comes upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sight {
    /// A name of a file, or the root.
    File(Seen),
    /// A name of something that is not part of the tree (it is mounted there), in the directory with this inode number: that it comes
    /// or goes changes no time.
    Foreign(u64),
}

/// A file of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Inode number of the directory with the name; for the root, its own.
    pub directory: u64,
    /// Its inode number.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Its handle.
    pub handle: FileHandle,
    /// What it looks like.
    pub fingerprint: Fingerprint,
    /// When it was changed last (ctime), in nanoseconds since 1970.
    pub changed: i128,
}

/// Look at all files of a volume's tree, once for each of their names. Their handles are learnt, each before the look: what happens to
/// the file later is told by whoever watches. Files that are moved meanwhile may be missed. What is left out is what
/// [`super::reader::list_directory`] leaves out.
///
/// # Errors
/// What the system returns; [`io::ErrorKind::Interrupted`] where `cancelled` was set.
pub fn survey(volume: &Volume, cancelled: &AtomicBool, see: &mut dyn FnMut(Sight)) -> io::Result<()> {
    let (root, mount) = FileHandle::with_mount(volume.root(), c"")?;
    let status = Status::of(volume.root())?;
    see(Sight::File(Seen {
        directory: volume.root_inode,
        inode: volume.root_inode,
        kind: FileKind::Directory,
        fingerprint: Fingerprint::new(&status, &root, now()?),
        changed: changed(&status),
        handle: root.clone(),
    }));
    let mut left = vec![(volume.root_inode, root)];
    while let Some((inode, handle)) = left.pop() {
        if cancelled.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // The gate changes names and gives numbers to new files under it.
        let _order = volume.lock_namespace();
        let opened = handle.open(volume.root(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME);
        let directory = match opened {
            Err(error) if is_gone(&error) => continue,
            opened => opened?,
        };
        let directory = Directory { volume, inode, descriptor: directory.as_fd(), mount };
        let path = match volume.patterns() {
            Some(_) => volume.path_below(directory.descriptor)?,
            None => None,
        };
        if path.as_ref().is_some_and(|path| is_excluded(volume, path, FileKind::Directory)) {
            continue;
        }
        for (name, number) in entries(directory.descriptor)? {
            if inode == volume.root_inode && name.to_bytes() == RESERVED_NAME {
                continue;
            }
            let seen = match directory.look(&name, number)? {
                Some(Sight::File(seen)) => seen,
                Some(foreign) => {
                    see(foreign);
                    continue;
                }
                None => continue,
            };
            if path
                .as_ref()
                .is_some_and(|path| is_excluded(volume, &joined(path, name.to_bytes()), seen.kind))
            {
                continue;
            }
            if seen.kind == FileKind::Directory {
                left.push((seen.inode, seen.handle.clone()));
            }
            see(Sight::File(seen));
        }
    }
    Ok(())
}

struct Directory<'a> {
    volume: &'a Volume,
    inode: u64,
    descriptor: BorrowedFd<'a>,
    /// The mount that the tree lies on.
    mount: i32,
}

impl Directory<'_> {
    /// What the name stands for; `None` if it is gone.
    fn look(&self, name: &CStr, number: u64) -> io::Result<Option<Sight>> {
        let (handle, mount) = match FileHandle::with_mount(self.descriptor, name) {
            Err(error) if is_gone(&error) => return Ok(None),
            found => found?,
        };
        if mount != self.mount {
            return Ok(Some(Sight::Foreign(self.inode)));
        }
        let acquaintance = self.volume.learn(number, handle.clone());
        let status = Status::at(self.descriptor, name)?;
        let known = status.filter(|status| {
            status.inode == number && status.device == self.volume.device && !status.mount_root
        });
        let Some((status, kind)) = known.and_then(|status| Some((status, status.kind()?))) else {
            // Another subvolume, or a name that others changed this moment; of that they are told.
            if acquaintance == Acquaintance::New {
                self.volume.forget(number);
            }
            return Ok(Some(Sight::Foreign(self.inode)));
        };
        let fingerprint = Fingerprint::new(&status, &handle, now()?);
        let (directory, changed) = (self.inode, changed(&status));
        Ok(Some(Sight::File(Seen { directory, inode: number, kind, handle, fingerprint, changed })))
    }
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

/// When a file was changed last, in nanoseconds.
fn changed(status: &Status) -> i128 {
    nanoseconds(status.ctime)
}

/// The kernel's clock for file times, in nanoseconds.
fn now() -> io::Result<i128> {
    clock::nanoseconds(ClockId::CLOCK_REALTIME_COARSE).map(i128::from)
}

/// What the files of a tree look like, by their inode numbers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fingerprints {
    /// Ascending.
    files: Vec<(u64, Fingerprint)>,
}

impl Fingerprints {
    /// Of all files of a volume.
    ///
    /// # Errors
    /// As [`survey`].
    pub fn take(volume: &Volume, cancelled: &AtomicBool) -> io::Result<Fingerprints> {
        let mut files = Vec::new();
        survey(volume, cancelled, &mut |sight| {
            if let Sight::File(seen) = sight {
                files.push((seen.inode, seen.fingerprint));
            }
        })?;
        Ok(Fingerprints::new(files))
    }

    /// Of files in any order; one that was seen to look in different ways counts as changed.
    #[must_use]
    pub fn new(mut files: Vec<(u64, Fingerprint)>) -> Fingerprints {
        files.sort_unstable_by_key(|(inode, fingerprint)| (*inode, fingerprint.0));
        files.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same && later.1 != kept.1 {
                kept.1 = Fingerprint::NONE;
            }
            same
        });
        Fingerprints { files }
    }

    /// Put these, ascending by inode number, in the place of those before; what looks like nothing is gone, and taken out.
    pub fn replace(&mut self, later: impl Iterator<Item = (u64, Fingerprint)>) {
        let mut later = later.peekable();
        let mut merged = Vec::with_capacity(self.files.len());
        let mut put = |(inode, fingerprint)| {
            if fingerprint != Fingerprint::NONE {
                merged.push((inode, fingerprint));
            }
        };
        let mut kept = Vec::new();
        for former in std::mem::take(&mut self.files) {
            while let Some(new) = later.next_if(|new| new.0 < former.0) {
                put(new);
            }
            match later.next_if(|new| new.0 == former.0) {
                Some(new) => put(new),
                // Changed just before it was looked at: it stays what counts as changed.
                None if former.1 == Fingerprint::NONE => kept.push(former),
                None => put(former),
            }
        }
        later.for_each(put);
        merged.extend(kept);
        merged.sort_unstable_by_key(|(inode, _)| *inode);
        self.files = merged;
    }

    /// Where the file is among them.
    #[must_use]
    pub fn position(&self, inode: u64) -> Option<usize> {
        self.files.binary_search_by_key(&inode, |(inode, _)| *inode).ok()
    }

    /// Whether the file at a position looks like this.
    #[must_use]
    pub fn matches(&self, position: usize, fingerprint: Fingerprint) -> bool {
        fingerprint != Fingerprint::NONE
            && self.files.get(position).is_some_and(|(_, former)| *former == fingerprint)
    }

    /// All of them, ascending by inode number.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, Fingerprint)> + '_ {
        self.files.iter().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// As bytes, 16 for each file.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(self.files.len() * 16);
        for (inode, fingerprint) in &self.files {
            bytes.extend_from_slice(&inode.to_le_bytes());
            bytes.extend_from_slice(&fingerprint.0.to_le_bytes());
        }
    }

    /// From such bytes; `None` if they are none, or not in order.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Fingerprints> {
        let (pairs, rest) = bytes.as_chunks::<16>();
        let files: Vec<(u64, Fingerprint)> = pairs
            .iter()
            .map(|pair| {
                let (inode, fingerprint) = pair.split_at(8);
                let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
                (number(inode), Fingerprint(number(fingerprint)))
            })
            .collect();
        (rest.is_empty() && files.is_sorted_by(|a, b| a.0 < b.0)).then_some(Fingerprints { files })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use replicator_core::ids::VolumeId;

    use super::*;
    use crate::patterns::{Patterns, TreePattern};

    /// More looks than a clock that goes on lets happen.
    const LOOKS: usize = 10_000_000;

    fn volume(root: &Path) -> Volume {
        Volume::open(VolumeId(0), root).unwrap()
    }

    fn never() -> AtomicBool {
        AtomicBool::new(false)
    }

    /// When all files have become old enough to look like something.
    fn settled(volume: &Volume) -> Fingerprints {
        let is_settled = |taken: &Fingerprints| taken.iter().all(|(_, one)| one != Fingerprint::NONE);
        let mut looks = (0..LOOKS).map(|_| Fingerprints::take(volume, &never()).unwrap());
        looks.find(is_settled).unwrap()
    }

    #[test]
    fn whatever_is_done_to_a_file_shows_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["bytes", "mode", "renamed", "linked", "untouched", "hidden"] {
            fs::write(at(name), "content").unwrap();
        }
        fs::create_dir(at("sub")).unwrap();
        symlink("bytes", at("sub/symlink")).unwrap();
        fs::hard_link(at("untouched"), at("sub/other-name")).unwrap();
        let volume = volume(place.path());
        let before = settled(&volume);
        assert_eq!(settled(&volume), before);
        assert_eq!(before.len(), 9);

        let number = |name: &str| fs::symlink_metadata(at(name)).unwrap().ino();
        // The same bytes as before, and the modification time put back.
        let modified = fs::metadata(at("hidden")).unwrap().modified().unwrap();
        let hidden = fs::File::options().write(true).open(at("hidden")).unwrap();
        hidden.write_all_at(b"content", 0).unwrap();
        hidden.set_modified(modified).unwrap();
        fs::write(at("bytes"), "changed").unwrap();
        fs::set_permissions(at("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(at("renamed"), at("sub/renamed")).unwrap();
        fs::hard_link(at("linked"), at("link")).unwrap();
        let changed = ["bytes", "mode", "sub/renamed", "linked", "hidden", "sub", ""].map(number);
        let now: HashMap<u64, Fingerprint> = settled(&volume).iter().collect();
        for (position, (inode, _)) in before.iter().enumerate() {
            assert_eq!(before.position(inode), Some(position));
            assert_eq!(before.matches(position, now[&inode]), !changed.contains(&inode), "{inode}");
        }
    }

    #[test]
    fn a_file_that_was_just_changed_looks_like_nothing() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "x").unwrap();
        let volume = volume(place.path());
        let status = Status::at(volume.root(), c"file").unwrap().unwrap();
        let handle = FileHandle::of(volume.root(), c"file").unwrap();
        let changed = i128::from(status.ctime.seconds) * 1_000_000_000 + i128::from(status.ctime.nanoseconds);
        let at = |after: i128| Fingerprint::new(&status, &handle, changed + after);
        let recent = RECENT.as_nanos() as i128;
        for after in [-1_000_000_000, 0, recent] {
            assert_eq!(at(after), Fingerprint::NONE);
        }
        assert_ne!(at(recent + 1), Fingerprint::NONE);
        assert_eq!(at(recent + 1), at(recent * 1000));
        // It is like no other, not even itself.
        assert!(!Fingerprints::new(vec![(5, Fingerprint::NONE)]).matches(0, Fingerprint::NONE));
    }

    #[test]
    fn handles_are_learnt_and_what_is_left_out_is_not_seen() {
        let place = tempfile::tempdir().unwrap();
        for name in ["tmp", "kept", ".replicator"] {
            fs::create_dir(place.path().join(name)).unwrap();
            fs::write(place.path().join(name).join("file"), "x").unwrap();
        }
        let patterns = Patterns::new(vec![TreePattern::parse("/tmp").unwrap()], Vec::new());
        let volume = volume(place.path()).with_patterns(patterns);
        let mut seen = Vec::new();
        let mut see = |sight| match sight {
            Sight::File(file) => seen.push((file.inode, file.directory)),
            Sight::Foreign(_) => panic!("nothing is mounted there"),
        };
        survey(&volume, &never(), &mut see).unwrap();
        let number = |name: &str| fs::metadata(place.path().join(name)).unwrap().ino();
        seen.sort_unstable();
        let [root, kept, file] = ["", "kept", "kept/file"].map(number);
        let mut expected = [(root, root), (kept, root), (file, kept)];
        expected.sort_unstable();
        assert_eq!(seen, expected);
        assert!(expected.iter().all(|(inode, _)| volume.handle(*inode).is_some()));
        assert_eq!(volume.handle(number("tmp/file")), None);
        let cancelled = AtomicBool::new(true);
        assert!(survey(&volume, &cancelled, &mut |_| {}).is_err());
    }

    #[test]
    fn later_looks_replace_former_ones() {
        let of = |files: &[(u64, u64)]| {
            Fingerprints::new(files.iter().map(|(inode, look)| (*inode, Fingerprint(*look))).collect())
        };
        let mut looks = of(&[(2, 20), (3, 0), (4, 40), (6, 60)]);
        looks.replace(of(&[(1, 11), (4, 0), (5, 0), (6, 61), (7, 71)]).iter());
        assert_eq!(looks, of(&[(1, 11), (2, 20), (3, 0), (6, 61), (7, 71)]));
    }

    #[test]
    fn they_are_read_as_they_were_written() {
        let many = Fingerprints::new((1..100).map(|inode| (inode * 7, Fingerprint(inode))).collect());
        let mut bytes = Vec::new();
        many.write(&mut bytes);
        assert_eq!(Fingerprints::read(&bytes), Some(many));
        assert_eq!(Fingerprints::read(&bytes[1..]), None);
        bytes.rotate_left(16);
        assert_eq!(Fingerprints::read(&bytes), None);
        // Two looks at one file that do not agree.
        let doubtful = Fingerprints::new(vec![(1, Fingerprint(3)), (1, Fingerprint(4)), (2, Fingerprint(3))]);
        assert_eq!(doubtful.iter().collect::<Vec<_>>(), [(1, Fingerprint::NONE), (2, Fingerprint(3))]);
    }
}
