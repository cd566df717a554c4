//! What a verification reads of a file: the payload of a `Verify` frame, made on the primary; the secondary makes the same of its
//! copy ([`super::replica`]) and compares.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use replicator_core::extent::Extent;
use replicator_core::ids::FileKind;
use replicator_core::verify::Looked;
use replicator_core::wire::seen::{Seen, SeenNames, SeenState, encode_names};

use super::digest::{self, BLOCK_BYTES};
use super::reader::{attributes_of, is_excluded, open_for_read, target_at};
use super::status::{Status, entries, open_path};
use crate::mounts::MountTable;
use crate::patterns::joined;
use crate::volume::{RESERVED_NAME, Volume};

/// Bytes of a file under one digest where it is to be told which differ.
const FINE_BYTES: u32 = 4096;
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
