//! Strict files: those whose users rely on a sync that passthrough hides (`msync`, `RWF_DSYNC`). They are opened without it, so
//! that these calls come to the daemon and are held.
//!
//! Which files those are is learned: the daemon tells of each sync that was seen to pass the gate. It is kept in an extended
//! attribute of the file itself, which is mirrored like any other: so it follows the file through renames, ends with it,
//! and is there on the other node when that one becomes the primary. Names can be configured, too.
//!
//! A file changes over at its next *first* open, because the kernel refuses to mix both kinds of opens. It must have no
//! writable mapping then: a mapping made through passthrough is one of the file below, outlives its descriptor, and would not
//! agree with the gate's own page cache, through which a strict file is mapped.

use std::collections::HashMap;
use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use replicator_core::ids::FileKind;

use super::inodes::{Inode, OpenMode};
use super::server::Server;
use crate::patterns::NamePattern;
use crate::status::StrictStatus;
use crate::volume::{Volume, writers};

/// The extended attribute of a strict file. Its value says nothing. Root may set it and take it away.
pub const STRICT_ATTRIBUTE: &CStr = c"trusted.replicator.strict";

/// So long after an attempt to set the attribute that failed, no other is made.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// ioctl_iflags(2): writes are synchronous.
const FS_SYNC_FL: libc::c_int = 8;
/// Files named in a report.
const NAMED_MAX: usize = 8;

/// What is known of the strict files of a volume.
#[derive(Default, Debug)]
pub struct StrictFiles {
    patterns: Vec<NamePattern>,
    /// Files are marked when an unguarded sync is seen.
    learns: bool,
    state: Mutex<State>,
    server: OnceLock<Weak<Server>>,
}

#[derive(Default, Debug)]
struct State {
    /// By inode number: marked or found strict since the start.
    files: HashMap<u64, Known>,
    /// The file of the last unguarded sync.
    last: Option<u64>,
    last_path: String,
}

#[derive(Default, Debug)]
struct Known {
    /// It is to be strict. Else only its path is kept.
    strict: bool,
    /// Its attribute is set, or a pattern names it: it is strict after a restart, too.
    recorded: bool,
    /// When setting the attribute failed last.
    failed: Option<Instant>,
    /// Somebody is about to attend to it.
    attended: bool,
    /// Where it was when it was last looked at.
    path: String,
}

/// What is to be done about an unguarded sync that was seen, by somebody who may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Nothing: all is known.
    None,
    /// [`StrictFiles::attend`].
    Attend,
}

/// Where the kernel last found a file, kept only where patterns are configured.
#[derive(Default, Debug)]
pub struct KnownName {
    /// One of its names matched.
    matched: AtomicBool,
    /// Node of the directory, and the name.
    place: Mutex<Option<(u64, Box<[u8]>)>>,
}

impl StrictFiles {
    /// Strict files by these patterns, and, if it `learns`, those that are seen to be synced past the gate.
    #[must_use]
    pub fn new(patterns: Vec<NamePattern>, learns: bool) -> StrictFiles {
        StrictFiles { patterns, learns, ..StrictFiles::default() }
    }

    pub(super) fn attach(&self, server: Weak<Server>) {
        let _ = self.server.set(server);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sync of a file was seen that did not come through the gate. Quick; the file is strict from here on.
    pub fn seen(&self, inode: u64) -> Duty {
        let mut state = self.state();
        let moved = state.last.replace(inode) != Some(inode);
        let known = state.files.entry(inode).or_default();
        known.strict |= self.learns;
        let may_try = known.failed.is_none_or(|failed| failed.elapsed() > RETRY_AFTER);
        let to_do = known.path.is_empty() || (self.learns && !known.recorded && may_try);
        let duty = if to_do && !known.attended { Duty::Attend } else { Duty::None };
        known.attended |= to_do;
        if moved {
            state.last_path = state.files.get(&inode).map_or_else(String::new, |known| known.path.clone());
        }
        duty
    }

    /// Find out the file's path and mark it on disk. True if its attributes changed by that.
    pub fn attend(&self, volume: &Volume, inode: u64) -> bool {
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match volume.open_file(inode, flags) {
            Ok(file) => file,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => {
                // Gone, and so is its mark.
                self.forget(inode);
                return false;
            }
            Err(error) => {
                self.conclude(volume, inode, format!("inode {inode}"), Err(error));
                return false;
            }
        };
        let path = path_in(volume, &file).unwrap_or_else(|| format!("inode {inode}"));
        if !self.learns {
            self.conclude(volume, inode, path, Ok(false));
            return false;
        }
        let mut result = mark(&file);
        let changed = matches!(result, Ok(true));
        if changed && let Err(errno) = nix::unistd::fsync(&file) {
            result = Err(errno.into());
        }
        self.conclude(volume, inode, path, result);
        if changed && let Some(server) = self.server.get().and_then(Weak::upgrade) {
            // Setting the attribute changed the file's ctime.
            server.outdate(server.inodes.node_of(inode));
        }
        changed
    }

    /// Note how attending ended, and say it once.
    fn conclude(&self, volume: &Volume, inode: u64, path: String, result: io::Result<bool>) {
        let mut state = self.state();
        if state.last == Some(inode) {
            state.last_path.clone_from(&path);
        }
        let Some(known) = state.files.get_mut(&inode) else { return };
        known.path.clone_from(&path);
        known.attended = false;
        let before = known.failed;
        match &result {
            Ok(_) => (known.recorded, known.failed) = (self.learns, None),
            Err(_) => known.failed = Some(Instant::now()),
        }
        drop(state);
        let volume = volume.path.display();
        match result {
            Ok(true) => tracing::info!(
                %volume, file = path, inode,
                "a sync passed the gate (msync or RWF_DSYNC): the file is strict from its next first open on"
            ),
            Ok(false) => {}
            Err(error) if before.is_none() => tracing::warn!(
                %volume, file = path, inode, %error,
                "a strict file cannot be marked: it is strict until the daemon ends, and then has to be seen again"
            ),
            Err(_) => {}
        }
    }

    /// The file exists no more.
    pub(super) fn forget(&self, inode: u64) {
        self.state().files.remove(&inode);
    }

    /// A file has this name in the directory with that node.
    pub(super) fn note_name(&self, server: &Server, inode: &Inode, parent: u64, name: &[u8]) {
        if self.patterns.is_empty() || inode.kind != FileKind::Regular {
            return;
        }
        if self.name_matches(server, parent, name) {
            inode.name.matched.store(true, Ordering::Relaxed);
        }
        *inode.name.place.lock().unwrap_or_else(PoisonError::into_inner) = Some((parent, name.into()));
    }

    fn name_matches(&self, server: &Server, parent: u64, name: &[u8]) -> bool {
        if self.patterns.iter().any(|pattern| !pattern.has_slash() && pattern.matches(name)) {
            return true;
        }
        if !self.patterns.iter().any(NamePattern::has_slash) {
            return false;
        }
        // A directory that cannot be found holds no name any more.
        let Ok((_, directory)) = server.directory(parent) else { return false };
        let Some(mut path) = bytes_in(&server.volume, &directory) else { return false };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.patterns.iter().any(|pattern| pattern.has_slash() && pattern.matches(&path))
    }

    /// Whether one of the file's names matched, or does now that directories may have been renamed.
    fn is_named(&self, server: &Server, inode: &Inode) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        if inode.name.matched.load(Ordering::Relaxed) {
            return true;
        }
        let place = inode.name.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        place.is_some_and(|(parent, name)| self.name_matches(server, parent, &name))
    }

    /// Whether a file is to be strict, by a descriptor of it (not O_PATH).
    pub(super) fn wants(&self, server: &Server, inode: &Inode, file: &OwnedFd) -> bool {
        let recorded = self.is_named(server, inode) || is_marked(file);
        self.is_strict(server, inode, file, recorded)
    }

    /// Whether a file that was just made is to be strict: it bears no attribute yet.
    pub(super) fn wants_made(&self, server: &Server, inode: &Inode, file: &OwnedFd) -> bool {
        self.is_strict(server, inode, file, self.is_named(server, inode))
    }

    fn is_strict(&self, server: &Server, inode: &Inode, file: &OwnedFd, recorded: bool) -> bool {
        let mut state = self.state();
        match state.files.get_mut(&inode.number) {
            Some(known) if known.strict && known.recorded && !recorded => {
                // Root took the attribute away.
                (known.strict, known.recorded) = (false, false);
                false
            }
            Some(known) => {
                known.strict |= recorded;
                known.recorded |= recorded;
                known.strict
            }
            None if recorded => {
                let path = path_in(&server.volume, file).unwrap_or_else(|| format!("inode {}", inode.number));
                let known = Known { strict: true, recorded: true, path, ..Known::default() };
                state.files.insert(inode.number, known);
                true
            }
            None => false,
        }
    }

    /// What is known now.
    pub(super) fn report(&self, server: &Server) -> StrictStatus {
        let state = self.state();
        let mut report = StrictStatus { last_unguarded: state.last_path.clone(), ..StrictStatus::default() };
        let mut strict: Vec<(u64, String)> = Vec::new();
        for (inode, known) in state.files.iter().filter(|(_, known)| known.strict) {
            report.unrecorded += u64::from(!known.recorded);
            strict.push((*inode, known.path.clone()));
        }
        // Never this lock and a file's at once.
        drop(state);
        report.files = strict.len() as u64;
        for (number, path) in strict {
            let Ok(inode) = server.inodes.get(server.inodes.node_of(number)) else { continue };
            let mode = inode.opens().mode;
            match mode {
                OpenMode::Passthrough(_) => {
                    report.waiting += 1;
                    report.waiting_paths.push(path);
                }
                OpenMode::Cached | OpenMode::Direct => report.held += 1,
                OpenMode::Closed => {}
            }
        }
        report.waiting_paths.sort_unstable();
        report.waiting_paths.truncate(NAMED_MAX);
        report
    }
}

/// Set the attribute. True if it was not there.
fn mark(file: &OwnedFd) -> io::Result<bool> {
    // SAFETY: the name is NUL-terminated, the value readable for its length; both outlive the call.
    let result = unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            STRICT_ATTRIBUTE.as_ptr(),
            b"1".as_ptr().cast(),
            1,
            libc::XATTR_CREATE,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EEXIST) { Ok(false) } else { Err(error) };
    }
    Ok(true)
}

/// Whether the attribute is there. Where that cannot be told, it is: strict is slower and always right.
fn is_marked(file: &OwnedFd) -> bool {
    // SAFETY: the name is NUL-terminated; a size of 0 asks for the length and writes nothing.
    let length =
        unsafe { libc::fgetxattr(file.as_raw_fd(), STRICT_ATTRIBUTE.as_ptr(), std::ptr::null_mut(), 0) };
    let none = [Some(libc::ENODATA), Some(libc::ENOTSUP)];
    length >= 0 || !none.contains(&io::Error::last_os_error().raw_os_error())
}

/// Whether each write of a file is a promise of durability by itself: `chattr +S`, or a file system mounted `sync`.
pub(super) fn is_synchronous(file: &OwnedFd) -> bool {
    let mut flags: libc::c_int = 0;
    // SAFETY: the call writes one int (ioctl_iflags(2)), which outlives it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut flags) };
    if result == 0 && flags & FS_SYNC_FL != 0 {
        return true;
    }
    nix::sys::statvfs::fstatvfs(file)
        .is_ok_and(|volume| volume.flags().contains(nix::sys::statvfs::FsFlags::ST_SYNCHRONOUS))
}

/// Whether a file is surely not open for writing by anybody. The caller has no descriptor for writing on it. What cannot be told counts as
/// "no".
pub(super) fn has_no_writer(volume: &Volume, inode: &Inode) -> bool {
    inode.open(volume, OFlag::O_RDONLY | OFlag::O_NOATIME).is_ok_and(|file| writers::is_free_of(file.as_fd()))
}

/// A file's path from the volume's root, empty for the root itself. `None` where it has none, or the kernel cannot tell.
fn bytes_in(volume: &Volume, file: &impl AsFd) -> Option<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let path: OsString = nix::fcntl::readlink(link.as_str()).ok()?;
    let below = Path::new(&path).strip_prefix(&volume.path).ok()?;
    Some(PathBuf::from(below).into_os_string().into_vec())
}

/// The same for people.
fn path_in(volume: &Volume, file: &impl AsFd) -> Option<String> {
    let path = bytes_in(volume, file).filter(|path| !path.is_empty())?;
    Some(String::from_utf8_lossy(&path).into_owned())
}
