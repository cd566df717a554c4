//! Extended attributes, access control lists (which are extended attributes), inode flags.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::super::abi::{
    GetxattrIn, GetxattrOut, IoctlIn, IoctlOut, Plain, SETXATTR_ACL_KILL_SGID, SetxattrIn,
};
use super::super::inodes::{Inode, OpenMode};
use super::super::server::{Answer, Aside, Context, Outcome, REPLY, Refusal, Server};
use super::super::sink::Intent;
use super::attributes::path_of;
use super::directory::open_listing;

/// Largest value and longest list (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const VALUE_BYTES_MAX: usize = 65_536;

/// The attribute that the kernel asks for before the first write after it was told a file's attributes: a write takes it away.
const CAPABILITY: &CStr = c"security.capability";

/// Names only root is shown.
const TRUSTED: &[u8] = b"trusted.";

pub fn setxattr(context: &mut Context<'_>, input: &SetxattrIn, name: &CStr, value: &[u8]) -> Answer {
    let server = context.server;
    let inode = context.inode()?;
    let fd = inode.any_descriptor(&server.volume)?;
    let _intent = server.sink.intend(&[server.file(&inode)], false)?;
    if input.setxattr_flags & SETXATTR_ACL_KILL_SGID != 0 {
        // The caller is not in the file's group: neither is the thread then, and the file system clears the bit.
        context.identity.act_as(context.caller(), false)?;
    }
    if name == CAPABILITY {
        inode.capability_changes_now();
    }
    // SAFETY: both strings are NUL-terminated, `value` is readable for its length.
    let result = unsafe {
        libc::setxattr(
            path_of(&fd).as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            input.flags as libc::c_int,
        )
    };
    // Read before the call on, so that it is the call's.
    let error = io::Error::last_os_error();
    if name == CAPABILITY {
        // Once more: who looked between the two saw the state before the call.
        inode.capability_changes_now();
    }
    if result < 0 {
        return Err(error.into());
    }
    server.sink.attributes(server.file(&inode));
    server.outdate(inode.node);
    REPLY
}

pub fn removexattr(context: &mut Context<'_>, name: &CStr) -> Answer {
    let server = context.server;
    let inode = context.inode()?;
    let fd = inode.any_descriptor(&server.volume)?;
    let _intent = server.sink.intend(&[server.file(&inode)], false)?;
    // SAFETY: both strings are NUL-terminated.
    if unsafe { libc::removexattr(path_of(&fd).as_ptr(), name.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    server.sink.attributes(server.file(&inode));
    server.outdate(inode.node);
    REPLY
}

pub fn getxattr(context: &mut Context<'_>, input: &GetxattrIn, name: &CStr) -> Answer {
    let inode = context.inode()?;
    let watches = name == CAPABILITY;
    let changes = inode.capability_changes();
    if watches && inode.has_no_capability() {
        return Err(Refusal::errno(libc::ENODATA));
    }
    let fd = inode.any_descriptor(&context.server.volume)?;
    let wanted = (input.size as usize).min(VALUE_BYTES_MAX);
    let room = context.reply.room(wanted);
    let length = match value_by_descriptor(&fd, name, room) {
        // An O_PATH descriptor.
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => value_by_path(&fd, name, room),
        result => result,
    };
    let length = match length {
        Ok(length) => length,
        Err(error) => {
            if watches && error.raw_os_error() == Some(libc::ENODATA) {
                inode.note_no_capability(changes);
            }
            return Err(error.into());
        }
    };
    if input.size == 0 {
        context.reply.put(&GetxattrOut { size: length as u32, padding: 0 });
    } else {
        context.reply.commit(length);
    }
    REPLY
}

fn value_by_descriptor(fd: &OwnedFd, name: &CStr, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the name is NUL-terminated, `room` is writable for its length (0 asks for the size).
    let length =
        unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), room.as_mut_ptr().cast(), room.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

fn value_by_path(fd: &OwnedFd, name: &CStr, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: both strings are NUL-terminated, `room` is writable for its length (0 asks for the size).
    let length =
        unsafe { libc::getxattr(path_of(fd).as_ptr(), name.as_ptr(), room.as_mut_ptr().cast(), room.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

pub fn listxattr(context: &mut Context<'_>, input: &GetxattrIn) -> Answer {
    let fd = context.inode()?.any_descriptor(&context.server.volume)?;
    let mut names = vec![0_u8; VALUE_BYTES_MAX];
    // SAFETY: the path is NUL-terminated, `names` is writable for its length.
    let length = unsafe { libc::listxattr(path_of(&fd).as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    names.truncate(length);
    if context.header.uid != 0 {
        names = names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !name.starts_with(TRUSTED))
            .flatten()
            .copied()
            .collect();
    }
    if input.size == 0 {
        context.reply.put(&GetxattrOut { size: names.len() as u32, padding: 0 });
    } else if names.len() > input.size as usize {
        return Err(Refusal::errno(libc::ERANGE));
    } else {
        context.reply.put_bytes(&names);
    }
    REPLY
}

/// Inode flags (chattr(1), xfs_io's extended ones): `(number, bytes, changes)`.
const FLAG_CALLS: [(libc::c_ulong, usize, bool); 4] = [
    (libc::FS_IOC_GETFLAGS as libc::c_ulong, 4, false),
    (libc::FS_IOC_SETFLAGS as libc::c_ulong, 4, true),
    // FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR (linux/fs.h), with a `struct fsxattr`.
    (0x801c_581f, 28, false),
    (0x401c_5820, 28, true),
];

pub fn ioctl(context: &mut Context<'_>, input: &IoctlIn, data: &[u8]) -> Answer {
    let server = context.server;
    let (number, bytes, changes) = FLAG_CALLS
        .into_iter()
        .find(|(number, ..)| *number & 0xffff_ffff == libc::c_ulong::from(input.cmd))
        .ok_or(Refusal::errno(libc::ENOTTY))?;
    let (inode, fd) = match server.handles.file(input.fh) {
        Ok(open) => (open.inode.clone(), open.file.clone()),
        Err(_) => {
            // Directories have no handles.
            let (inode, directory) = context.directory()?;
            (inode, Arc::new(open_listing(&directory)?))
        }
    };
    // The kernel's calls are int-aligned and no longer than a `struct fsxattr`.
    let mut argument = [0_u64; 4];
    let mut value = [0_u8; 32];
    if changes {
        let given = data.get(..bytes).ok_or(Refusal::errno(libc::EINVAL))?;
        value[..bytes].copy_from_slice(given);
        for (word, chunk) in argument.iter_mut().zip(value.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
        }
    }
    let intent = changes.then(|| server.sink.intend(&[server.file(&inode)], false)).transpose()?;
    if changes && matches!(inode.opens().mode, OpenMode::Cached | OpenMode::Direct) {
        return Ok(change_flags_of_cached(inode, fd, number, argument, intent));
    }
    flag_call(&fd, number, &mut argument)?;
    context.reply.put(&IoctlOut::default());
    if changes {
        flags_changed(server, &inode);
    } else if input.out_size as usize >= bytes {
        let words = argument.map(u64::to_ne_bytes).concat();
        context.reply.put_bytes(words.get(..bytes).unwrap_or_default());
    }
    REPLY
}

fn flag_call(file: &OwnedFd, number: libc::c_ulong, argument: &mut [u64; 4]) -> io::Result<()> {
    // SAFETY: each of the calls above reads or writes at most 28 bytes of `argument`, which holds 32.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), number as _, argument.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn flags_changed(server: &Server, inode: &Inode) {
    server.sink.attributes(server.file(inode));
    server.outdate(inode.node);
}

/// Change the flags of a file of which the kernel may hold stores that were not written yet. They are written first, as the file
/// system below does it with its own (ext4): it would refuse them once the file is immutable. To write them is to serve requests, so
/// nobody who does that waits for it.
fn change_flags_of_cached(
    inode: Arc<Inode>,
    file: Arc<OwnedFd>,
    number: libc::c_ulong,
    mut argument: [u64; 4],
    intent: Option<Intent>,
) -> Outcome {
    // It acts as the thread that serves the call does, which is as root.
    Outcome::Aside(Aside::new(move |server| {
        server.device.invalidate_node(inode.node, true);
        flag_call(&file, number, &mut argument)?;
        flags_changed(server, &inode);
        drop(intent);
        Ok(IoctlOut::default().bytes().to_vec())
    }))
}
