//! Changes of names. System call and report are one step under the volume's namespace lock, so that the log has the order that
//! happened.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::UnlinkatFlags;
use replicator_core::extent::Extent;
use replicator_core::ids::FileKind;
use replicator_core::wire::namespace::{NewNode, Operation};

use super::super::abi::{LinkIn, MkdirIn, MknodIn};
use super::super::inodes::Inode;
use super::super::server::{Answer, Context, Outcome, REPLY, Refusal, Server, Undo, decode_device};
use super::names::is_reserved;
use crate::exposure::{self, Place};
use crate::volume::FileHandle;

/// Permission bits with setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o7777;

/// Nobody may make, replace or link to what belongs to replicator.
///
/// # Errors
/// EPERM.
pub fn refuse_reserved(parent: u64, name: &CStr) -> Result<(), Refusal> {
    if is_reserved(parent, name) { Err(Refusal::errno(libc::EPERM)) } else { Ok(()) }
}

/// A file that has got a name, as the log describes it.
pub fn new_node(server: &Server, place: Place<'_>, stat: &FileStat, target: Vec<u8>) -> NewNode {
    let kind = FileKind::from_mode(stat.st_mode).unwrap_or(FileKind::Regular);
    let mode = stat.st_mode & PERMISSIONS;
    let is_device = matches!(kind, FileKind::CharacterDevice | FileKind::BlockDevice);
    NewNode {
        file: server.volume.file(stat.st_ino),
        kind,
        // A symlink has no list, and no mode that counts.
        mode: if kind == FileKind::Symlink { mode } else { exposure::of_new_copy(mode, place) },
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: if is_device { stat.st_rdev } else { 0 },
        target,
    }
}

/// What has a name just now, not following a symlink.
///
/// # Errors
/// ENOENT, EXDEV, and what fstatat(2) returns.
fn stat_name(server: &Server, directory: &OwnedFd, name: &CStr) -> Result<FileStat, Refusal> {
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    server.check_device(&stat)?;
    Ok(stat)
}

/// A name was made, and what has it cannot be told: somebody took it away behind the gate.
fn unreported(server: &Server, parent: &Inode, refusal: Refusal) -> Refusal {
    server.sink.names_changed(server.file(parent));
    refusal
}

/// Make a name by `make`, report it, announce it.
fn create_with(
    context: &mut Context<'_>,
    name: &CStr,
    umask: u32,
    target: &[u8],
    make: impl FnOnce(&OwnedFd) -> nix::Result<()>,
) -> Answer {
    let server = context.server;
    let (parent, directory) = context.directory()?;
    refuse_reserved(context.header.nodeid, name)?;
    let _intent = server.sink.intend(&[server.file(&parent)], false)?;
    context.identity.act_as(context.caller(), true)?;
    context.identity.set_umask(umask);
    let (handle, stat) = {
        let _namespace = server.volume.lock_namespace();
        make(&directory)?;
        let (handle, stat) =
            identify(server, &directory, name).map_err(|refusal| unreported(server, &parent, refusal))?;
        server.volume.learn_made(stat.st_ino, handle.clone());
        let _made = server.sink.intend(&[server.volume.file(stat.st_ino)], true)?;
        server.sink.namespace(Operation::Create {
            parent: server.file(&parent),
            name: name.to_bytes().to_vec(),
            node: new_node(server, Place::Named(directory.as_fd(), name), &stat, target.to_vec()),
        });
        (handle, stat)
    };
    let inode = server.admit_made(handle, &stat)?;
    server.strict.note_name(server, &inode, context.header.nodeid, name.to_bytes());
    context.reply.put(&server.entry(&inode, &stat));
    Ok(Outcome::Reply(Undo::Lookup { node: inode.node }))
}

/// Handle and attributes of a name, under the namespace lock.
fn identify(server: &Server, directory: &OwnedFd, name: &CStr) -> Result<(FileHandle, FileStat), Refusal> {
    let stat = stat_name(server, directory, name)?;
    Ok((FileHandle::of(directory.as_fd(), name)?, stat))
}

pub fn symlink(context: &mut Context<'_>, name: &CStr, target: &CStr) -> Answer {
    create_with(context, name, 0, target.to_bytes(), |directory| {
        nix::unistd::symlinkat(target, directory, name)
    })
}

pub fn mknod(context: &mut Context<'_>, input: &MknodIn, name: &CStr) -> Answer {
    let kind = nix::sys::stat::SFlag::from_bits_truncate(input.mode);
    let mode = Mode::from_bits_truncate(input.mode & PERMISSIONS);
    let device = decode_device(input.rdev);
    create_with(context, name, input.umask, &[], |directory| {
        nix::sys::stat::mknodat(directory, name, kind, mode, device)
    })
}

pub fn mkdir(context: &mut Context<'_>, input: &MkdirIn, name: &CStr) -> Answer {
    let mode = Mode::from_bits_truncate(input.mode & PERMISSIONS);
    create_with(context, name, input.umask, &[], |directory| nix::sys::stat::mkdirat(directory, name, mode))
}

pub fn unlink(context: &mut Context<'_>, name: &CStr, directory: bool) -> Answer {
    let server = context.server;
    let (parent, parent_fd) = context.directory()?;
    if is_reserved(context.header.nodeid, name) {
        return Err(Refusal::errno(libc::ENOENT));
    }
    let flags = if directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    let _intent = server.sink.intend(&[server.file(&parent)], false)?;
    let _namespace = server.volume.lock_namespace();
    let stat = stat_name(server, &parent_fd, name)?;
    let last = is_last_name(&stat);
    let kept = if last { keep_reachable(server, &parent_fd, name, &stat) } else { None };
    nix::unistd::unlinkat(&*parent_fd, name, flags)?;
    if let Some((inode, descriptor)) = kept {
        inode.keep(descriptor);
    }
    server.sink.namespace(Operation::Unlink {
        parent: server.file(&parent),
        name: name.to_bytes().to_vec(),
        file: server.volume.file(stat.st_ino),
        directory,
        last,
    });
    if last {
        server.forget_number(stat.st_ino);
    }
    REPLY
}

/// Whether a file that loses a name has none left then.
fn is_last_name(stat: &FileStat) -> bool {
    FileKind::from_mode(stat.st_mode) == Some(FileKind::Directory) || stat.st_nlink <= 1
}

/// What the kernel opens without asking may be in use when its last name goes: a descriptor for the time after. Regular files
/// have one of their own while they are open, and their space is to be free at once when they are not.
fn keep_reachable(
    server: &Server,
    directory: &OwnedFd,
    name: &CStr,
    stat: &FileStat,
) -> Option<(Arc<Inode>, OwnedFd)> {
    if FileKind::from_mode(stat.st_mode) == Some(FileKind::Regular) {
        return None;
    }
    let inode = server.inodes.get(server.inodes.node_of(stat.st_ino)).ok()?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Some((inode, nix::fcntl::openat(directory, name, flags, Mode::empty()).ok()?))
}

pub fn rename(
    context: &mut Context<'_>,
    new_parent: u64,
    flags: u32,
    old_name: &CStr,
    new_name: &CStr,
) -> Answer {
    let server = context.server;
    let (old_directory, old_fd) = context.directory()?;
    let (new_directory, new_fd) = server.directory(new_parent)?;
    if is_reserved(context.header.nodeid, old_name) {
        return Err(Refusal::errno(libc::ENOENT));
    }
    refuse_reserved(new_parent, new_name)?;
    let flags = RenameFlags::from_bits(flags).ok_or(Refusal::errno(libc::EINVAL))?;
    let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
    let whiteout = flags.contains(RenameFlags::RENAME_WHITEOUT);
    if whiteout {
        // The whiteout is a new file, and its maker's.
        context.identity.act_as(context.caller(), true)?;
    }
    let _intent = server.sink.intend(&[server.file(&old_directory), server.file(&new_directory)], false)?;
    let _namespace = server.volume.lock_namespace();
    let moved = stat_name(server, &old_fd, old_name)?;
    let other = match stat_name(server, &new_fd, new_name) {
        Ok(stat) => Some(stat),
        Err(refusal) if refusal == Refusal::errno(libc::ENOENT) => None,
        Err(refusal) => return Err(refusal),
    };
    let other_last = !exchange && other.as_ref().is_some_and(is_last_name);
    let kept = other
        .as_ref()
        .filter(|_| other_last)
        .and_then(|other| keep_reachable(server, &new_fd, new_name, other));
    if let Err(error) = nix::fcntl::renameat2(&*old_fd, old_name, &*new_fd, new_name, flags) {
        if whiteout {
            // ext4 puts the old name back where it finds late that it cannot rename, and renews the directory's times with that.
            server.sink.attributes(server.file(&old_directory));
            server.outdate(old_directory.node);
        }
        return Err(error.into());
    }
    if other.as_ref().is_some_and(|other| other.st_ino == moved.st_ino) && !whiteout {
        // Two names of one file: rename(2) does nothing, and exchanging them changes nothing.
        return REPLY;
    }
    if let Some((inode, descriptor)) = kept {
        inode.keep(descriptor);
    }
    server.sink.namespace(Operation::Rename {
        old_parent: server.file(&old_directory),
        old_name: old_name.to_bytes().to_vec(),
        new_parent: server.file(&new_directory),
        new_name: new_name.to_bytes().to_vec(),
        file: server.volume.file(moved.st_ino),
        other: other.as_ref().map(|other| server.volume.file(other.st_ino)),
        other_last,
        exchange,
    });
    note_new_name(server, moved.st_ino, new_parent, new_name);
    if let Some(other) = &other {
        if other_last {
            server.forget_number(other.st_ino);
        } else if exchange {
            note_new_name(server, other.st_ino, context.header.nodeid, old_name);
        }
    }
    let has_new_parent = old_directory.node != new_directory.node;
    outdate_renamed(server, &moved, has_new_parent);
    if let Some(other) = &other {
        outdate_renamed(server, other, has_new_parent && exchange);
    }
    if whiteout {
        report_whiteout(server, &old_directory, &old_fd, old_name)?;
    }
    REPLY
}

/// The kernel does not look a file up again that it has renamed.
fn note_new_name(server: &Server, number: u64, parent: u64, name: &CStr) {
    if let Ok(inode) = server.inodes.get(server.inodes.node_of(number)) {
        server.strict.note_name(server, &inode, parent, name.to_bytes());
    }
}

/// A file has another name, or one less. Of a directory with another parent, the listing that the kernel may have names the old
/// one as "..".
fn outdate_renamed(server: &Server, stat: &FileStat, has_new_parent: bool) {
    let node = server.inodes.node_of(stat.st_ino);
    if has_new_parent && FileKind::from_mode(stat.st_mode) == Some(FileKind::Directory) {
        server.listings.changed([node; 2]);
        server.device.invalidate_node(node, true);
    } else {
        server.outdate(node);
    }
}

/// A rename left a character device 0:0 under the old name.
fn report_whiteout(server: &Server, parent: &Inode, directory: &OwnedFd, name: &CStr) -> Result<(), Refusal> {
    let (handle, stat) =
        identify(server, directory, name).map_err(|refusal| unreported(server, parent, refusal))?;
    server.volume.learn_made(stat.st_ino, handle);
    let _made = server.sink.intend(&[server.volume.file(stat.st_ino)], true)?;
    server.sink.namespace(Operation::Create {
        parent: server.file(parent),
        name: name.to_bytes().to_vec(),
        node: new_node(server, Place::Named(directory.as_fd(), name), &stat, Vec::new()),
    });
    Ok(())
}

pub fn link(context: &mut Context<'_>, input: &LinkIn, name: &CStr) -> Answer {
    let server = context.server;
    let (parent, directory) = context.directory()?;
    refuse_reserved(context.header.nodeid, name)?;
    let inode = server.inodes.get(input.oldnodeid)?;
    let file = inode.any_descriptor(&server.volume)?;
    let target = if inode.kind == FileKind::Symlink {
        nix::fcntl::readlinkat(&*file, c"")?.into_vec()
    } else {
        Vec::new()
    };
    let _intent = server.sink.intend(&[server.file(&parent), server.file(&inode)], false)?;
    let namespace = server.volume.lock_namespace();
    nix::unistd::linkat(&*file, c"", &*directory, name, AtFlags::AT_EMPTY_PATH)?;
    let (handle, stat) =
        identify(server, &directory, name).map_err(|refusal| unreported(server, &parent, refusal))?;
    let was_forgotten = std::mem::take(&mut inode.opens().forgotten);
    server.volume.learn(stat.st_ino, handle.clone());
    server.sink.namespace(Operation::Link {
        parent: server.file(&parent),
        name: name.to_bytes().to_vec(),
        node: new_node(server, Place::Named(directory.as_fd(), name), &stat, target),
    });
    drop(namespace);
    if was_forgotten {
        // An O_TMPFILE whose last descriptor was closed while it got its name: what was known of its bytes is gone.
        server.sink.written(server.file(&inode), Extent::WHOLE);
        server.sink.attributes(server.file(&inode));
    }
    let inode = server.admit_made(handle, &stat)?;
    server.strict.note_name(server, &inode, context.header.nodeid, name.to_bytes());
    context.reply.put(&server.entry(&inode, &stat));
    Ok(Outcome::Reply(Undo::Lookup { node: inode.node }))
}
