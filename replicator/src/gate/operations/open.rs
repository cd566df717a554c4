//! Opening and releasing files, and who moves their bytes.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat};
use replicator_core::extent::Extent;
use replicator_core::ids::FileKind;
use replicator_core::wire::namespace::Operation;

use super::super::abi::{CreateIn, OPEN_KILL_SUIDGID, OpenIn, OpenOut, ReleaseIn, fopen};
use super::super::credentials::Caller;
use super::super::handles::OpenFile;
use super::super::inodes::{Inode, OpenMode, handle_of};
use super::super::server::{Answer, Context, DIRECT, Outcome, Refusal, Server, Undo};
use super::super::sink::Intent;
use super::super::strict;
use super::namespace::{new_node, refuse_reserved};
use crate::exposure::Place;

/// What the caller's open(2) flags mean here.
#[derive(Clone, Copy)]
struct Wish(OFlag);

impl Wish {
    fn new(flags: u32) -> Wish {
        Wish(OFlag::from_bits_truncate(flags as i32))
    }

    fn access(self) -> OFlag {
        self.0 & OFlag::O_ACCMODE
    }

    fn writes(self) -> bool {
        self.access() != OFlag::O_RDONLY
    }

    fn truncates(self) -> bool {
        self.0.contains(OFlag::O_TRUNC)
    }

    /// Completion of a write is a promise, or its bytes cannot be read back cheaply: the daemon has to be in the path.
    fn wants_daemon(self) -> bool {
        let synchronous = self.0.intersects(OFlag::O_DSYNC | OFlag::O_SYNC);
        self.0.contains(OFlag::O_DIRECT) || (synchronous && self.writes())
    }

    /// Flags of the daemon's own descriptor: the caller's access mode and nothing that would change what pwrite does.
    fn own_flags(self) -> OFlag {
        self.access() | (self.0 & OFlag::O_NOATIME) | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE
    }
}

pub fn open(context: &mut Context<'_>, input: &OpenIn) -> Answer {
    let server = context.server;
    let inode = context.inode()?;
    if inode.kind != FileKind::Regular {
        return Err(Refusal::errno(libc::EINVAL));
    }
    let wish = Wish::new(input.flags);
    inode.opens().beginning += 1;
    let (file, appends, strictness) = open_by_policy(server, &inode, wish)?;
    let kills_set_ids = input.open_flags & OPEN_KILL_SUIDGID != 0;
    let (stat, intent) = match prepare(context, &inode, &file, wish, kills_set_ids) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            server.abandon_open(&inode, Some(&file));
            return Err(refusal);
        }
    };
    let (handle, answer) = finish(context, &inode, file, (appends, strictness), wish, &stat, intent);
    if answer.open_flags & fopen::PASSTHROUGH != 0 && wish.access() == OFlag::O_RDWR {
        // From now on a mapping can change the times: what was cached for hours ends here.
        server.outdate(inode.node);
    }
    context.reply.put(&answer);
    Ok(Outcome::Reply(Undo::Open { handle }))
}

/// Whether a file is opened without passthrough although there is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// No.
    None,
    /// It is to be, and something may have it mapped past the gate's page cache.
    Wanted,
    /// It is, if this is the first open.
    Ready,
}

/// The daemon's own descriptor for an open, and how strict the open is to be.
fn open_by_policy(
    server: &Server,
    inode: &Inode,
    wish: Wish,
) -> Result<(OwnedFd, bool, Strictness), Refusal> {
    let (file, appends) = open_descriptor(server, inode, wish)?;
    if !server.negotiated.passthrough || !server.strict.wants(server, inode, &file) {
        return Ok((file, appends, Strictness::None));
    }
    if inode.opens().mode != OpenMode::Closed {
        return Ok((file, appends, Strictness::Wanted));
    }
    // The open that was just made would count as a writer itself.
    drop(file);
    let free = strict::has_no_writer(&server.volume, inode);
    let (file, appends) = open_descriptor(server, inode, wish)?;
    Ok((file, appends, if free { Strictness::Ready } else { Strictness::Wanted }))
}

/// The daemon's own descriptor for an open. It is a real open with the caller's access mode, so that append-only, immutable
/// and read-only files refuse as they do without the gate. Ends the open that has begun if it fails.
fn open_descriptor(server: &Server, inode: &Inode, wish: Wish) -> Result<(OwnedFd, bool), Refusal> {
    let first = inode.open(&server.volume, wish.own_flags());
    let appends = OFlag::O_APPEND;
    let result = match first {
        Ok(file) => Ok((file, false)),
        // Append-only files let themselves be written by appending descriptors only.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && wish.0.contains(appends) => {
            inode.open(&server.volume, wish.own_flags() | appends).map(|file| (file, true))
        }
        Err(error) => Err(error),
    };
    result.map_err(|error| {
        server.abandon_open(inode, None);
        Refusal::from(error)
    })
}

/// Record the intent to write, then truncate if asked.
fn prepare(
    context: &mut Context<'_>,
    inode: &Inode,
    file: &OwnedFd,
    wish: Wish,
    kills_set_ids: bool,
) -> Result<(FileStat, Option<Intent>), Refusal> {
    let server = context.server;
    let changes = wish.writes() || wish.truncates();
    let intent = changes.then(|| record_intent(server, inode, false)).transpose()?;
    if wish.truncates() {
        context.identity.act_as(context.caller(), !kills_set_ids)?;
        let result = if wish.writes() {
            nix::unistd::ftruncate(file, 0)
        } else {
            nix::unistd::ftruncate(inode.open(&server.volume, OFlag::O_WRONLY)?, 0)
        };
        // Reported even if it failed: a part may have been done.
        server.sink.written(server.file(inode), Extent::WHOLE);
        if inode.is_privileged() {
            server.sink.attributes(server.file(inode));
        }
        result?;
    }
    let stat = fstat(file)?;
    inode.note_mode(stat.st_mode);
    Ok((stat, intent.filter(|_| wish.writes())))
}

/// The file may change from here on, until the answer is dropped. `made`: it was just made.
///
/// # Errors
/// The sink's: the intent could not be recorded.
pub fn record_intent(server: &Server, inode: &Inode, made: bool) -> Result<Intent, Refusal> {
    let intent = server.sink.intend(&[server.file(inode)], made)?;
    server.volume.note_writer(inode.number);
    server.sink.open_for_write(server.file(inode));
    Ok(intent)
}

/// Choose who moves the bytes, and enter the handle. The open that has begun becomes one that is.
fn finish(
    context: &mut Context<'_>,
    inode: &Arc<Inode>,
    file: OwnedFd,
    (appends, strictness): (bool, Strictness),
    wish: Wish,
    stat: &FileStat,
    intent: Option<Intent>,
) -> (u64, OpenOut) {
    let server = context.server;
    let file = Arc::new(file);
    let handle = server.handles.number();
    let mut opens = inode.opens();
    let first = opens.mode == OpenMode::Closed;
    if first {
        let passes = server.negotiated.passthrough && strictness != Strictness::Ready;
        opens.mode = if passes { register(context, &file, stat) } else { OpenMode::Cached };
    }
    // FUSE is not told of such files: their writes are held one by one, once one was seen to pass.
    let synchronous = strictness != Strictness::None && wish.writes() && strict::is_synchronous(&file);
    let wants_daemon = synchronous || wants_daemon(wish, inode, strictness, opens.mode);
    let (open_flags, backing_id) = match opens.mode {
        OpenMode::Passthrough(id) if wants_daemon => (fopen::PASSTHROUGH | DIRECT, id),
        OpenMode::Passthrough(id) => (fopen::PASSTHROUGH, id),
        // What the kernel cached of it before (read-ahead, an earlier mapping) may be older than what passed it.
        OpenMode::Cached if !wants_daemon && first && server.negotiated.passthrough => (0, 0),
        OpenMode::Cached if !wants_daemon => (fopen::KEEP_CACHE, 0),
        OpenMode::Cached | OpenMode::Direct | OpenMode::Closed => (DIRECT, 0),
    };
    let mappable = wish.access() == OFlag::O_RDWR && matches!(opens.mode, OpenMode::Passthrough(_));
    opens.beginning -= 1;
    opens.mappable += usize::from(mappable);
    opens.handles.push((handle, Arc::clone(&file)));
    drop(opens);
    let open = OpenFile {
        inode: Arc::clone(inode),
        file,
        direct: open_flags & fopen::DIRECT_IO != 0,
        synchronous,
        appends,
        mappable,
        _intent: intent,
    };
    server.handles.insert_file(handle, Arc::new(open));
    (handle, OpenOut { fh: handle, open_flags, backing_id })
}

/// Whether reads and writes of a handle come to the daemon, whatever the other handles of its file do.
fn wants_daemon(wish: Wish, inode: &Inode, strictness: Strictness, mode: OpenMode) -> bool {
    // A write clears set-id bits or does not according to who writes, which only the daemon can tell apart.
    let clears_set_ids = wish.writes() && inode.is_privileged();
    // A strict file that passes still has at least its single synchronous writes held.
    let passes = matches!(mode, OpenMode::Passthrough(_));
    let strict = strictness != Strictness::None && wish.writes() && passes;
    wish.wants_daemon() || clears_set_ids || strict
}

/// Register a file for passthrough as its owner's, without the powers that would keep set-id bits or eat the reserve.
fn register(context: &mut Context<'_>, file: &OwnedFd, stat: &FileStat) -> OpenMode {
    let server = context.server;
    let owner = Caller { uid: stat.st_uid, gid: stat.st_gid };
    let registered =
        context.identity.act_as(owner, false).and_then(|()| server.device.open_backing(file.as_fd()));
    match registered {
        Ok(id) => {
            server.backing_files.fetch_add(1, Ordering::Relaxed);
            OpenMode::Passthrough(id)
        }
        Err(error) => {
            if !server.backing_refused.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    volume = %server.volume.path.display(),
                    inode = stat.st_ino,
                    %error,
                    "the kernel refused a backing file: this file's data goes through the daemon while it is open"
                );
            }
            OpenMode::Direct
        }
    }
}

pub fn create(context: &mut Context<'_>, input: &CreateIn, name: &CStr) -> Answer {
    let server = context.server;
    let (parent, directory) = context.directory()?;
    refuse_reserved(context.header.nodeid, name)?;
    let wish = Wish::new(input.flags);
    let flags = wish.own_flags() | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let mode = Mode::from_bits_truncate(input.mode & 0o7777);
    // The kernel has cleared what this caller may not set; without such bits there is nothing the file system could clear again.
    let sets_ids = mode.intersects(Mode::S_ISUID | Mode::S_ISGID);
    let _intent = server.sink.intend(&[server.file(&parent)], false)?;
    context.identity.act_as(context.caller(), sets_ids)?;
    context.identity.set_umask(input.umask);
    let namespace = server.volume.lock_namespace();
    let file = match nix::fcntl::openat(&*directory, name, flags, mode) {
        Ok(file) => file,
        // The kernel believed the name was free, so it has checked no permission to open it: let it look again.
        Err(nix::Error::EEXIST) if !wish.0.contains(OFlag::O_EXCL) => {
            return Err(Refusal::errno(libc::ESTALE));
        }
        Err(errno) => return Err(errno.into()),
    };
    let (handle, stat) = identify(&file);
    server.volume.learn_made(stat.st_ino, handle.clone());
    server.sink.namespace(Operation::Create {
        parent: server.file(&parent),
        name: name.to_bytes().to_vec(),
        node: new_node(server, Place::Open(file.as_fd()), &stat, Vec::new()),
    });
    drop(namespace);
    let inode = server.admit_made(handle, &stat)?;
    server.strict.note_name(server, &inode, context.header.nodeid, name.to_bytes());
    finish_created(context, &inode, file, wish, &stat)
}

pub fn tmpfile(context: &mut Context<'_>, input: &CreateIn) -> Answer {
    let server = context.server;
    let (_, directory) = context.directory()?;
    let wish = Wish::new(input.flags);
    // Without O_EXCL even if the caller has it: the kernel itself refuses to link such a file.
    let flags = wish.own_flags() | OFlag::O_TMPFILE;
    let mode = Mode::from_bits_truncate(input.mode & 0o7777);
    context.identity.act_as(context.caller(), true)?;
    context.identity.set_umask(input.umask);
    // Under the lock although no name is made: the number may be that of a file just being reported forgotten.
    let namespace = server.volume.lock_namespace();
    let file = nix::fcntl::openat(&*directory, c".", flags, mode)?;
    let (handle, stat) = identify(&file);
    server.volume.learn_made(stat.st_ino, handle.clone());
    drop(namespace);
    let inode = server.admit_made(handle, &stat)?;
    finish_created(context, &inode, file, wish, &stat)
}

/// Handle and attributes of a file just made.
///
/// # Panics
/// Where the file system does not tell: a gate that stops is safer than one that forgets a change.
fn identify(file: &OwnedFd) -> (crate::volume::FileHandle, FileStat) {
    let stat = fstat(file).expect("a file just made has attributes");
    let handle = handle_of(file).expect("a file just made has a handle, as its volume's root has");
    (handle, stat)
}

fn finish_created(
    context: &mut Context<'_>,
    inode: &Arc<Inode>,
    file: OwnedFd,
    wish: Wish,
    stat: &FileStat,
) -> Answer {
    let server = context.server;
    inode.note_made();
    inode.opens().beginning += 1;
    let intent = match record_intent(server, inode, true) {
        Ok(intent) => intent,
        Err(refusal) => {
            server.abandon_open(inode, Some(&file));
            server.inodes.forget(inode.node, 1);
            return Err(refusal);
        }
    };
    // What was just made nobody has mapped.
    let strict = server.negotiated.passthrough && server.strict.wants_made(server, inode, &file);
    let strictness = if strict { Strictness::Ready } else { Strictness::None };
    let (handle, answer) = finish(context, inode, file, (false, strictness), wish, stat, Some(intent));
    context.reply.put(&server.entry(inode, stat));
    context.reply.put(&answer);
    Ok(Outcome::Reply(Undo::Create { node: inode.node, handle }))
}

pub fn release(context: &mut Context<'_>, input: &ReleaseIn) -> Answer {
    context.server.release(input.fh);
    Ok(Outcome::Reply(Undo::Nothing))
}
