//! What is inside files: attributes, holes, digests, and the descriptors for plain bytes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::uio::pwrite;
use nix::unistd::{ftruncate, syncfs};
use replicator_core::extent::{BLOCK_MAX, Extent};
use replicator_core::ids::{FileId, FileKind, VolumeId};
use replicator_core::wire::attributes::{Attributes, InodeFlags, Timestamp};

use super::nodes::{set_owner, set_permissions};
use super::protected::{Subject, lock, unprotected};
use super::{Copy, Local, Replica, ReplicaError, lost_or, open_directory};
use crate::storage::descriptors::Access;
use crate::storage::digest::{DIGEST_BYTES, Holes, Payload, digest_blocks};
use crate::storage::flags::{self, Flags};
use crate::storage::holes::punch;
use crate::storage::status::{Status, magic_path, open_path};
use crate::storage::xattr;
use crate::volume::Volume;

/// First invalid number of nanoseconds. utimensat(2) gives some of those a meaning of their own.
const NANOSECONDS: u32 = 1_000_000_000;

/// Whether a frame about a file's content had a file to be applied to.
///
/// To ignore a frame about a file that has no copy here loses nothing. The stream is in order, so the file has no name
/// at this point of it: either its last name is gone, and nobody will ask for its content; or its names are in directories
/// that are not listed yet, and then the list (or link) that brings its first name reports it as created, or adopts a
/// file which is compared; either way all of its content is asked for again. The same holds for a number that was given
/// to a file of another kind: its creation, which follows, marks all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The file is as the frame says.
    Done,
    /// There is no such file here; counted.
    Ignored,
}

/// What is to be synced to make a file durable.
#[derive(Clone, Debug)]
pub enum SyncTarget {
    /// This descriptor: fsync(2), or fdatasync(2).
    Descriptor(Arc<OwnedFd>),
    /// The volume ([`Replica::sync_volume`]): the file is of a kind that cannot be opened.
    Volume(VolumeId),
    /// Nothing: the file has no copy here. (That its name is gone becomes durable with the directory.)
    Nothing,
}

impl Replica {
    /// The descriptor for a file's bytes: read-write for a regular file, read-only for a directory. `None` ("ignored",
    /// see [`Applied`]; counted) where the file has no copy here, or is of another kind.
    ///
    /// Who writes through it keeps it until the barrier that covers the write is synced. The kernel reports a failed write-back
    /// to the descriptors that are open at the time; if none is, and the inode is dropped from memory, only
    /// [`Replica::sync_volume`] still reports it. So where too many files were written to keep them all open, sync the volume.
    ///
    /// # Errors
    /// [`ReplicaError::Lost`] where somebody else deleted the file; else what open_by_handle_at(2) returns.
    pub fn descriptor(&self, file: FileId) -> Result<Option<Arc<OwnedFd>>, ReplicaError> {
        let volume = self.volume(file)?;
        let Some(local) = self.local(file) else {
            self.pass_over(file);
            return Ok(self.unknown());
        };
        let (access, flags) = match local.kind {
            FileKind::Regular => (Access::ReadWrite, libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NOATIME),
            FileKind::Directory => (Access::Directory, 0),
            _ => return Ok(self.unknown()),
        };
        let open = || match access {
            Access::Directory => open_directory(&local, &volume),
            _ => open_protected(&local, &volume, flags),
        };
        let descriptor = self
            .descriptors
            .get_or_open(file, access, open)
            .map_err(|source| lost_or("open", file, source))?;
        // What is written to a file without a name would be acknowledged and lost.
        if Status::links_of(descriptor.as_fd()).map_err(ReplicaError::system("stat", file))? == 0 {
            return Err(ReplicaError::Lost { file });
        }
        Ok(Some(descriptor))
    }

    /// Write bytes to a file through its descriptor, all of them. To be called instead of a write of one's own where that one was
    /// refused (EPERM): the file may be immutable here.
    ///
    /// # Errors
    /// [`ReplicaError`]; a part may be written.
    pub fn write(
        &self,
        file: FileId,
        descriptor: &OwnedFd,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), ReplicaError> {
        unprotected(&[Subject::Open(descriptor.as_fd())], || write_whole(descriptor, bytes, offset))
            .map_err(ReplicaError::system("write to", file))
    }

    fn ignored(&self) -> Applied {
        self.counters.ignored.fetch_add(1, Ordering::Relaxed);
        Applied::Ignored
    }

    fn unknown<T>(&self) -> Option<T> {
        self.ignored();
        None
    }

    /// What to sync so that a file's bytes and attributes, or a directory's names, are durable.
    ///
    /// # Errors
    /// As [`Replica::descriptor`].
    pub fn sync_target(&self, file: FileId) -> Result<SyncTarget, ReplicaError> {
        match self.local(file) {
            None => Ok(SyncTarget::Nothing),
            Some(Local { kind: FileKind::Regular | FileKind::Directory, .. }) => {
                Ok(self.descriptor(file)?.map_or(SyncTarget::Nothing, SyncTarget::Descriptor))
            }
            Some(_) => Ok(SyncTarget::Volume(file.volume)),
        }
    }

    /// The same, where nothing has to be opened for it. `None`: something has to.
    pub fn open_target(&self, file: FileId) -> Option<Result<SyncTarget, ReplicaError>> {
        let access = self.local(file).and_then(|local| match local.kind {
            FileKind::Regular => Some(Access::ReadWrite),
            FileKind::Directory => Some(Access::Directory),
            _ => None,
        });
        if let Some(access) = access {
            self.descriptors.get(file, access)?;
        }
        Some(self.sync_target(file))
    }

    /// Make a whole volume durable (syncfs on its root).
    ///
    /// # Errors
    /// What syncfs(2) returns, also for a write that failed since the last call. Such a failure is final: what could not
    /// be written may be gone from the cache, so a later success says nothing about it.
    pub fn sync_volume(&self, volume: VolumeId) -> Result<(), ReplicaError> {
        let file = FileId { volume, inode: 0 };
        syncfs(self.volume(file)?.root()).map_err(ReplicaError::system("sync the volume of", file))
    }

    /// Give a file exactly these attributes. The order is: size, owner (which takes setuid and capabilities away),
    /// extended attributes (of which ACLs change the mode), mode, times, inode flags; those that protect it come off first. Nothing else about this file may be applied at the
    /// same time: a write that is under way could end behind the new size, or change the times after they were set.
    ///
    /// # Errors
    /// [`ReplicaError`]. An extended attribute or flag that this system does not support is counted and left out.
    pub fn apply_attributes(&self, file: FileId, wanted: &Attributes) -> Result<Applied, ReplicaError> {
        let kind = check_attributes(file, wanted)?;
        let Some(copy) = self.open_copy(file)? else { return Ok(self.ignored()) };
        if copy.local.kind != kind {
            return Ok(self.ignored());
        }
        let resized = kind == FileKind::Regular && copy.status.size != wanted.size;
        // Before flags are looked at: to open it may have to take some off.
        let resized = if resized { self.descriptor(file)? } else { None };
        let descriptor = Arc::clone(&copy.descriptor);
        let fail = |source| ReplicaError::System { operation: "set the flags of", file, source };
        let _alone = lock();
        let mut flags =
            Flags::of(descriptor.as_fd(), kind).map_err(ReplicaError::system("read the flags of", file))?;
        let present = flags.as_ref().map_or(InodeFlags::NONE, Flags::mirrored);
        if let Some(flags) = &mut flags
            && !present.and(InodeFlags::PROTECTING).is_empty()
        {
            flags.set(present.without(InodeFlags::PROTECTING)).map_err(fail)?;
        }
        let applied = self.apply_unprotected(file, &copy, resized.as_deref(), wanted);
        let flags_wanted = if applied.is_ok() { wanted.flags.unwrap_or(present) } else { present };
        let set = match &mut flags {
            Some(flags) => self.set_flags(file, flags, flags_wanted).map_err(fail),
            None => {
                self.refuse_flags(file, flags_wanted);
                Ok(())
            }
        };
        applied.and(set)?;
        Ok(Applied::Done)
    }

    /// All attributes but the flags, of a file that has none which forbid it; `resized` is its descriptor if it has another size.
    fn apply_unprotected(
        &self,
        file: FileId,
        copy: &Copy,
        resized: Option<&OwnedFd>,
        wanted: &Attributes,
    ) -> Result<(), ReplicaError> {
        if let Some(descriptor) = resized {
            let cut = Extent { start: wanted.size.min(copy.status.size), end: copy.status.size };
            self.keep_range(file, descriptor.as_fd(), cut)?;
            set_size(file, descriptor, wanted.size)?;
        }
        let at = copy.descriptor.as_fd();
        let given_away = (copy.status.uid, copy.status.gid) != (wanted.uid, wanted.gid);
        if given_away {
            set_owner(at, wanted.uid, wanted.gid)
                .map_err(ReplicaError::system("change the owner of", file))?;
        }
        let changed = self.set_xattrs(file, at, &wanted.xattrs)? || given_away || resized.is_some();
        if copy.local.kind != FileKind::Symlink {
            let status = if changed { Status::of(at) } else { Ok(copy.status) };
            let mode = status.map_err(ReplicaError::system("stat", file))?.permissions();
            if mode != wanted.mode & 0o7777 {
                set_permissions(at, wanted.mode).map_err(ReplicaError::system("change the mode of", file))?;
            }
        }
        set_times(at, wanted.atime, wanted.mtime).map_err(ReplicaError::system("set the times of", file))
    }

    /// Let a file have exactly these flags, as far as its file system takes them.
    fn set_flags(&self, file: FileId, flags: &mut Flags<'_>, wanted: InodeFlags) -> io::Result<()> {
        if flags.mirrored() == wanted {
            return Ok(());
        }
        match flags.set(wanted) {
            Err(error) if flags::is_refused(&error) => {}
            result => return result,
        }
        // One by one: each alone may be refused. An immutable file takes no others (ext4).
        let mut taken = flags.mirrored().and(wanted);
        flags.set(taken)?;
        let missing = wanted.without(taken);
        let last = missing.and(InodeFlags::IMMUTABLE);
        for flag in missing.without(last).each().chain(last.each()) {
            match flags.set(taken.or(flag)) {
                Ok(()) => taken = taken.or(flag),
                Err(error) if flags::is_refused(&error) => self.refuse_flags(file, flag),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A flag that is missing here does not end the mirror.
    fn refuse_flags(&self, file: FileId, refused: InodeFlags) {
        let count = refused.each().count() as u64;
        if count > 0 && self.counters.unsupported_flags.fetch_add(count, Ordering::Relaxed) == 0 {
            let flags = format_args!("{:#x}", refused.bits());
            tracing::warn!(%file, %flags, "this system does not take an inode flag; counting from now on");
        }
    }

    /// Make the extended attributes equal. Returns whether any was not.
    fn set_xattrs(
        &self,
        file: FileId,
        at: BorrowedFd<'_>,
        wanted: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<bool, ReplicaError> {
        let present =
            xattr::read_all(at).map_err(ReplicaError::system("read extended attributes of", file))?;
        if present == wanted {
            return Ok(false);
        }
        // First what is too much: some file systems have little room.
        for (name, _) in &present {
            if !wanted.iter().any(|(other, _)| other == name) {
                let result = checked_xattr(file, name).map(|name| xattr::remove(at, &name))?;
                self.tolerate(file, name, result)?;
            }
        }
        for (name, value) in wanted {
            if !present.iter().any(|(other, old)| other == name && old == value) {
                let result = checked_xattr(file, name).map(|name| xattr::set(at, &name, value))?;
                self.tolerate(file, name, result)?;
            }
        }
        Ok(true)
    }

    /// A namespace of attributes that is missing here (file system, security module) does not end the mirror.
    fn tolerate(&self, file: FileId, name: &[u8], result: io::Result<()>) -> Result<(), ReplicaError> {
        let Err(source) = result else { return Ok(()) };
        let unsupported = source.raw_os_error() == Some(libc::ENOTSUP);
        // Labels are the security module's own: it may refuse to set or remove them here.
        let refused_label = name.starts_with(b"security.")
            && name != b"security.capability"
            && matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EINVAL));
        if !unsupported && !refused_label {
            return Err(ReplicaError::System { operation: "set an extended attribute of", file, source });
        }
        if self.counters.unsupported_xattrs.fetch_add(1, Ordering::Relaxed) == 0 {
            let name = String::from_utf8_lossy(name);
            tracing::warn!(%file, %name, %source, "this system does not take an extended attribute; counting from now on");
        }
        Ok(())
    }

    /// Make an extent of a file a hole. A file that ends before it is extended, as bytes would extend it: the primary has the
    /// extent within its size, and a caller that only asked for its data does not wait for the attributes.
    ///
    /// Where the file ends with it, the rest of its last block is punched, too, because a file system gives back whole blocks only.
    /// Nothing may be applied behind the hole, up to the next multiple of [`BLOCK_MAX`], at the same time.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn apply_hole(&self, file: FileId, extent: Extent) -> Result<Applied, ReplicaError> {
        if self.local(file).is_some_and(|local| local.kind != FileKind::Regular) {
            return Ok(self.ignored());
        }
        let Some(descriptor) = self.descriptor(file)? else { return Ok(Applied::Ignored) };
        let (size, block) = Status::size_and_block_of(descriptor.as_fd(), BLOCK_MAX)
            .map_err(ReplicaError::system("stat", file))?;
        let end = if size <= extent.end { extent.end.checked_next_multiple_of(block) } else { None };
        let whole = Extent { end: end.unwrap_or(extent.end), ..extent };
        self.keep_range(file, descriptor.as_fd(), whole)?;
        let subject = [Subject::Open(descriptor.as_fd())];
        unprotected(&subject, || punch(descriptor.as_fd(), whole))
            .map_err(ReplicaError::system("punch a hole into", file))?;
        if let Ok(end) = i64::try_from(extent.end)
            && size < extent.end
        {
            unprotected(&subject, || ftruncate(&descriptor, end))
                .map_err(ReplicaError::system("extend", file))?;
        }
        Ok(Applied::Done)
    }

    /// Which parts of an extent differ from what the primary digested, merged where they touch. What the file here does
    /// not have differs; what it has behind the extent is cut off by its attributes. `None`: ignored, as in [`Applied`].
    ///
    /// # Errors
    /// [`ReplicaError::Malformed`] for a payload that does not belong to the extent; else what reading returns.
    pub fn compare(
        &self,
        file: FileId,
        extent: Extent,
        payload: &[u8],
    ) -> Result<Option<Vec<Extent>>, ReplicaError> {
        let payload = Payload::parse(payload, extent)
            .ok_or(ReplicaError::Malformed { file, what: "digests that do not fit their extent" })?;
        if self.local(file).is_some_and(|local| local.kind != FileKind::Regular) {
            return Ok(self.unknown());
        }
        let Some(descriptor) = self.descriptor(file)? else { return Ok(None) };
        let (local, covered) = digest_blocks(descriptor.as_fd(), extent, payload.block, Holes::Count)
            .map_err(ReplicaError::system("read", file))?;
        let mut differing: Vec<Extent> = Vec::new();
        let block = u64::from(payload.block);
        for (number, theirs) in payload.digests.iter().enumerate() {
            let start = extent.start + number as u64 * block;
            let range = Extent { start, end: extent.end.min(start + block) };
            // A hole that is cut short by the end of the file has the same digest as one that is not.
            let whole = covered.end >= range.end;
            if whole && local.get(number).is_some_and(|ours: &[u8; DIGEST_BYTES]| ours == theirs) {
                continue;
            }
            match differing.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => differing.push(range),
            }
        }
        Ok(Some(differing))
    }
}

fn check_attributes(file: FileId, wanted: &Attributes) -> Result<FileKind, ReplicaError> {
    let refuse = |what| ReplicaError::Malformed { file, what };
    if wanted.uid == u32::MAX || wanted.gid == u32::MAX {
        return Err(refuse("no such owner"));
    }
    if wanted.atime.nanoseconds >= NANOSECONDS || wanted.mtime.nanoseconds >= NANOSECONDS {
        return Err(refuse("no such time"));
    }
    let kind = FileKind::from_mode(wanted.mode).ok_or_else(|| refuse("no such file type"))?;
    let has_flags = matches!(kind, FileKind::Regular | FileKind::Directory);
    if !has_flags && wanted.flags.is_some_and(|flags| !flags.is_empty()) {
        return Err(refuse("flags of what has none"));
    }
    Ok(kind)
}

fn set_size(file: FileId, descriptor: &OwnedFd, size: u64) -> Result<(), ReplicaError> {
    let size = i64::try_from(size)
        .map_err(|_| ReplicaError::Malformed { file, what: "a size beyond any file's" })?;
    loop {
        match ftruncate(descriptor, size) {
            Err(Errno::EINTR) => {}
            result => return result.map_err(ReplicaError::system("set the size of", file)),
        }
    }
}

/// Open a file although its flags may forbid it.
fn open_protected(local: &Local, volume: &Volume, flags: i32) -> io::Result<OwnedFd> {
    match local.handle.open(volume.root(), flags) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        result => return result,
    }
    let file = open_path(&local.handle, volume.root())?;
    unprotected(&[Subject::Open(file.as_fd())], || local.handle.open(volume.root(), flags))
}

/// pwrite(2) until all is written.
fn write_whole(file: &OwnedFd, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) {
        let at = i64::try_from(offset.saturating_add(done as u64)).map_err(|_| Errno::EFBIG)?;
        match pwrite(file, left, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn checked_xattr(file: FileId, name: &[u8]) -> Result<CString, ReplicaError> {
    if !xattr::is_mirrored(name) {
        return Err(ReplicaError::Malformed { file, what: "an extended attribute that is not mirrored" });
    }
    CString::new(name)
        .map_err(|_| ReplicaError::Malformed { file, what: "an extended attribute with a NUL in its name" })
}

/// Set both times of an open file, O_PATH included.
pub(super) fn set_times(at: BorrowedFd<'_>, atime: Timestamp, mtime: Timestamp) -> io::Result<()> {
    let spec =
        |time: Timestamp| libc::timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    let times = [spec(atime), spec(mtime)];
    let path = magic_path(at);
    // SAFETY: `path` is NUL-terminated, `times` are two timespecs; both outlive the call.
    let result = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
