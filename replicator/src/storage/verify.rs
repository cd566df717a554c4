//! What a verification reads of a file: the payload of a `Verify` frame, made on the primary; the secondary makes the same of its
//! copy ([`super::replica`]) and compares.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use replicator_core::extent::Extent;
use replicator_core::ids::FileKind;
use replicator_core::verify::{Looked, VERIFY_BLOCK_BYTES};
use replicator_core::wire::seen::{Seen, SeenNames, SeenState, encode_names};

use super::digest::{self, BLOCK_BYTES};
use super::reader::{attributes_of, is_excluded, open_for_read, target_at};
use super::status::{Status, entries, open_path};
use crate::mounts::MountTable;
use crate::patterns::joined;
use crate::volume::{RESERVED_NAME, Volume};

/// Bytes of a file under one digest where it is to be told which differ.
const FINE_BYTES: u32 = VERIFY_BLOCK_BYTES as u32;
/// Names that take more bytes than this travel as a digest: then it is told that they differ, and not which.
const NAMES_BYTES_MAX: usize = 3 << 20;

/// Kind and attributes of a file, encoded. `fine`: as they are, else a digest.
///
/// # Errors
/// ESTALE where the file is gone; else what the system returns.
pub fn read_state(volume: &Volume, inode: u64, fine: bool) -> io::Result<(Vec<u8>, Looked)> {
    let gone = || io::Error::from_raw_os_error(libc::ESTALE);
    let file = open_path(&volume.handle(inode).ok_or_else(gone)?, volume.root())?;
    let (state, links) = state_of(file.as_fd())?;
    if links == 0 {
        return Err(gone());
    }
    let end = if state.kind == FileKind::Regular { state.attributes.size } else { 0 };
    Ok((payload(&state.encode(), fine), Looked { end, bytes: 0 }))
}

/// The names in a directory, encoded. The caller holds the volume's namespace lock and posts what comes back before it lets go.
///
/// # Errors
/// ESTALE where the directory is gone; ENOTDIR where it is none; else what the system returns.
pub fn read_names(volume: &Volume, inode: u64, fine: bool) -> io::Result<(Vec<u8>, Looked)> {
    let directory = volume.open_file(inode, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME)?;
    let names = encode_names(&names_of(volume, directory.as_fd(), inode == volume.root_inode)?);
    let fine = fine && names.len() <= NAMES_BYTES_MAX;
    Ok((payload(&names, fine), Looked { end: 0, bytes: names.len() as u64 }))
}

/// Digests of a regular file's bytes, encoded; `fine`, of smaller blocks.
///
/// # Errors
/// As [`open_for_read`]; else what reading returns.
pub fn read_contents(
    volume: &Volume,
    inode: u64,
    extent: Extent,
    fine: bool,
) -> io::Result<(Vec<u8>, Looked)> {
    let file = open_for_read(volume, inode)?;
    let block = if fine { FINE_BYTES } else { BLOCK_BYTES };
    let (payload, digested) = digest::digests_by(file.as_fd(), extent, block)?;
    let bytes = digest::bytes_read(&payload, digested, block);
    Ok((payload, Looked { end: digested.end, bytes }))
}

fn payload(bytes: &[u8], whole: bool) -> Vec<u8> {
    if whole { Seen::Whole(bytes).encode() } else { Seen::Digest(digest_of(bytes)).encode() }
}

/// The digest of an encoded state, or names.
pub(super) fn digest_of(bytes: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    digest
}

/// The state of an open file (also `O_PATH`), and how many names it has.
pub(super) fn state_of(file: BorrowedFd<'_>) -> io::Result<(SeenState, u32)> {
    let attributes = attributes_of(file)?;
    let status = Status::of(file)?;
    let kind = status.kind().ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
    let target = if kind == FileKind::Symlink { target_at(file, c"")? } else { Vec::new() };
    let device = matches!(kind, FileKind::CharacterDevice | FileKind::BlockDevice);
    let rdev = if device { status.rdev } else { 0 };
    Ok((SeenState { kind, rdev, target, attributes }, status.links))
}

/// The names in an open directory that belong to the tree, with the numbers of this node's files, in order. Left out is what
/// [`super::reader::list_directory`] leaves out.
///
/// # Errors
/// What the system returns.
pub(super) fn names_of(volume: &Volume, directory: BorrowedFd<'_>, is_root: bool) -> io::Result<SeenNames> {
    let path = match volume.patterns() {
        Some(_) => volume.path_below(directory)?,
        None => None,
    };
    // The numbers in a directory are not those of what is mounted there, nor, on btrfs, those of subvolumes.
    let looks_at_each = path.is_some()
        || volume.filesystem == "btrfs"
        || MountTable::read()?.inside(&volume.path).next().is_some();
    let mut names: SeenNames = Vec::new();
    for (name, mut inode) in entries(directory)? {
        if is_root && name.to_bytes() == RESERVED_NAME {
            continue;
        }
        if looks_at_each {
            let Some(status) = Status::at(directory, &name)? else { continue };
            let Some(kind) = status.kind() else { continue };
            if status.device != volume.device || status.mount_root {
                continue;
            }
            if path.as_ref().is_some_and(|path| is_excluded(volume, &joined(path, name.to_bytes()), kind)) {
                continue;
            }
            inode = status.inode;
        }
        names.push((name.into_bytes(), inode));
    }
    names.sort_unstable();
    Ok(names)
}

/// The number of the file with that path below the root. No symlink is followed.
///
/// # Errors
/// What openat2(2) returns.
pub fn number_at(volume: &Volume, below: &Path) -> io::Result<u64> {
    Ok(Status::of(open_below(volume, below, OFlag::O_PATH)?.as_fd())?.inode)
}

fn open_below(volume: &Volume, below: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    Ok(openat2(volume.root(), below, how)?)
}

/// One path of each file, from the root on, as far as they can be found: as the kernel knows it, else by reading all directories.
#[must_use]
pub fn paths_of(volume: &Volume, mut inodes: BTreeSet<u64>) -> HashMap<u64, PathBuf> {
    let mut found = HashMap::new();
    inodes.retain(|&inode| {
        let known = volume.open_file(inode, libc::O_PATH | libc::O_NOFOLLOW).ok();
        let path = known.and_then(|file| volume.path_from_root(file.as_fd()));
        // The kernel may know a name that is no more, or none.
        let path = path.filter(|path| number_at(volume, path).is_ok_and(|number| number == inode));
        path.is_none_or(|path| {
            found.insert(inode, path);
            false
        })
    });
    let mut directories = vec![PathBuf::new()];
    while !inodes.is_empty()
        && let Some(directory) = directories.pop()
    {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME;
        // One that is gone, or cannot be read, hides what is in it: those files stay without a path.
        let Ok(opened) = open_below(volume, &directory, flags) else { continue };
        let Ok(mut stream) = Dir::from_fd(opened) else { continue };
        for entry in stream.iter().flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            if inodes.remove(&entry.ino()) {
                found.insert(entry.ino(), path.clone());
            }
            if matches!(entry.file_type(), Some(Type::Directory) | None) {
                directories.push(path);
            }
        }
    }
    found
}
