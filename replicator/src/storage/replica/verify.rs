//! The answer to a verification: is the copy as the primary's? Changes nothing, and fails nothing: what cannot be read is an
//! answer, too.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId, FileKind};
use replicator_core::verify::Verdict;
use replicator_core::wire::attributes::Attributes;
use replicator_core::wire::seen::{Aspect, Findings, Seen, SeenNames, SeenState, decode_names, encode_names};

use super::{Replica, ReplicaError};
use crate::storage::descriptors::Access;
use crate::storage::digest::{Holes, Payload, digest_blocks};
use crate::storage::status::Status;
use crate::storage::verify::{digest_of, names_of, state_of};

impl Replica {
    /// Compare the state of a file with what the primary has.
    #[must_use]
    pub fn verify_state(&self, file: FileId, payload: &[u8]) -> Verdict {
        let copy = match self.open_copy(file) {
            Ok(Some(copy)) => copy,
            Ok(None) => return Verdict::Absent,
            Err(error) => return unreadable(&error),
        };
        let ours = match state_of(copy.descriptor.as_fd()) {
            Ok((ours, _)) => ours,
            Err(error) => return Verdict::Unreadable(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        match Seen::decode(payload) {
            Ok(Seen::Digest(theirs)) => is_same(theirs == digest_of(&ours.encode())),
            Ok(Seen::Whole(theirs)) => match SeenState::decode(theirs) {
                Ok(theirs) => told(&compare_states(&theirs, &ours)),
                Err(_) => Verdict::Unreadable(Errno(libc::EBADMSG)),
            },
            Err(_) => Verdict::Unreadable(Errno(libc::EBADMSG)),
        }
    }

    /// Compare the names in a directory with those the primary has, and the files that they stand for.
    #[must_use]
    pub fn verify_names(&self, directory: FileId, payload: &[u8]) -> Verdict {
        let opened = match self.directory(directory) {
            Ok(opened) => opened,
            Err(error) => return unreadable(&error),
        };
        let mut ours = match names_of(&opened.volume, opened.as_fd(), opened.is_root) {
            Ok(ours) => ours,
            Err(error) => return Verdict::Unreadable(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        {
            // What is nobody's copy is no file of the primary's.
            let map = self.map();
            for (_, inode) in &mut ours {
                *inode = map.owner(directory.volume, *inode).map_or(0, |file| file.inode);
            }
        }
        match Seen::decode(payload) {
            Ok(Seen::Digest(theirs)) if theirs == digest_of(&encode_names(&ours)) => Verdict::Same,
            Ok(Seen::Digest(_)) => {
                let mut findings = Findings::default();
                findings.push(Aspect::Names, b"", b"", b"");
                Verdict::Details(findings.encode())
            }
            Ok(Seen::Whole(theirs)) => match decode_names(theirs) {
                Ok(theirs) => told(&compare_names(&theirs, &ours)),
                Err(_) => Verdict::Unreadable(Errno(libc::EBADMSG)),
            },
            Err(_) => Verdict::Unreadable(Errno(libc::EBADMSG)),
        }
    }

    /// Compare an extent of a file with the primary's digests, as far as the copy reaches: where it ends is a matter of its state.
    #[must_use]
    pub fn verify_contents(&self, file: FileId, extent: Extent, payload: &[u8]) -> Verdict {
        let Some(payload) = Payload::parse(payload, extent) else {
            return Verdict::Unreadable(Errno(libc::EBADMSG));
        };
        let descriptor = match self.open_to_read(file) {
            Ok(Some(descriptor)) => descriptor,
            Ok(None) => return Verdict::Absent,
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Verdict::Absent,
            Err(error) => return Verdict::Unreadable(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        let digested = digest_blocks(descriptor.as_fd(), extent, payload.block, Holes::Ignore);
        let (ours, covered) = match digested {
            Ok(digested) => digested,
            Err(error) => return Verdict::Unreadable(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        let mut differing: Vec<Extent> = Vec::new();
        let block = u64::from(payload.block);
        for (number, (theirs, ours)) in payload.digests.iter().zip(&ours).enumerate() {
            let start = extent.start + number as u64 * block;
            let range = Extent { start, end: extent.end.min(start + block) };
            if range.end > covered.end || theirs == ours {
                continue;
            }
            match differing.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => differing.push(range),
            }
        }
        if differing.is_empty() { Verdict::Same } else { Verdict::Extents(differing) }
    }

    /// A regular file for reading; not kept open, so that those which are written to stay so. `None`: there is none (of what is no
    /// regular file the state tells).
    fn open_to_read(&self, file: FileId) -> io::Result<Option<Arc<OwnedFd>>> {
        let Some(local) = self.local(file).filter(|local| local.kind == FileKind::Regular) else {
            return Ok(None);
        };
        let opened = match self.descriptors.get(file, Access::ReadWrite) {
            Some(open) => open,
            None => {
                let Ok(volume) = self.volume(file) else { return Ok(None) };
                let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NOATIME;
                Arc::new(local.handle.open(volume.root(), flags)?)
            }
        };
        // Somebody may have deleted what is open still.
        Ok((Status::links_of(opened.as_fd())? > 0).then_some(opened))
    }
}

fn unreadable(error: &ReplicaError) -> Verdict {
    match error {
        ReplicaError::Lost { .. } | ReplicaError::Unknown { .. } | ReplicaError::Malformed { .. } => {
            Verdict::Absent
        }
        _ => Verdict::Unreadable(error.errno()),
    }
}

/// Without details.
fn is_same(same: bool) -> Verdict {
    if same { Verdict::Same } else { Verdict::Details(Vec::new()) }
}

fn told(findings: &Findings) -> Verdict {
    if findings.list.is_empty() { Verdict::Same } else { Verdict::Details(findings.encode()) }
}

fn compare_states(theirs: &SeenState, ours: &SeenState) -> Findings {
    let mut findings = Findings::default();
    let mut compare = |aspect, name: &[u8], here: String, there: String| {
        if here != there {
            findings.push(aspect, name, here.as_bytes(), there.as_bytes());
        }
    };
    compare(Aspect::Kind, b"", format!("{:?}", theirs.kind), format!("{:?}", ours.kind));
    let (a, b) = (&theirs.attributes, &ours.attributes);
    let mode = |a: &Attributes| format!("{:04o}", a.mode & 0o7777);
    compare(Aspect::Mode, b"", mode(a), mode(b));
    let owner = |a: &Attributes| format!("{}:{}", a.uid, a.gid);
    compare(Aspect::Owner, b"", owner(a), owner(b));
    if theirs.kind == FileKind::Regular {
        compare(Aspect::Size, b"", a.size.to_string(), b.size.to_string());
    }
    let time = |a: &Attributes| format!("{}.{:09}", a.mtime.seconds, a.mtime.nanoseconds);
    compare(Aspect::Times, b"", time(a), time(b));
    let flags = |a: &Attributes| format!("{:#x}", a.flags.unwrap_or_default().bits());
    compare(Aspect::Flags, b"", flags(a), flags(b));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    compare(Aspect::Target, b"", text(&theirs.target), text(&ours.target));
    compare(Aspect::Device, b"", format!("{:#x}", theirs.rdev), format!("{:#x}", ours.rdev));
    let value = |a: &Attributes, name: &[u8]| {
        let value = a.xattrs.iter().find(|(other, _)| other == name).map(|(_, value)| value);
        value.map_or_else(|| "none".to_owned(), |value| format!("{} bytes {}", value.len(), short(value)))
    };
    let only_theirs = a.xattrs.iter().map(|(name, _)| name);
    let only_ours =
        b.xattrs.iter().map(|(name, _)| name).filter(|name| !a.xattrs.iter().any(|(n, _)| n == *name));
    for name in only_theirs.chain(only_ours) {
        compare(Aspect::ExtendedAttribute, name, value(a, name), value(b, name));
    }
    findings
}

/// A few digits that tell one value of an extended attribute from another.
fn short(value: &[u8]) -> String {
    blake3::hash(value).to_hex()[..8].to_owned()
}

/// Both in order of the names.
fn compare_names(theirs: &SeenNames, ours: &SeenNames) -> Findings {
    let mut findings = Findings::default();
    let (mut theirs, mut ours) = (theirs.iter().peekable(), ours.iter().peekable());
    loop {
        match (theirs.peek(), ours.peek()) {
            (None, None) => return findings,
            (Some((name, file)), Some((other, inode))) if name == other => {
                if file != inode {
                    findings.push(Aspect::OtherFile, name, b"", b"");
                }
                theirs.next();
                ours.next();
            }
            (Some((name, _)), other) if other.is_none_or(|(other, _)| name < other) => {
                findings.push(Aspect::MissingName, name, b"", b"");
                theirs.next();
            }
            (_, Some((name, _))) => {
                findings.push(Aspect::ExtraName, name, b"", b"");
                ours.next();
            }
            (Some(_), None) => {
                theirs.next();
            }
        }
    }
}
