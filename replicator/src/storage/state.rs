//! The state file of a node: the little that must survive a crash besides the files themselves. Its bytes are in [`format`].
//!
//! It is written aside, synced, renamed over the old one, and the directory synced: after a crash it is the old one or
//! the new one. What cannot be read or trusted is never taken for "equal": see [`Loaded`]. `docs/on-disk.md` has the
//! layout.

mod format;

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::fsync;

use replicator_core::action::{DataState, StateRecord};
use replicator_core::ids::Term;

use super::activity::ActivityDirectory;
use super::own_files;
use super::register::RegisterDirectory;
pub use format::{MAGIC, NodeState, STATE_BYTES, VERSION};

/// How many unusable files are kept aside.
const KEPT_MAX: u32 = 1000;

const FILE: &CStr = c"state";
const ASIDE: &CStr = c"state.new";
const LOCK: &CStr = c"lock";
const DECISIONS: &CStr = c"decisions.log";

/// What was found at start.
#[derive(Debug)]
// There is one, at start.
#[allow(clippy::large_enum_variant)]
pub enum Loaded {
    /// There is no state file: this node starts for the first time. Its copy is [`DataState::Inconsistent`].
    First,
    /// The state.
    State(NodeState),
    /// A newer build wrote it, which is to be started instead: the file is left as it is.
    Newer {
        /// Its version.
        found: u32,
    },
    /// There is a state file, and it cannot be used: compare everything. It was renamed to `kept`, if that was possible.
    Unusable {
        /// Why not.
        reason: StateError,
        /// Where it is now.
        kept: Option<PathBuf>,
    },
}

/// What is wrong with a state file or its directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused.
    #[error("cannot {operation} {path}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The directory, or the file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon uses the directory.
    #[error("{path} is used by another daemon on this machine")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Written by a build that is newer than this one: start that one.
    #[error("the state has version {found}, this build knows up to {VERSION}")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It has a version that was never written.
    #[error("the state has version {found}, which never was")]
    NoSuchVersion {
        /// Its version.
        found: u32,
    },
    /// It has not the length that its version has.
    #[error("the state has {found} bytes, which its version never has")]
    WrongLength {
        /// Its length, as far as it was read.
        found: usize,
    },
    /// It does not begin with the magic number.
    #[error("it is no state file")]
    NoMagic,
    /// Its checksum does not hold.
    #[error("the state's checksum is {found:#010x}, its content has {computed:#010x}")]
    Checksum {
        /// As written in the file.
        found: u32,
        /// Over its content.
        computed: u32,
    },
    /// A field has a value that was never written.
    #[error("the state's field {field} has no meaning")]
    Field {
        /// Which field.
        field: &'static str,
    },
    /// An earlier attempt to make the state durable failed. That is final: a later success would say nothing about what
    /// the failed one left.
    #[error("the state could not be made durable before")]
    Failed,
}

/// The directory with a node's state file, locked against another daemon for as long as this lives.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    directory: OwnedFd,
    /// Whether an attempt to make the state durable failed; also makes stores one at a time.
    failed: Mutex<bool>,
    /// Its flock(2) is the lock.
    _lock: OwnedFd,
}

impl StateDirectory {
    /// Open the directory, which is made (for its owner only) if it is not there, and lock it.
    ///
    /// # Errors
    /// [`StateError::InUse`], or what the system says.
    pub fn open(path: &Path) -> Result<StateDirectory, StateError> {
        let fail = |operation| system(operation, path);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail("make"))?;
        let directory: OwnedFd = File::open(path).map_err(fail("open"))?.into();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let lock = openat(directory.as_fd(), LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| fail("open the lock in")(errno.into()))?;
        // SAFETY: flock takes no memory and the descriptor is open.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Err(StateError::InUse { path: path.to_owned() });
            }
            return Err(fail("lock")(error));
        }
        // An earlier run may have ended between a rename and its sync: what is found here is relied on from now on.
        fsync(directory.as_fd()).map_err(|errno| fail("sync")(errno.into()))?;
        Ok(StateDirectory { path: path.to_owned(), directory, failed: Mutex::new(false), _lock: lock })
    }

    /// What is on record of a node that is stopped, for whoever decides in which role it is started; `None`: it has never run. Nothing is changed,
    /// and the node cannot be started while this reads.
    ///
    /// # Errors
    /// [`StateError::InUse`]: it runs, and is to be asked for its status. What is wrong with the file.
    pub fn record_of_stopped(path: &Path) -> Result<Option<NodeState>, StateError> {
        if !path.try_exists().map_err(system("look at", path))? {
            return Ok(None);
        }
        let directory = StateDirectory::open(path)?;
        let bytes = directory.read(FILE, STATE_BYTES as u64 + 1);
        bytes.map_err(system("read", &path.join("state")))?.map(|bytes| NodeState::decode(&bytes)).transpose()
    }

    /// Mark a stopped node's copy durably as one that the other node may go on without, in this term. What cannot be used of its state is put aside: a
    /// copy of which nothing is known is not gone on from either. `ids`: whose state it is, if there is none.
    ///
    /// # Errors
    /// [`StateError::InUse`]: it runs. [`StateError::Newer`]. What the system says; then it is marked, or not.
    pub fn outdate_stopped(path: &Path, ids: ([u8; 16], [u8; 16]), term: Term) -> Result<(), StateError> {
        let directory = StateDirectory::open(path)?;
        let mut state = match directory.load() {
            Loaded::State(state) => state,
            Loaded::First => NodeState { cluster: ids.0, node: ids.1, record: StateRecord::unknown() },
            Loaded::Newer { found } => return Err(StateError::Newer { found }),
            Loaded::Unusable { .. } => {
                let record = StateRecord { lost: true, ..StateRecord::unknown() };
                NodeState { cluster: ids.0, node: ids.1, record }
            }
        };
        let record = &mut state.record;
        record.term = record.term.max(term);
        record.alone = false;
        record.data = record.data.min(DataState::Outdated);
        directory.store(&state)
    }

    /// Read the state. A file that cannot be used is renamed, so that it neither is overwritten nor read again.
    #[must_use]
    pub fn load(&self) -> Loaded {
        // One byte more than it may have, so that a longer one shows.
        let reason = match self.read(FILE, STATE_BYTES as u64 + 1) {
            Ok(None) => return Loaded::First,
            Ok(Some(bytes)) => match NodeState::decode(&bytes) {
                Ok(state) => return Loaded::State(state),
                Err(StateError::Newer { found }) => return Loaded::Newer { found },
                Err(reason) => reason,
            },
            Err(source) => system("read", &self.path.join("state"))(source),
        };
        Loaded::Unusable { reason, kept: self.keep_aside() }
    }

    /// At most so many bytes of a file; `None` if there is none.
    pub(super) fn read(&self, name: &CStr, most: u64) -> io::Result<Option<Vec<u8>>> {
        own_files::read(self.directory.as_fd(), name, most)
    }

    /// Rename the file to the first free name; `None` if that fails, after which a store overwrites it.
    fn keep_aside(&self) -> Option<PathBuf> {
        for number in 1..=KEPT_MAX {
            let name = format!("state.unusable.{number}");
            let at = self.directory.as_fd();
            match renameat2(at, FILE, at, name.as_str(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => return Some(self.path.join(name)),
                Err(Errno::EEXIST) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Make a state durable in place of the old one. When this returns, it survives a power cut.
    ///
    /// # Errors
    /// [`StateError::System`]: the old or the new state is there. [`StateError::Failed`] ever after.
    pub fn store(&self, state: &NodeState) -> Result<(), StateError> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(StateError::Failed);
        }
        let result = self.replace(FILE, ASIDE, &state.encode());
        *failed = result.is_err();
        result
    }

    /// Write a file aside and put it, durable, in the place of the one that has the name.
    pub(super) fn replace(&self, name: &CStr, aside: &CStr, bytes: &[u8]) -> Result<(), StateError> {
        let replaced = own_files::replace(self.directory.as_fd(), name, aside, bytes);
        let path = self.path.join(OsStr::from_bytes(aside.to_bytes()));
        replaced.map(drop).map_err(|(operation, source)| system(operation, &path)(source))
    }

    /// Append a line to the record of what operators decided, and make it durable.
    ///
    /// # Errors
    /// What the system says: whatever was decided is then not to be done.
    pub fn note_decision(&self, line: &str) -> Result<(), StateError> {
        let path = self.path.join(OsStr::from_bytes(DECISIONS.to_bytes()));
        let fail = |operation| system(operation, &path);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(self.directory.as_fd(), DECISIONS, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| fail("open")(errno.into()))?;
        let mut file = File::from(file);
        // A line for each, whatever a person wrote.
        let line: String =
            line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        file.write_all(format!("{line}\n").as_bytes()).map_err(fail("write"))?;
        file.sync_all().map_err(fail("sync"))?;
        fsync(self.directory.as_fd()).map_err(|errno| self.error("sync", errno.into()))
    }

    /// The activity log, which lies in the same directory.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn activity(&self) -> Result<ActivityDirectory, StateError> {
        let directory = self.directory.try_clone().map_err(|error| self.error("open", error))?;
        Ok(ActivityDirectory::new(directory))
    }

    /// The register, which lies there, too.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn register(&self) -> Result<RegisterDirectory, StateError> {
        let directory = self.directory.try_clone().map_err(|error| self.error("open", error))?;
        Ok(RegisterDirectory::new(directory))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(super) fn error(&self, operation: &'static str, source: io::Error) -> StateError {
        system(operation, &self.path)(source)
    }
}

fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::System { operation, path, source }
}

#[cfg(test)]
mod tests;
