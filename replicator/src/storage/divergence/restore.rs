//! A file as it was, written to a place that the operator names.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use replicator_core::extent::Extent;

use super::copy::copy_range;
use super::{Entry, FILES, Kept, RANGES, Set};
use crate::storage::status::Status;
use crate::volume::FileHandle;

/// How a file was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// All of it was kept.
    Whole,
    /// What was overwritten is as it was; the rest is from the file in the tree, as that is now.
    Overlaid,
    /// Only what was overwritten: the file is not in the tree any more, or was not asked for. The rest is holes.
    Ranges,
}

/// Write what is kept of a file to a path where nothing is. `alone`: without what the file in the tree has now.
///
/// # Errors
/// What the system says. What was written until then stays.
pub fn restore(root: &Path, set: &Set, entry: &Entry, to: &Path, alone: bool) -> io::Result<Restored> {
    let Kept::Ranges(ranges) = &entry.kept else {
        restore_removed(&set.directory.join(FILES).join(entry.number.to_string()), entry, to)?;
        return Ok(Restored::Whole);
    };
    let kept = File::open(set.directory.join(RANGES).join(entry.number.to_string()))?;
    let target = create(to)?;
    let present = if alone { None } else { present(root, entry)? };
    if let Some(present) = &present {
        let size = Status::of(present.as_fd())?.size.min(entry.file.size);
        copy_whole(present, &target, size)?;
    }
    for range in ranges.iter() {
        // What was a hole is one of the kept file, and of the present one perhaps not.
        zero(&target, range)?;
        let size = kept.metadata()?.len();
        copy_range(&kept, &target, Extent { start: range.start.min(size), end: range.end.min(size) })?;
    }
    target.set_len(entry.file.size)?;
    finish(&target, entry)?;
    Ok(if present.is_some() { Restored::Overlaid } else { Restored::Ranges })
}

fn create(to: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(to)
}

/// The file as it is in the tree now, if it is the one that it was.
fn present(root: &Path, entry: &Entry) -> io::Result<Option<File>> {
    let (kind, text) = &entry.file.handle;
    let bytes: Option<Vec<u8>> = (0..text.len() / 2)
        .map(|at| text.get(at * 2..at * 2 + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()))
        .collect();
    let handle = FileHandle::from_parts(*kind, &bytes.unwrap_or_default());
    let root = File::open(root)?;
    match handle.open(root.as_fd(), libc::O_RDONLY | libc::O_NOATIME | libc::O_NOFOLLOW) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok(None),
        Err(error) => Err(error),
    }
}

fn restore_removed(from: &Path, entry: &Entry, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    if found.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !found.is_file() {
        return Err(io::Error::other(
            "only regular files and symbolic links are written elsewhere; it lies in the set",
        ));
    }
    let source = File::open(from)?;
    let target = create(to)?;
    copy_whole(&source, &target, found.len())?;
    target.set_len(found.len())?;
    finish(&target, entry)
}

/// By plain copies: the place may be on another file system.
fn copy_whole(source: &File, target: &File, size: u64) -> io::Result<()> {
    copy_range(source, target, Extent { start: 0, end: size }).map(drop)
}

fn zero(target: &File, range: Extent) -> io::Result<()> {
    let end = target.metadata()?.len().min(range.end);
    if range.start < end {
        crate::storage::holes::punch(target.as_fd(), Extent { start: range.start, end })?;
    }
    Ok(())
}

fn finish(target: &File, entry: &Entry) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(target));
    chown(&path, Some(entry.file.uid), Some(entry.file.gid))?;
    target.set_permissions(Permissions::from_mode(entry.file.mode & 0o7777))?;
    target.sync_all()
}
