//! What the readers of one mount share, and what a request carries while it is answered.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::stat::FileStat;
use replicator_core::event::SyncScope;
use replicator_core::ids::{Errno, FileId, FileKind};

use super::abi::{Attr, AttrOut, EntryOut, InHeader, Plain, fopen};
use super::counters::{Counters, count};
use super::credentials::{Caller, Identity};
use super::device::Device;
use super::handles::Handles;
use super::inodes::{Inode, Inodes, OpenMode, handle_of};
use super::listings::Listings;
use super::queue::Port;
use super::session::Negotiated;
use super::sink::{Sink, SyncReply};
use super::strict::StrictFiles;
use crate::idle::Waiting;
use crate::volume::{Acquaintance, FileHandle, Volume};

/// How long the kernel may keep names and attributes: all changes come through it, or are followed by an invalidation.
const CACHE_TIME: Duration = Duration::from_secs(4 * 3600);
/// The same while somebody can store into a shared mapping, which changes times without a request.
const CACHE_TIME_MAPPED: Duration = Duration::from_secs(1);

/// Why a request is answered with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal(pub Errno);

impl Refusal {
    /// The refusal with this error number.
    #[must_use]
    pub const fn errno(number: i32) -> Refusal {
        Refusal(Errno(number))
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal(Errno(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

impl From<nix::Error> for Refusal {
    fn from(error: nix::Error) -> Refusal {
        Refusal(Errno(error as i32))
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal(errno)
    }
}

/// What is to be taken back if the kernel does not take the answer (its caller was killed meanwhile).
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Undo {
    Nothing,
    Lookup { node: u64 },
    Open { handle: u64 },
    Create { node: u64, handle: u64 },
    Entries { nodes: Vec<u64> },
}

/// How a request that did not fail ends.
#[derive(Debug)]
pub enum Outcome {
    /// What is in the reply buffer is sent.
    Reply(Undo),
    /// There is no answer to this kind.
    Silent,
    /// The caller is held until something is durable; nobody waits with it.
    Held(Held),
    /// A thread of its own goes on with it.
    Aside(Aside),
}

/// What is left to do of a request, and ends in its answer: work that waits for other requests to be served.
pub struct Aside(Box<Work>);

type Work = dyn FnOnce(&Arc<Server>) -> Result<Vec<u8>, Refusal> + Send;

impl std::fmt::Debug for Aside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aside")
    }
}

impl Aside {
    /// This work.
    pub fn new(work: impl FnOnce(&Arc<Server>) -> Result<Vec<u8>, Refusal> + Send + 'static) -> Aside {
        Aside(Box::new(work))
    }

    /// Start it. `answer` is called once, with the body or an error, also where there is no thread to be had.
    pub fn start(
        self,
        server: &Arc<Server>,
        answer: impl FnOnce(&Server, Result<&[u8], Errno>) + Send + 'static,
    ) {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let reply = {
            let (server, answer) = (Arc::clone(server), Arc::clone(&answer));
            move |result: Result<Vec<u8>, Refusal>| {
                if result.is_err() {
                    count(&server.counters.refused);
                }
                if let Some(answer) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    answer(&server, result.as_deref().map_err(|refusal| refusal.0));
                }
            }
        };
        let refuse = reply.clone();
        let server = Arc::clone(server);
        let work = move || reply((self.0)(&server));
        if let Err(error) = thread::Builder::new().name("gate-aside".to_owned()).spawn(work) {
            refuse(Err(error.into()));
        }
    }
}

/// What a caller is held for.
#[derive(Debug)]
pub struct Held {
    /// What has to be durable.
    pub scope: SyncScope,
    /// The file, for the local sync.
    pub backing: Arc<OwnedFd>,
    /// Body of the answer then.
    pub body: Vec<u8>,
}

/// Result of an operation.
pub type Answer = Result<Outcome, Refusal>;

/// An answer with what is in the reply buffer.
pub const REPLY: Answer = Ok(Outcome::Reply(Undo::Nothing));

/// The body of an answer, built in a buffer that a reader uses again and again.
#[derive(Debug)]
pub struct ReplyBuffer {
    bytes: Box<[u8]>,
    length: usize,
}

impl ReplyBuffer {
    /// A buffer for bodies up to `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> ReplyBuffer {
        ReplyBuffer { bytes: vec![0; capacity].into_boxed_slice(), length: 0 }
    }

    /// What was put in.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Length of what was put in.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Start anew.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Append a structure.
    pub fn put(&mut self, value: &impl Plain) {
        self.put_bytes(value.bytes());
    }

    /// Append bytes. What does not fit is left out: callers ask for no more than the capacity.
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            room.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    /// Room for up to `wanted` more bytes, to be filled by a system call and then [`ReplyBuffer::commit`]ted.
    pub fn room(&mut self, wanted: usize) -> &mut [u8] {
        let end = self.length.saturating_add(wanted).min(self.bytes.len());
        self.bytes.get_mut(self.length..end).unwrap_or_default()
    }

    /// So many bytes of the room were filled.
    pub fn commit(&mut self, filled: usize) {
        self.length = (self.length + filled).min(self.bytes.len());
    }
}

/// One mount: everything its readers share.
pub struct Server {
    /// The covered directory.
    pub volume: Arc<Volume>,
    /// Who is told.
    pub sink: Arc<dyn Sink>,
    /// The kernel.
    pub device: Device,
    /// What both sides agreed on.
    pub negotiated: Negotiated,
    /// Files the kernel knows.
    pub inodes: Inodes,
    /// Files that are open.
    pub handles: Handles,
    /// Directories being listed.
    pub listings: Listings,
    /// How often what was asked.
    pub counters: Arc<Counters>,
    /// Callers held until something is durable.
    pub held: AtomicU64,
    /// Backing files registered.
    pub backing_files: AtomicU64,
    /// A reader panicked: nothing is served any more.
    pub failed: AtomicBool,
    /// Mounts inside were met (said once).
    pub foreign_seen: AtomicBool,
    /// Registering a backing file failed (said once).
    pub backing_refused: AtomicBool,
    /// Files that are opened without passthrough.
    pub strict: Arc<StrictFiles>,
    /// Told of each request.
    pub waiting: Waiting,
    /// The queues over io_uring, where there are any.
    pub ports: OnceLock<Vec<Arc<Port>>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("volume", &self.volume.path).finish_non_exhaustive()
    }
}

/// A request while it is answered.
pub struct Context<'a> {
    /// The mount.
    pub server: &'a Arc<Server>,
    /// The reader's identity.
    pub identity: &'a mut Identity,
    /// The answer's body.
    pub reply: &'a mut ReplyBuffer,
    /// The request's header.
    pub header: InHeader,
}

impl Context<'_> {
    /// Who asks.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid }
    }

    /// The file the request is about.
    ///
    /// # Errors
    /// ESTALE for an unknown node.
    pub fn inode(&self) -> Result<Arc<Inode>, Refusal> {
        Ok(self.server.inodes.get(self.header.nodeid)?)
    }

    /// The directory the request is about, with its descriptor.
    ///
    /// # Errors
    /// ESTALE, ENOTDIR, or what opening it returns.
    pub fn directory(&self) -> Result<(Arc<Inode>, Arc<OwnedFd>), Refusal> {
        self.server.directory(self.header.nodeid)
    }
}

impl Server {
    /// A file by its number.
    #[must_use]
    pub fn file(&self, inode: &Inode) -> FileId {
        self.volume.file(inode.number)
    }

    /// A directory by its node, with a descriptor for `*at` calls.
    ///
    /// # Errors
    /// ESTALE, ENOTDIR, or what opening it returns.
    pub fn directory(&self, node: u64) -> Result<(Arc<Inode>, Arc<OwnedFd>), Refusal> {
        let inode = self.inodes.get(node)?;
        let fd = self.inodes.directory(&inode, &self.volume)?;
        Ok((inode, fd))
    }

    /// Announce what a descriptor (also O_PATH) refers to, which was found by a name in `directory`: its lookup count rises, its
    /// handle is remembered.
    ///
    /// # Errors
    /// EXDEV where it lies on another device, EIO for an unknown kind, what name_to_handle_at(2) returns.
    pub fn admit(&self, directory: &Inode, fd: &OwnedFd, stat: &FileStat) -> Result<Arc<Inode>, Refusal> {
        self.check_device(stat)?;
        let handle = handle_of(fd)?;
        let (inode, is_new) = self.announce(handle.clone(), stat)?;
        if is_new {
            let acquaintance = self.volume.learn(stat.st_ino, handle);
            if acquaintance == Acquaintance::Other {
                self.sink.replaced(self.volume.file(stat.st_ino));
            }
            if acquaintance != Acquaintance::Old {
                // Either its directory was not listed yet, or it came there behind the gate.
                self.sink.names_changed(self.volume.file(directory.number));
            }
        }
        Ok(inode)
    }

    /// As [`Server::admit`], of a file that was just made and whose handle is remembered already.
    ///
    /// # Errors
    /// EIO for an unknown kind.
    pub fn admit_made(&self, handle: FileHandle, stat: &FileStat) -> Result<Arc<Inode>, Refusal> {
        Ok(self.announce(handle, stat)?.0)
    }

    fn announce(&self, handle: FileHandle, stat: &FileStat) -> Result<(Arc<Inode>, bool), Refusal> {
        let kind = FileKind::from_mode(stat.st_mode).ok_or(Refusal::errno(libc::EIO))?;
        let (inode, is_new) = self.inodes.admit(stat.st_ino, kind, handle);
        inode.note_mode(stat.st_mode);
        Ok((inode, is_new))
    }

    /// Refuse what is mounted inside the volume: it is not replicated.
    ///
    /// # Errors
    /// EXDEV.
    pub fn check_device(&self, stat: &FileStat) -> Result<(), Refusal> {
        if stat.st_dev == self.volume.device {
            return Ok(());
        }
        Err(self.foreign())
    }

    /// The refusal of what is mounted inside the volume. Said in the log once.
    pub fn foreign(&self) -> Refusal {
        if !self.foreign_seen.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                volume = %self.volume.path.display(),
                "what is mounted inside the volume is not replicated, and refused (EXDEV)"
            );
        }
        Refusal::errno(libc::EXDEV)
    }

    /// How long the kernel may keep a file's attributes.
    #[must_use]
    pub fn attribute_time(&self, inode: &Inode) -> Duration {
        if inode.is_privileged() {
            return Duration::ZERO;
        }
        if inode.kind == FileKind::Regular && inode.opens().mappable > 0 {
            CACHE_TIME_MAPPED
        } else {
            CACHE_TIME
        }
    }

    /// The answer that announces a file.
    #[must_use]
    pub fn entry(&self, inode: &Inode, stat: &FileStat) -> EntryOut {
        EntryOut {
            nodeid: inode.node,
            generation: u64::from(inode.generation),
            entry_valid: CACHE_TIME.as_secs(),
            attr_valid: self.attribute_time(inode).as_secs(),
            entry_valid_nsec: 0,
            attr_valid_nsec: 0,
            attr: attributes(stat),
        }
    }

    /// The answer "no such name", to be kept.
    #[must_use]
    pub fn no_entry() -> EntryOut {
        EntryOut { entry_valid: CACHE_TIME.as_secs(), ..EntryOut::default() }
    }

    /// The answer that shows attributes.
    #[must_use]
    pub fn attributes(&self, inode: &Inode, stat: &FileStat) -> AttrOut {
        inode.note_mode(stat.st_mode);
        AttrOut {
            attr_valid: self.attribute_time(inode).as_secs(),
            attr_valid_nsec: 0,
            dummy: 0,
            attr: attributes(stat),
        }
    }

    /// Hold a caller until the sink answers; `answer` lets it go, with the body or an error. False if the sink panicked, which is noted:
    /// the caller was let go with an error then.
    pub fn hold(
        self: &Arc<Server>,
        held: Held,
        answer: impl FnOnce(&Server, Result<&[u8], Errno>) + Send + 'static,
    ) -> bool {
        self.held.fetch_add(1, Ordering::Relaxed);
        let server = Arc::clone(self);
        let Held { scope, backing, body } = held;
        let reply = SyncReply::new(move |result| {
            server.held.fetch_sub(1, Ordering::Relaxed);
            if result.is_err() {
                count(&server.counters.refused);
            }
            answer(&server, result.map(|()| body.as_slice()));
        });
        let handed_on = catch_unwind(AssertUnwindSafe(|| self.sink.sync(scope, backing, reply))).is_ok();
        if !handed_on {
            self.failed.store(true, Ordering::Release);
        }
        handed_on
    }

    /// Forget a file if neither name nor open is left. The caller holds the namespace lock, so that the inode number cannot be
    /// given to a new file before this is reported.
    pub fn forget_if_gone(&self, inode: &Inode) {
        let mut opens = inode.opens();
        if opens.is_idle() && !opens.forgotten {
            opens.forgotten = true;
            drop(opens);
            self.report_forgotten(inode.number);
        }
    }

    /// As [`Server::forget_if_gone`], for a number the kernel may not know.
    pub fn forget_number(&self, number: u64) {
        match self.inodes.get(self.inodes.node_of(number)) {
            Ok(inode) => self.forget_if_gone(&inode),
            Err(_) => self.report_forgotten(number),
        }
    }

    fn report_forgotten(&self, number: u64) {
        self.volume.forget(number);
        self.strict.forget(number);
        self.sink.forgotten(self.volume.file(number));
    }

    /// A call has changed attributes that its answer does not carry: the kernel drops what it has cached, and what it was
    /// told by an answer that is still on its way. It drops the first by itself, but would take the second for new.
    pub fn outdate(&self, node: u64) {
        self.device.invalidate_node(node, false);
    }

    /// Close an open file: its backing file with the last open, the file itself if it has no name left.
    pub fn release(&self, handle: u64) {
        let Some(open) = self.handles.remove_file(handle) else { return };
        let inode = &open.inode;
        let idle = {
            let mut opens = inode.opens();
            opens.handles.retain(|(number, _)| *number != handle);
            opens.mappable -= usize::from(open.mappable);
            self.close_if_idle(&mut opens)
        };
        if open.mappable && self.negotiated.passthrough {
            // Stores changed its times without the kernel's attribute cache taking notice.
            self.outdate(inode.node);
        }
        if idle {
            self.forget_unnamed(inode, &open.file);
        }
    }

    /// End an open that did not come about.
    pub fn abandon_open(&self, inode: &Inode, file: Option<&OwnedFd>) {
        let idle = {
            let mut opens = inode.opens();
            opens.beginning -= 1;
            self.close_if_idle(&mut opens)
        };
        if let Some(file) = file
            && idle
        {
            self.forget_unnamed(inode, file);
        }
    }

    fn close_if_idle(&self, opens: &mut super::inodes::Opens) -> bool {
        let idle = opens.is_idle();
        if idle {
            if let OpenMode::Passthrough(id) = opens.mode {
                self.device.close_backing(id);
                self.backing_files.fetch_sub(1, Ordering::Relaxed);
            }
            opens.mode = OpenMode::Closed;
        }
        idle
    }

    /// The last open of a file goes: report it forgotten if its last name went before. `file` is still open, so that its
    /// number stays taken until then.
    fn forget_unnamed(&self, inode: &Inode, file: &OwnedFd) {
        let unnamed = || nix::sys::stat::fstat(file).is_ok_and(|stat| stat.st_nlink == 0);
        if unnamed() {
            let _namespace = self.volume.lock_namespace();
            if unnamed() {
                self.forget_if_gone(inode);
            }
        }
    }

    /// Take back what an answer gave that the kernel did not take.
    pub fn undo(&self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Lookup { node } => self.inodes.forget(node, 1),
            Undo::Open { handle } => self.release(handle),
            Undo::Create { node, handle } => {
                self.release(handle);
                self.inodes.forget(node, 1);
            }
            Undo::Entries { nodes } => nodes.into_iter().for_each(|node| self.inodes.forget(node, 1)),
        }
    }

    /// The connection is over: the queues end when the kernel has let go of them.
    pub fn close_queues(&self) {
        self.ports.get().into_iter().flatten().for_each(|port| port.close());
    }

    /// The connection is over: nobody will release what is still open.
    pub fn close_all(&self) {
        for handle in self.handles.files() {
            self.release(handle);
        }
    }
}

/// Attributes as the protocol shows them.
#[must_use]
pub fn attributes(stat: &FileStat) -> Attr {
    Attr {
        ino: stat.st_ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: stat.st_atime as u64,
        mtime: stat.st_mtime as u64,
        ctime: stat.st_ctime as u64,
        atimensec: stat.st_atime_nsec as u32,
        mtimensec: stat.st_mtime_nsec as u32,
        ctimensec: stat.st_ctime_nsec as u32,
        mode: stat.st_mode,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: encode_device(stat.st_rdev),
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

/// `new_encode_dev` (linux/kdev_t.h): how the protocol writes device numbers.
#[must_use]
pub fn encode_device(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The reverse of [`encode_device`].
#[must_use]
pub fn decode_device(device: u32) -> u64 {
    let major = (device & 0xf_ff00) >> 8;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    libc::makedev(major, minor)
}

/// Open flags of an answer whose data goes through the daemon.
pub const DIRECT: u32 = fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
