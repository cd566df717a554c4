//! Directory listings. Offsets are the covered directory's own cookies, so they stay valid while names come and go.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::super::abi::{Dirent, EntryOut, OpenIn, OpenOut, ReadIn, ReleaseIn, align8};
use super::super::handles::{Cursor, OpenDirectory};
use super::super::server::{Answer, Context, Outcome, Refusal, ReplyBuffer, Server, Undo};
use super::names::{find, is_reserved};

/// Bytes asked of getdents64(2) at once.
const READ_AHEAD_BYTES: usize = 32 * 1024;

pub fn opendir(context: &mut Context<'_>, _input: &OpenIn) -> Answer {
    let server = context.server;
    let (inode, directory) = context.directory()?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let file = std::sync::Arc::new(nix::fcntl::openat(&*directory, c".", flags, Mode::empty())?);
    let open = OpenDirectory { inode, file, cursor: Mutex::default() };
    let handle = server.handles.insert_directory(open);
    context.reply.put(&OpenOut { fh: handle, open_flags: 0, backing_id: 0 });
    Ok(Outcome::Reply(Undo::Directory { handle }))
}

pub fn releasedir(context: &mut Context<'_>, input: &ReleaseIn) -> Answer {
    drop(context.server.handles.remove_directory(input.fh));
    Ok(Outcome::Reply(Undo::Nothing))
}

pub fn readdir(context: &mut Context<'_>, input: &ReadIn, plus: bool) -> Answer {
    let server = context.server;
    let open = server.handles.directory(input.fh)?;
    let mut cursor = open.cursor.lock().unwrap_or_else(PoisonError::into_inner);
    if !cursor.started || cursor.offset != input.offset {
        cursor.seek(&open.file, input.offset)?;
    }
    let limit = input.size as usize;
    let mut nodes = Vec::new();
    let filled = fill(server, &open, &mut cursor, context.reply, limit, plus, &mut nodes);
    match filled {
        // What was announced before the failure must reach the kernel, or be taken back; the next call fails again.
        Err(refusal) if context.reply.length() == 0 => return Err(refusal),
        _ => {}
    }
    Ok(Outcome::Reply(Undo::Entries { nodes }))
}

/// Put entries into the answer until it is full or the directory ends. `nodes` gets those that were announced.
fn fill(
    server: &Server,
    open: &OpenDirectory,
    cursor: &mut Cursor,
    reply: &mut ReplyBuffer,
    limit: usize,
    plus: bool,
    nodes: &mut Vec<u64>,
) -> Result<(), Refusal> {
    while let Some(entry) = cursor.current(&open.file)? {
        let (record, ino, kind, next) = (entry.record, entry.ino, entry.kind, entry.next);
        if !is_reserved(open.inode.node, entry.name) {
            let length = align8(size_of::<Dirent>() + entry.name.count_bytes())
                + if plus { size_of::<EntryOut>() } else { 0 };
            if reply.length() + length > limit {
                return Ok(());
            }
            if plus {
                let announced = announce(server, open, entry.name);
                nodes.extend((announced.nodeid != 0).then_some(announced.nodeid));
                reply.put(&announced);
            }
            let name = entry.name.to_bytes();
            reply.put(&Dirent { ino, off: next, namelen: name.len() as u32, kind: u32::from(kind) });
            reply.put_bytes(name);
            let padding = align8(name.len()) - name.len();
            reply.put_bytes(&[0; 8][..padding]);
        }
        cursor.position += record;
        cursor.offset = next;
    }
    Ok(())
}

/// A listed name looked up at once. Where that fails the name is listed all the same (node 0).
fn announce(server: &Server, open: &OpenDirectory, name: &CStr) -> EntryOut {
    if matches!(name.to_bytes(), b"." | b"..") {
        return EntryOut::default();
    }
    find(server, &open.file, name)
        .and_then(|(fd, stat)| {
            let inode = server.admit(&open.inode, &fd, &stat)?;
            server.strict.note_name(server, &inode, open.inode.node, name.to_bytes());
            Ok(server.entry(&inode, &stat))
        })
        .unwrap_or_default()
}

/// One `struct linux_dirent64`.
struct Record<'a> {
    /// Its length.
    record: usize,
    ino: u64,
    kind: u8,
    /// Cookie of the entry after it.
    next: u64,
    name: &'a CStr,
}

impl Record<'_> {
    fn parse(bytes: &[u8]) -> Option<Record<'_>> {
        let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let record = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
        let name = CStr::from_bytes_until_nul(bytes.get(19..record)?).ok()?;
        Some(Record { record, ino: word(0)?, kind: *bytes.get(18)?, next: word(8)?, name })
    }
}

impl Cursor {
    /// Go to a cookie; what was read ahead is dropped.
    fn seek(&mut self, directory: &OwnedFd, offset: u64) -> Result<(), Refusal> {
        self.records.clear();
        self.position = 0;
        nix::unistd::lseek(directory, offset as i64, nix::unistd::Whence::SeekSet)?;
        self.offset = offset;
        self.started = true;
        Ok(())
    }

    /// The entry at the cursor, reading on if needed; `None` at the end.
    fn current(&mut self, directory: &OwnedFd) -> Result<Option<Record<'_>>, Refusal> {
        if self.position >= self.records.len() {
            self.records.resize(READ_AHEAD_BYTES, 0);
            // SAFETY: `records` is writable for its length.
            let length = unsafe {
                libc::syscall(
                    libc::SYS_getdents64,
                    directory.as_raw_fd(),
                    self.records.as_mut_ptr(),
                    self.records.len(),
                )
            };
            let length = usize::try_from(length).map_err(|_| {
                let error = std::io::Error::last_os_error();
                self.records.clear();
                error
            })?;
            self.records.truncate(length);
            self.position = 0;
            if length == 0 {
                return Ok(None);
            }
        }
        let rest = self.records.get(self.position..).unwrap_or_default();
        Ok(Some(Record::parse(rest).ok_or(Refusal::errno(libc::EIO))?))
    }
}
