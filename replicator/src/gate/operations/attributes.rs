//! Attributes: read, changed; the file system's own.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fstat};
use nix::unistd::{Gid, Uid};
use replicator_core::extent::Extent;

use super::super::abi::{
    GETATTR_FH, GetattrIn, SetattrIn, StatfsOut, Statx, StatxIn, StatxOut, StatxTime, fattr,
};
use super::super::inodes::Inode;
use super::super::server::{Answer, Context, REPLY, Refusal};
use super::open::record_intent;

/// A path that leads to what a descriptor refers to, also an O_PATH one, also a symlink itself (proc(5), /proc/pid/fd).
pub fn path_of(fd: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// A descriptor of the request's file: that of the handle if there is one.
fn descriptor(context: &Context<'_>, inode: &Inode, handle: Option<u64>) -> Result<Arc<OwnedFd>, Refusal> {
    let handles = &context.server.handles;
    if let Some(handle) = handle
        && let Ok(open) = handles.file(handle)
    {
        return Ok(Arc::clone(&open.file));
    }
    Ok(inode.any_descriptor(&context.server.volume)?)
}

pub fn getattr(context: &mut Context<'_>, input: &GetattrIn) -> Answer {
    let inode = context.inode()?;
    let handle = (input.getattr_flags & GETATTR_FH != 0).then_some(input.fh);
    let stat = fstat(&*descriptor(context, &inode, handle)?)?;
    let answer = context.server.attributes(&inode, &stat);
    context.reply.put(&answer);
    REPLY
}

/// As [`getattr`], with the time of birth.
pub fn statx(context: &mut Context<'_>, input: &StatxIn) -> Answer {
    let inode = context.inode()?;
    let handle = (input.getattr_flags & GETATTR_FH != 0).then_some(input.fh);
    let fd = descriptor(context, &inode, handle)?;
    // SAFETY: all-zero is a statx, which is integers throughout.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated, and `stat` outlives the call.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            &raw mut stat,
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    inode.note_mode(u32::from(stat.stx_mode));
    let attr_valid = context.server.attribute_time(&inode).as_secs();
    context.reply.put(&StatxOut { attr_valid, stat: extended(&stat), ..StatxOut::default() });
    REPLY
}

fn extended(stat: &libc::statx) -> Statx {
    let time = |time: &libc::statx_timestamp| StatxTime { sec: time.tv_sec, nsec: time.tv_nsec, reserved: 0 };
    Statx {
        mask: stat.stx_mask,
        blksize: stat.stx_blksize,
        attributes: stat.stx_attributes,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode: stat.stx_mode,
        ino: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        attributes_mask: stat.stx_attributes_mask,
        atime: time(&stat.stx_atime),
        btime: time(&stat.stx_btime),
        ctime: time(&stat.stx_ctime),
        mtime: time(&stat.stx_mtime),
        rdev_major: stat.stx_rdev_major,
        rdev_minor: stat.stx_rdev_minor,
        dev_major: stat.stx_dev_major,
        dev_minor: stat.stx_dev_minor,
        ..Statx::default()
    }
}

pub fn setattr(context: &mut Context<'_>, input: &SetattrIn) -> Answer {
    let server = context.server;
    let inode = context.inode()?;
    let handle = (input.valid & fattr::FH != 0).then_some(input.fh);
    let fd = descriptor(context, &inode, handle)?;
    let _intent = server.sink.intend(&[server.file(&inode)], false)?;
    if input.valid & fattr::SIZE != 0 {
        truncate(context, &inode, &fd, input)?;
    }
    let result = change(&fd, input);
    // Reported even if only a part was done.
    server.sink.attributes(server.file(&inode));
    result?;
    let stat = fstat(&*fd)?;
    let answer = server.attributes(&inode, &stat);
    context.reply.put(&answer);
    REPLY
}

fn truncate(
    context: &mut Context<'_>,
    inode: &Inode,
    fd: &OwnedFd,
    input: &SetattrIn,
) -> Result<(), Refusal> {
    let server = context.server;
    let size = i64::try_from(input.size).map_err(|_| Refusal::errno(libc::EFBIG))?;
    let writable = match (input.valid & fattr::FH != 0).then(|| server.handles.file(input.fh)) {
        Some(Ok(open)) => Arc::clone(&open.file),
        _ => Arc::new(inode.open(&server.volume, OFlag::O_WRONLY)?),
    };
    let _intent = record_intent(server, inode, false)?;
    let before = fstat(fd)?.st_size as u64;
    context.identity.act_as(context.caller(), input.valid & fattr::KILL_SUIDGID == 0)?;
    let result = nix::unistd::ftruncate(&*writable, size);
    context.identity.root()?;
    server.sink.written(server.file(inode), Extent { start: before.min(input.size), end: Extent::END });
    Ok(result?)
}

fn change(fd: &OwnedFd, input: &SetattrIn) -> Result<(), Refusal> {
    let has = |bit| input.valid & bit != 0;
    // A request to change nothing is chown(2) to no owner and no group: it takes the set-id bits away, and the kernel says so only
    // where an owner or group is named.
    let nothing = !has(fattr::MODE | fattr::SIZE | fattr::ATIME | fattr::MTIME);
    if has(fattr::UID | fattr::GID) || nothing {
        let owner = has(fattr::UID).then(|| Uid::from_raw(input.uid));
        let group = has(fattr::GID).then(|| Gid::from_raw(input.gid));
        nix::unistd::fchownat(fd, c"", owner, group, AtFlags::AT_EMPTY_PATH)?;
    }
    if has(fattr::MODE) {
        let mode = Mode::from_bits_truncate(input.mode & 0o7777);
        match nix::sys::stat::fchmod(fd, mode) {
            // An O_PATH descriptor.
            Err(nix::Error::EBADF) => {
                let (path, flag) = (path_of(fd), FchmodatFlags::FollowSymlink);
                nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, path.as_c_str(), mode, flag)?;
            }
            result => result?,
        }
    }
    if has(fattr::ATIME | fattr::MTIME) {
        set_times(fd, input)?;
    }
    Ok(())
}

fn set_times(fd: &OwnedFd, input: &SetattrIn) -> Result<(), Refusal> {
    let time = |set, now, seconds: u64, nanoseconds: u32| libc::timespec {
        tv_sec: seconds as i64,
        tv_nsec: if input.valid & now != 0 {
            libc::UTIME_NOW
        } else if input.valid & set != 0 {
            i64::from(nanoseconds)
        } else {
            libc::UTIME_OMIT
        },
    };
    let times = [
        time(fattr::ATIME, fattr::ATIME_NOW, input.atime, input.atimensec),
        time(fattr::MTIME, fattr::MTIME_NOW, input.mtime, input.mtimensec),
    ];
    // SAFETY: the path is NUL-terminated, `times` are two timespecs, and both outlive the call.
    let result =
        unsafe { libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) };
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

pub fn statfs(context: &mut Context<'_>) -> Answer {
    // SAFETY: all-zero is a statfs, which is integers throughout.
    let mut stat: libc::statfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` outlives the call.
    let result = unsafe { libc::fstatfs64(context.server.volume.root().as_raw_fd(), &raw mut stat) };
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    context.reply.put(&StatfsOut {
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        bsize: stat.f_bsize as u32,
        namelen: stat.f_namelen as u32,
        frsize: stat.f_frsize as u32,
        padding: 0,
        spare: [0; 6],
    });
    REPLY
}
