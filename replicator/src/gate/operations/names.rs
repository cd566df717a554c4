//! From names to files: lookup, forget, readlink.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, fstat};
use replicator_core::ids::FileKind;

use super::super::abi::ROOT_NODE;
use super::super::request::Forgets;
use super::super::server::{Answer, Context, Outcome, REPLY, Refusal, Server, Undo};
use crate::volume::RESERVED_NAME;

/// Whether a name belongs to replicator itself.
pub fn is_reserved(parent: u64, name: &CStr) -> bool {
    parent == ROOT_NODE && name.to_bytes() == RESERVED_NAME
}

/// What a name stands for: an O_PATH descriptor, so that attributes and handle are surely of the same file. A mount is not
/// entered, also not one of the same file system: its files have places of their own, or none in the tree.
///
/// # Errors
/// ENOENT, EXDEV, and what openat2(2) returns.
pub fn find(server: &Server, directory: &OwnedFd, name: &CStr) -> Result<(OwnedFd, FileStat), Refusal> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV);
    let fd = match openat2(directory, name, how) {
        Ok(fd) => fd,
        Err(nix::Error::EXDEV) => return Err(server.foreign()),
        Err(errno) => return Err(errno.into()),
    };
    let stat = fstat(&fd)?;
    server.check_device(&stat)?;
    Ok((fd, stat))
}

pub fn lookup(context: &mut Context<'_>, name: &CStr) -> Answer {
    let server = context.server;
    let (parent, directory) = context.directory()?;
    if is_reserved(context.header.nodeid, name) {
        return Err(Refusal::errno(libc::ENOENT));
    }
    let (fd, stat) = match find(server, &directory, name) {
        Ok(found) => found,
        Err(refusal) if refusal == Refusal::errno(libc::ENOENT) => {
            context.reply.put(&Server::no_entry());
            return REPLY;
        }
        Err(refusal) => return Err(refusal),
    };
    let inode = server.admit(&parent, &fd, &stat)?;
    server.strict.note_name(server, &inode, context.header.nodeid, name.to_bytes());
    context.reply.put(&server.entry(&inode, &stat));
    Ok(Outcome::Reply(Undo::Lookup { node: inode.node }))
}

pub fn forget(context: &mut Context<'_>, count: u64) -> Answer {
    context.server.inodes.forget(context.header.nodeid, count);
    Ok(Outcome::Silent)
}

pub fn batch_forget(context: &mut Context<'_>, items: Forgets<'_>) -> Answer {
    for item in items {
        context.server.inodes.forget(item.nodeid, item.nlookup);
    }
    Ok(Outcome::Silent)
}

pub fn readlink(context: &mut Context<'_>) -> Answer {
    let inode = context.inode()?;
    if inode.kind != FileKind::Symlink {
        return Err(Refusal::errno(libc::EINVAL));
    }
    let fd = inode.any_descriptor(&context.server.volume)?;
    let target = nix::fcntl::readlinkat(&*fd, c"")?.into_vec();
    context.reply.put_bytes(&target);
    REPLY
}
