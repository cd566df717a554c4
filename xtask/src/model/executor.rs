//! Does operations in a directory, in the process it is in.
//!
//! The process works *in* the directory (fchdir): calls on attributes have no form that takes a directory's descriptor.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::observe::line;
use super::operation::{
    BLOCK, Flags, MAPS, Msync, Operation, Outcome, Rename, SLOTS, Space, Sync, Target, Write, fill, rounded,
};
use super::protection::protect;
use super::submit::{self, Submitter};
use super::transfer;
use crate::lab::aligned::Aligned;
use crate::lab::mapping::Mapping;
use crate::lab::records::fnv;

/// Number of `CAP_FSETID` (linux/capability.h).
const FSETID: u32 = 4;

/// What the process holds open.
#[derive(Default)]
pub struct Executor {
    slots: [Option<Slot>; SLOTS as usize],
    maps: [Option<Mapping>; MAPS as usize],
    submitter: Submitter,
}

struct Slot {
    file: File,
    direct: bool,
}

type Call<T = Outcome> = io::Result<T>;

impl Executor {
    /// Forget what is open, and work in a directory from now on.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn enter(&mut self, directory: &std::path::Path) -> Result<()> {
        let directory = File::open(directory).with_context(|| format!("open {}", directory.display()))?;
        nix::unistd::fchdir(&directory).context("enter the directory")?;
        self.slots = Default::default();
        self.maps = Default::default();
        Ok(())
    }

    /// Do it.
    pub fn take(&mut self, operation: &Operation) -> Outcome {
        match self.apply(operation) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or(-1)),
        }
    }

    fn apply(&mut self, operation: &Operation) -> Call {
        match operation {
            Operation::Open { slot, path, flags, mode } => self.open(*slot, path, *flags, *mode),
            Operation::OpenNameless { slot, directory, exclusive, mode } => {
                self.slots[usize::from(*slot)] = None;
                let exclusive = if *exclusive { OFlag::O_EXCL } else { OFlag::empty() };
                let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | exclusive;
                let file = open(directory, flags, *mode)?;
                self.slots[usize::from(*slot)] = Some(Slot { file, direct: false });
                Ok(Outcome::Done(0))
            }
            Operation::Unmap { map } => {
                self.maps[usize::from(*map)] = None;
                Ok(Outcome::Done(0))
            }
            Operation::StoreMapped { map, at, length, tag, sync } => {
                let Some(mapping) = &mut self.maps[usize::from(*map)] else { return Ok(Outcome::Skipped) };
                mapping.try_store(*at as usize, &fill(*tag, *at, *length))?;
                msync(mapping, *sync)
            }
            _ => match (operation.target(), operation.slot()) {
                (Some((target, _)), _) => self.apply_attribute(target, operation),
                (_, Some(slot)) => self.apply_open(slot, operation),
                _ => apply_name(operation),
            },
        }
    }

    fn open(&mut self, slot: u8, path: &str, flags: Flags, mode: u32) -> Call {
        self.slots[usize::from(slot)] = None;
        let file = open(path, open_flags(flags), mode)?;
        let meta = file.metadata()?;
        if meta.is_file() || meta.is_dir() {
            self.slots[usize::from(slot)] = Some(Slot { file, direct: flags.direct });
        }
        Ok(Outcome::Done(0))
    }

    fn apply_open(&mut self, slot: u8, operation: &Operation) -> Call {
        let index = usize::from(slot);
        let Executor { slots, maps, submitter } = self;
        let Some(Slot { file, direct }) = &slots[index] else { return Ok(Outcome::Skipped) };
        let fd = file.as_raw_fd();
        match operation {
            Operation::Close { .. } => {
                slots[index] = None;
                Ok(Outcome::Done(0))
            }
            Operation::Write { at, length, tag, how, via, .. } => {
                let (at, length) = rounded(*direct, *at, *length);
                let bytes = Aligned::new(&fill(*tag, at, length));
                let mut call = submit::Call::Write(bytes.bytes(), at, write_flags(*how, *direct));
                submitter.take(*via, file, &mut call).map(Outcome::Done)
            }
            Operation::Read { at, length, via, .. } => {
                let (at, length) = rounded(*direct, *at, *length);
                let mut bytes = Aligned::new(&vec![0; length as usize]);
                let read = submitter.take(*via, file, &mut submit::Call::Read(bytes.bytes_mut(), at))?;
                Ok(Outcome::Done(fnv(&bytes.bytes()[..read as usize])))
            }
            Operation::Store { at, length, tag, sync, .. } => {
                if at + length > file.metadata()?.len() || file.metadata()?.is_dir() {
                    return Ok(Outcome::Skipped);
                }
                let page = at / BLOCK * BLOCK;
                let inside = (at - page) as usize;
                let mut mapping = Mapping::new(file, page, inside + *length as usize)?;
                mapping.try_store(inside, &fill(*tag, *at, *length))?;
                msync(&mapping, *sync)
            }
            Operation::Map { map, length, .. } => {
                maps[usize::from(*map)] = Some(Mapping::new(file, 0, *length as usize)?);
                Ok(Outcome::Done(0))
            }
            // SAFETY: takes no memory.
            Operation::SetLength { length, .. } => done(unsafe { libc::ftruncate(fd, *length as i64) }),
            Operation::Allocate { space, at, length, .. } => {
                // SAFETY: takes no memory.
                done(unsafe { libc::fallocate(fd, space_mode(*space), *at as i64, *length as i64) })
            }
            Operation::Copy { to, from_at, to_at, length, how, .. } => {
                let Some(to) = &slots[usize::from(*to)] else { return Ok(Outcome::Skipped) };
                if *direct || to.direct {
                    return Ok(Outcome::Skipped);
                }
                transfer::copy(*how, (file, *from_at), (&to.file, *to_at), *length).map(Outcome::Done)
            }
            Operation::Sync { what, via, .. } => match what {
                Sync::All => submitter.take(*via, file, &mut submit::Call::Sync).map(Outcome::Done),
                Sync::Data => submitter.take(*via, file, &mut submit::Call::DataSync).map(Outcome::Done),
                // SAFETY: takes no memory.
                Sync::System => done(unsafe { libc::syncfs(fd) }),
            },
            Operation::LinkSlot { to, .. } => {
                let from = c_string(&format!("/proc/self/fd/{fd}"))?;
                let to = c_string(to)?;
                let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
                // SAFETY: both paths are NUL-terminated and outlive the call.
                done(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) })
            }
            _ => stat(fd, c""),
        }
    }

    fn apply_attribute(&self, target: &Target, operation: &Operation) -> Call {
        match operation {
            Operation::SetMode { mode, .. } => self.on(
                target,
                // SAFETY: the path is NUL-terminated.
                |path| unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), *mode, 0) },
                // SAFETY: takes no memory.
                |fd| unsafe { libc::fchmod(fd, *mode) },
            ),
            Operation::SetOwner { uid, gid, .. } => {
                let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
                self.on(
                    target,
                    // SAFETY: the path is NUL-terminated.
                    |path| unsafe { libc::lchown(path.as_ptr(), uid, gid) },
                    // SAFETY: takes no memory.
                    |fd| unsafe { libc::fchown(fd, uid, gid) },
                )
            }
            Operation::SetTime { seconds, nanoseconds, .. } => {
                let keep = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT };
                let times = [keep, libc::timespec { tv_sec: *seconds, tv_nsec: *nanoseconds }];
                let nofollow = libc::AT_SYMLINK_NOFOLLOW;
                self.on(
                    target,
                    // SAFETY: the path is NUL-terminated, and there are two times.
                    |path| unsafe {
                        libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), nofollow)
                    },
                    // SAFETY: there are two times.
                    |fd| unsafe { libc::futimens(fd, times.as_ptr()) },
                )
            }
            Operation::SetAttribute { name, value, flags, .. } => {
                let (name, bytes, size) = (c_string(name)?, value.as_ptr().cast(), value.len());
                self.on(
                    target,
                    // SAFETY: both strings are NUL-terminated, and the value is as long as it says.
                    |path| unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), bytes, size, *flags) },
                    // SAFETY: the name is NUL-terminated, and the value is as long as it says.
                    |fd| unsafe { libc::fsetxattr(fd, name.as_ptr(), bytes, size, *flags) },
                )
            }
            Operation::RemoveAttribute { name, .. } => {
                let name = c_string(name)?;
                self.on(
                    target,
                    // SAFETY: both strings are NUL-terminated.
                    |path| unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) },
                    // SAFETY: the name is NUL-terminated.
                    |fd| unsafe { libc::fremovexattr(fd, name.as_ptr()) },
                )
            }
            Operation::SetProtection { protection, .. } => {
                let opened;
                let file = match target {
                    Target::Path(path) => {
                        opened = open(path, OFlag::O_RDONLY, 0)?;
                        &opened
                    }
                    Target::Slot(slot) => match &self.slots[usize::from(*slot)] {
                        Some(slot) => &slot.file,
                        None => return Ok(Outcome::Skipped),
                    },
                };
                protect(file, *protection).map(|()| Outcome::Done(0))
            }
            _ => Ok(Outcome::Skipped),
        }
    }

    fn on(&self, target: &Target, path: impl Fn(&CStr) -> i32, slot: impl Fn(i32) -> i32) -> Call {
        match target {
            Target::Path(name) => done(path(&c_string(name)?)),
            Target::Slot(index) => match &self.slots[usize::from(*index)] {
                Some(open) => done(slot(open.file.as_raw_fd())),
                None => Ok(Outcome::Skipped),
            },
        }
    }
}

/// Operations on names.
fn apply_name(operation: &Operation) -> Call {
    let here = libc::AT_FDCWD;
    match operation {
        Operation::Truncate { path, length } => {
            let path = c_string(path)?;
            // SAFETY: the path is NUL-terminated.
            done(unsafe { libc::truncate(path.as_ptr(), *length as i64) })
        }
        Operation::SyncPath { path } => {
            let file = open(path, OFlag::O_RDONLY, 0)?;
            file.sync_all()?;
            Ok(Outcome::Done(0))
        }
        Operation::MakeDirectory { path, mode } => {
            let path = c_string(path)?;
            // SAFETY: the path is NUL-terminated.
            done(unsafe { libc::mkdir(path.as_ptr(), *mode) })
        }
        Operation::RemoveDirectory { path } => remove(path, libc::AT_REMOVEDIR),
        Operation::Unlink { path } => remove(path, 0),
        Operation::Link { from, to } => {
            let (from, to) = (c_string(from)?, c_string(to)?);
            // SAFETY: both paths are NUL-terminated.
            done(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), 0) })
        }
        Operation::Symlink { content, path } => {
            let (content, path) = (c_string(content)?, c_string(path)?);
            // SAFETY: both strings are NUL-terminated.
            done(unsafe { libc::symlink(content.as_ptr(), path.as_ptr()) })
        }
        Operation::MakeNode { path, node, mode } => {
            let path = c_string(path)?;
            let (kind, device) = node.numbers();
            // SAFETY: the path is NUL-terminated.
            done(unsafe { libc::mknod(path.as_ptr(), kind | mode, device) })
        }
        Operation::Rename { from, to, how } => {
            let flags = match how {
                Rename::Plain => 0,
                Rename::NoReplace => libc::RENAME_NOREPLACE,
                Rename::Exchange => libc::RENAME_EXCHANGE,
                Rename::Whiteout => libc::RENAME_WHITEOUT,
            };
            let (from, to) = (c_string(from)?, c_string(to)?);
            // SAFETY: both paths are NUL-terminated.
            done(unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), flags) })
        }
        Operation::Stat { path } => stat(here, &c_string(path)?),
        Operation::List { path } => {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(Outcome::Shown(format!("{names:?}")))
        }
        _ => Ok(Outcome::Skipped),
    }
}

fn remove(path: &str, flags: i32) -> Call {
    let path = c_string(path)?;
    // SAFETY: the path is NUL-terminated.
    done(unsafe { libc::unlinkat(libc::AT_FDCWD, path.as_ptr(), flags) })
}

fn open(path: &str, flags: OFlag, mode: u32) -> Call<File> {
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd: OwnedFd = openat(nix::fcntl::AT_FDCWD, path, flags, Mode::from_bits_truncate(mode))?;
    Ok(File::from(fd))
}

fn open_flags(flags: Flags) -> OFlag {
    let mut bits = match (flags.read, flags.write) {
        (true, true) => OFlag::O_RDWR,
        (false, true) => OFlag::O_WRONLY,
        _ => OFlag::O_RDONLY,
    };
    for (set, flag) in [
        (flags.create, OFlag::O_CREAT),
        (flags.exclusive, OFlag::O_EXCL),
        (flags.truncate, OFlag::O_TRUNC),
        (flags.append, OFlag::O_APPEND),
        (flags.nofollow, OFlag::O_NOFOLLOW),
        (flags.sync, OFlag::O_SYNC),
        (flags.dsync, OFlag::O_DSYNC),
        (flags.direct, OFlag::O_DIRECT),
    ] {
        bits.set(flag, set || bits.contains(flag));
    }
    bits
}

fn space_mode(space: Space) -> i32 {
    match space {
        Space::Allocate => 0,
        Space::Keep => libc::FALLOC_FL_KEEP_SIZE,
        Space::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        Space::Zero => libc::FALLOC_FL_ZERO_RANGE,
        Space::ZeroKeep => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
    }
}

fn write_flags(how: Write, direct: bool) -> i32 {
    match how {
        Write::Dsync => libc::RWF_DSYNC,
        Write::Append if !direct => libc::RWF_APPEND,
        _ => 0,
    }
}

fn msync(mapping: &Mapping, sync: Msync) -> Call {
    match sync {
        Msync::No => Ok(()),
        Msync::Async => mapping.sync_later(),
        Msync::Sync => mapping.sync(),
    }?;
    Ok(Outcome::Done(0))
}

fn stat(directory: i32, path: &CStr) -> Call {
    // SAFETY: a structure of numbers, all of which may be zero.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path is NUL-terminated, and `found` is writable.
    check(unsafe { libc::fstatat(directory, path.as_ptr(), &raw mut found, flags) } as isize)?;
    let directory = found.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let (links, size) = if directory { (0, 0) } else { (found.st_nlink as u32, found.st_size as u64) };
    Ok(Outcome::Shown(line(found.st_mode, found.st_uid, found.st_gid, links, size)))
}

fn check(result: isize) -> Call<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn done(result: i32) -> Call {
    check(result as isize).map(|_| Outcome::Done(0))
}

fn c_string(path: &str) -> io::Result<CString> {
    Ok(CString::new(path)?)
}

/// Make this process what the model foretells: root without `CAP_FSETID` (so that root's writes clear set-id bits here as
/// there, docs/semantics.md), without supplementary groups, under the umask 022.
///
/// # Errors
/// The kernel refused.
pub fn become_ordinary() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    nix::unistd::setgroups(&[])?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    // Effective, permitted, inheritable; twice (capget(2)).
    let mut data = [[0_u32; 3]; 2];
    // SAFETY: version 3 fills two structures of three words; both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) } as isize)?;
    data[0][0] &= !(1 << FSETID);
    // SAFETY: version 3 reads two structures of three words; both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_mut_ptr()) } as isize)?;
    Ok(())
}
