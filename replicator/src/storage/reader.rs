//! The primary's side: the current state of files, to be sent.
//!
//! Every function reads state as it is at some moment after the call began, and says nothing about what changes
//! meanwhile: that is the dirty set's business. A file that is gone shows as ESTALE ([`is_gone`]).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::fcntl::readlinkat;
use replicator_core::event::{Segment, SegmentContent};
use replicator_core::extent::Extent;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::attributes::{Attributes, InodeFlags};
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};

use super::descriptors::wrong_kind;
pub use super::digest::digests;
use super::flags::Flags;
use super::holes::{holes_within, is_zero};
use super::status::{Status, names, open_path};
use super::xattr;
use crate::exposure::{self, Place};
use crate::patterns::{Patterns, joined};
use crate::volume::{Acquaintance, FileHandle, RESERVED_NAME, Volume};

/// Zeroes are looked for in pieces of this size: the smallest block of the file systems in use, so that the secondary
/// gets the same holes.
const SCAN_BYTES: u64 = 1024;
/// How often attributes are read again that change meanwhile.
const READS: usize = 16;
/// Below that many bytes, memory costs less than to ask for the file's size.
const WORTH_ASKING_BYTES: u64 = 16 << 10;

/// A part of a directory's list is closed before it grows beyond this many encoded bytes.
const LIST_PART_BYTES: usize = 512 << 10;

/// Bound of what an entry takes beside its name and target when encoded.
const ENTRY_FIXED_BYTES: usize = 64;

/// Whether a read failed because the file does not exist any more. ENOTDIR counts as that: a directory whose number was
/// given to a file of another kind is gone.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT | libc::ENOTDIR))
}

/// Whether a file could not be opened for reading because it is not a regular one: it has no bytes to be sent.
#[must_use]
pub fn has_no_bytes(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Open a regular file for reading, without a trace in its access time.
///
/// # Errors
/// ESTALE where the file is gone, EINVAL where it is not a regular file (which is not opened: a FIFO would block and a
/// device would act); else what open_by_handle_at(2) returns.
pub fn open_for_read(volume: &Volume, inode: u64) -> io::Result<OwnedFd> {
    let handle = known(volume, inode)?;
    let path = open_path(&handle, volume.root())?;
    if Status::of(path.as_fd())?.kind() != Some(FileKind::Regular) {
        return Err(wrong_kind());
    }
    handle.open(volume.root(), libc::O_RDONLY | libc::O_NOATIME | libc::O_NOFOLLOW | libc::O_NONBLOCK)
}

/// Bytes of memory that reading an extent of an open file takes: at least one, at most `limit`, and for a large extent no more
/// than the file has of it.
#[must_use]
pub fn bytes_to_read(file: BorrowedFd<'_>, extent: Extent, limit: usize) -> usize {
    let mut length = extent.length();
    if length > WORTH_ASKING_BYTES
        && let Ok(size) = Status::size_of(file)
    {
        length = length.min(size.saturating_sub(extent.start));
    }
    usize::try_from(length).map_or(limit, |length| length.clamp(1, limit))
}

fn known(volume: &Volume, inode: u64) -> io::Result<FileHandle> {
    volume.handle(inode).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
}

/// Tell data from holes in `bytes`, which were read from `file` at `extent_start`: ascending, without gaps. A hole is
/// reported only where the bytes are zero *and* the file system says that nothing is allocated, so that bytes written
/// after the read are never taken for a hole, and zeroes that were written stay allocated on the secondary.
///
/// # Errors
/// What lseek(2) returns; without zeroes in `bytes` the system is not asked.
pub fn segments(file: BorrowedFd<'_>, extent_start: u64, bytes: &[u8]) -> io::Result<Vec<Segment>> {
    let whole = Extent::at(extent_start, bytes.len() as u64);
    if whole.is_empty() {
        return Ok(Vec::new());
    }
    let zeroes = zero_runs(whole, bytes);
    let holes = if zeroes.is_empty() { Vec::new() } else { holes_within(file, whole)? };
    let mut segments = Vec::new();
    let mut position = whole.start;
    for hole in intersections(&zeroes, &holes) {
        if hole.start > position {
            let extent = Extent { start: position, end: hole.start };
            segments.push(Segment { extent, content: SegmentContent::Data });
        }
        segments.push(Segment { extent: hole, content: SegmentContent::Hole });
        position = hole.end;
    }
    if position < whole.end {
        let extent = Extent { start: position, end: whole.end };
        segments.push(Segment { extent, content: SegmentContent::Data });
    }
    Ok(segments)
}

/// Runs of whole scan blocks (aligned in the file; cut at the ends of the extent) that are zero, merged.
fn zero_runs(whole: Extent, bytes: &[u8]) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut start = whole.start;
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = (SCAN_BYTES - start % SCAN_BYTES).min(rest.len() as u64);
        let (block, after) = rest.split_at(length as usize);
        if is_zero(block) {
            match runs.last_mut() {
                Some(last) if last.end == start => last.end += length,
                _ => runs.push(Extent::at(start, length)),
            }
        }
        start += length;
        rest = after;
    }
    runs
}

/// What two ascending lists of ranges have in common; ranges that touch are merged.
fn intersections(left: &[Extent], right: &[Extent]) -> Vec<Extent> {
    let mut common: Vec<Extent> = Vec::new();
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let both = Extent { start: a.start.max(b.start), end: a.end.min(b.end) };
        if !both.is_empty() {
            match common.last_mut() {
                Some(last) if last.end == both.start => last.end = both.end,
                _ => common.push(both),
            }
        }
        if a.end <= b.end {
            left.next()
        } else {
            right.next()
        };
    }
    common
}

/// A file's attributes as they are now. The file is not opened for I/O, whatever its kind.
///
/// # Errors
/// ESTALE where the file is gone; else what the system returns.
pub fn attributes(volume: &Volume, inode: u64) -> io::Result<Attributes> {
    attributes_of(open_path(&known(volume, inode)?, volume.root())?.as_fd())
}

/// The same of a file that is open, O_PATH included. Its access list, if it has one, and its mode are of one moment: the group bits of
/// a mode are the mask of a list, and the list of before with the mode of after would allow others what they never were.
///
/// # Errors
/// What the system returns.
pub fn attributes_of(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    for _ in 0..READS {
        let attributes = attributes_once(file)?;
        let list = attributes.xattrs.iter().find(|(name, _)| name == xattr::ACCESS_LIST);
        if list
            .and_then(|(_, list)| xattr::mode_of_list(list))
            .is_none_or(|mode| mode == attributes.mode & 0o777)
        {
            return Ok(attributes);
        }
    }
    // A file system that keeps them apart.
    attributes_once(file)
}

fn attributes_once(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let xattrs = xattr::read_all(file)?;
    let status = Status::of(file)?;
    let flags = match status.kind() {
        Some(kind) => Flags::of(file, kind)?,
        None => None,
    };
    Ok(Attributes {
        mode: status.mode,
        uid: status.uid,
        gid: status.gid,
        size: status.size,
        atime: status.atime,
        mtime: status.mtime,
        xattrs,
        flags: Some(flags.as_ref().map_or(InodeFlags::NONE, Flags::mirrored)),
    })
}

/// List a directory: one or more `Operation::List` parts of about half a MiB at most, the first marked `first`, the last
/// `last`. The handles of all entries are learnt. Left out: `.`, `..`, replicator's own name in the root, what the volume's
/// patterns exclude, and whatever is on another file system or mounted there (with a warning: it is not mirrored).
///
/// The caller holds the volume's namespace lock ([`Volume::lock_namespace`]) and puts the parts into the log before it
/// lets go, else an operation that happens meanwhile is sent on the wrong side of the list.
///
/// All parts are emitted or, on an error, none: the secondary removes names that are in no part of a whole list.
///
/// Returns the entries of which not all was told: those whose number belonged to another file when it was last seen, and those that
/// were taken to lie outside of the tree until now.
///
/// # Errors
/// ESTALE where the directory is gone, or is excluded; ENOTDIR where it is none; else what the system returns.
pub fn list_directory(
    volume: &Volume,
    inode: u64,
    emit: &mut dyn FnMut(Operation),
) -> io::Result<Vec<FileId>> {
    let directory = volume.open_file(inode, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME)?;
    let path = match volume.patterns() {
        Some(_) => volume.path_below(directory.as_fd())?,
        None => None,
    };
    if path.as_ref().is_some_and(|path| is_excluded(volume, path, FileKind::Directory)) {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    let mut doubtful = Vec::new();
    let mut parts: Vec<Vec<ListedEntry>> = Vec::new();
    let mut current = Vec::new();
    let mut size = 0;
    for name in names(directory.as_fd())? {
        if inode == volume.root_inode && name.to_bytes() == RESERVED_NAME {
            continue;
        }
        let Some((node, is_other)) = node_at(volume, directory.as_fd(), &name)? else { continue };
        if path.as_ref().is_some_and(|path| is_excluded(volume, &joined(path, name.to_bytes()), node.kind)) {
            continue;
        }
        if volume.readmit(node.file.inode) || is_other {
            doubtful.push(node.file);
        }
        let entry = ListedEntry { name: name.into_bytes(), node };
        let bytes = ENTRY_FIXED_BYTES + entry.name.len() + entry.node.target.len();
        if size + bytes > LIST_PART_BYTES && !current.is_empty() {
            parts.push(std::mem::take(&mut current));
            size = 0;
        }
        size += bytes;
        current.push(entry);
    }
    parts.push(current);
    let count = parts.len();
    for (number, entries) in parts.into_iter().enumerate() {
        emit(Operation::List {
            directory: volume.file(inode),
            first: number == 0,
            last: number + 1 == count,
            entries,
        });
    }
    Ok(doubtful)
}

pub(super) fn is_excluded(volume: &Volume, path: &[u8], kind: FileKind) -> bool {
    let excludes =
        |patterns: &Patterns| !path.is_empty() && patterns.excludes(path, kind == FileKind::Directory);
    volume.patterns().is_some_and(excludes)
}

/// Describe what a name in a directory stands for, and learn its handle; `None` if it is gone or not part of the tree. The
/// second value tells whether the number belonged to another file ([`Acquaintance::Other`]).
fn node_at(volume: &Volume, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<(NewNode, bool)>> {
    let Some(status) = Status::at(directory, name)? else { return Ok(None) };
    if status.device != volume.device || status.mount_root {
        tracing::warn!(volume = %volume.path.display(), ?name, "a mount point inside is not mirrored");
        return Ok(None);
    }
    let Some(kind) = status.kind() else {
        tracing::warn!(volume = %volume.path.display(), ?name, mode = status.mode, "unknown file type is not mirrored");
        return Ok(None);
    };
    let learnt = FileHandle::of(directory, name).and_then(|handle| {
        let target = if kind == FileKind::Symlink { target_at(directory, name)? } else { Vec::new() };
        Ok((handle, target))
    });
    let (handle, target) = match learnt {
        Ok(learnt) => learnt,
        // Gone since, by somebody who does not come through the gate.
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if kind == FileKind::Regular {
        volume.note_listed(status.size);
    }
    let is_other = volume.learn(status.inode, handle) == Acquaintance::Other;
    let mut node = node(volume.file(status.inode), kind, &status, target);
    if kind != FileKind::Symlink {
        node.mode = exposure::of_new_copy(node.mode, Place::Named(directory, name));
    }
    Ok(Some((node, is_other)))
}

/// Describe a file as an operation that makes it has to.
fn node(file: FileId, kind: FileKind, status: &Status, target: Vec<u8>) -> NewNode {
    let device = matches!(kind, FileKind::CharacterDevice | FileKind::BlockDevice);
    NewNode {
        file,
        kind,
        mode: status.permissions(),
        uid: status.uid,
        gid: status.gid,
        rdev: if device { status.rdev } else { 0 },
        target,
    }
}

/// A symlink's target.
pub(super) fn target_at(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    Ok(readlinkat(directory.as_fd(), name)?.into_vec())
}

/// Describe the file that `name` in `directory` stands for, as `Operation::Create` and `Operation::Link` carry it, and
/// learn its handle. `None` where the name is gone or stands for something that is not mirrored (a mount point).
///
/// # Errors
/// EINVAL for a name with a NUL in it; else what the system returns.
pub fn describe(volume: &Volume, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<NewNode>> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(node_at(volume, directory, &name)?.map(|(node, _)| node))
}
