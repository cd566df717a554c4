//! The state file of a node: the little that must survive a crash besides the files themselves.
//!
//! It is written aside, synced, renamed over the old one, and the directory synced: after a crash it is the old one or
//! the new one. What cannot be read or trusted is never taken for "equal": see [`Loaded`]. `docs/on-disk.md` has the
//! layout.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::fsync;
use replicator_core::action::{DataState, StateRecord};
use replicator_core::ids::{Generation, Term};

use super::activity::ActivityDirectory;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"RPLSTATE";
/// Version of the layout that this build reads and writes.
pub const VERSION: u32 = 1;
/// Length of the file in bytes.
pub const STATE_BYTES: usize = 80;

/// Where the checksum is, which covers all before it.
const CHECKSUM_AT: usize = STATE_BYTES - 4;
/// How many unusable files are kept aside.
const KEPT_MAX: u32 = 1000;

const FILE: &CStr = c"state";
const ASIDE: &CStr = c"state.new";
const LOCK: &CStr = c"lock";

const _: () = assert!(CHECKSUM_AT == 76);

/// What the state file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeState {
    /// The cluster this node belongs to.
    pub cluster: [u8; 16],
    /// This node.
    pub node: [u8; 16],
    /// What the core has to remember.
    pub record: StateRecord,
}

/// What was found at start.
#[derive(Debug)]
pub enum Loaded {
    /// There is no state file: this node starts for the first time. Its copy is [`DataState::Inconsistent`].
    First,
    /// The state.
    State(NodeState),
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
    #[error("the state has {found} bytes, not {STATE_BYTES}")]
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

impl NodeState {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(STATE_BYTES as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster);
        bytes[32..48].copy_from_slice(&self.node);
        bytes[48..56].copy_from_slice(&self.record.term.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.record.generation.0.to_le_bytes());
        bytes[64] = self.record.data as u8;
        bytes[65] = u8::from(self.record.alone);
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The state in a file's bytes.
    ///
    /// # Errors
    /// [`StateError`]: the version is looked at before the length and checksum, so that a newer file is known as one.
    pub fn decode(bytes: &[u8]) -> Result<NodeState, StateError> {
        let wrong_length = || StateError::WrongLength { found: bytes.len() };
        if bytes.first_chunk().ok_or_else(wrong_length)? != &MAGIC {
            return Err(StateError::NoMagic);
        }
        match u32::from_le_bytes(field(bytes, 8).ok_or_else(wrong_length)?) {
            VERSION => {}
            found if found > VERSION => return Err(StateError::Newer { found }),
            found => return Err(StateError::NoSuchVersion { found }),
        }
        let bytes: &[u8; STATE_BYTES] = bytes.try_into().map_err(|_| wrong_length())?;
        let get = |at| field(bytes, at).ok_or_else(wrong_length);
        let found = u32::from_le_bytes(field(bytes, CHECKSUM_AT).ok_or_else(wrong_length)?);
        let computed = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        if found != computed {
            return Err(StateError::Checksum { found, computed });
        }
        let meaning = |holds: bool, field| if holds { Ok(()) } else { Err(StateError::Field { field }) };
        meaning(bytes[12..16] == (STATE_BYTES as u32).to_le_bytes(), "length")?;
        meaning(bytes[66..CHECKSUM_AT].iter().all(|&byte| byte == 0), "reserved")?;
        meaning(bytes[65] <= 1, "alone")?;
        let data = [DataState::Inconsistent, DataState::Outdated, DataState::Consistent, DataState::UpToDate]
            .into_iter()
            .find(|data| *data as u8 == bytes[64])
            .ok_or(StateError::Field { field: "data" })?;
        Ok(NodeState {
            cluster: field(bytes, 16).ok_or_else(wrong_length)?,
            node: field(bytes, 32).ok_or_else(wrong_length)?,
            record: StateRecord {
                term: Term(u64::from_le_bytes(get(48)?)),
                generation: Generation(u64::from_le_bytes(get(56)?)),
                data,
                alone: bytes[65] == 1,
            },
        })
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
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

    /// Read the state. A file that cannot be used is renamed, so that it neither is overwritten nor read again.
    #[must_use]
    pub fn load(&self) -> Loaded {
        // One byte more than it may have, so that a longer one shows.
        let reason = match self.read(FILE, STATE_BYTES as u64 + 1) {
            Ok(None) => return Loaded::First,
            Ok(Some(bytes)) => match NodeState::decode(&bytes) {
                Ok(state) => return Loaded::State(state),
                Err(reason) => reason,
            },
            Err(source) => system("read", &self.path.join("state"))(source),
        };
        Loaded::Unusable { reason, kept: self.keep_aside() }
    }

    /// At most so many bytes of a file; `None` if there is none.
    pub(super) fn read(&self, name: &CStr, most: u64) -> io::Result<Option<Vec<u8>>> {
        // A FIFO in its place must not block.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match openat(self.directory.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
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
        let path = self.path.join(OsStr::from_bytes(aside.to_bytes()));
        let fail = |operation| system(operation, &path);
        let at = self.directory.as_fd();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(at, aside, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| fail("open")(errno.into()))?;
        let mut file = File::from(file);
        file.write_all(bytes).map_err(fail("write"))?;
        file.sync_all().map_err(fail("sync"))?;
        renameat(at, aside, at, name).map_err(|errno| fail("rename")(errno.into()))?;
        fsync(at).map_err(|errno| self.error("sync", errno.into()))
    }

    /// The activity log, which lies in the same directory.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn activity(&self) -> Result<ActivityDirectory, StateError> {
        let directory = self.directory.try_clone().map_err(|error| self.error("open", error))?;
        Ok(ActivityDirectory::new(directory))
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use replicator_core::ids::{Generation, Term};

    fn example() -> NodeState {
        NodeState {
            cluster: *b"cluster-id-16-by",
            node: *b"node-id-16-bytes",
            record: StateRecord {
                term: Term(0x0102_0304_0506_0708),
                generation: Generation(9),
                data: DataState::Consistent,
                alone: true,
            },
        }
    }

    fn directory() -> (tempfile::TempDir, StateDirectory) {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let state = StateDirectory::open(&parent.path().join("made/when/missing")).expect("open");
        (parent, state)
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let bytes = example().encode();
        assert_eq!(&bytes[..16], b"RPLSTATE\x01\0\0\0\x50\0\0\0");
        assert_eq!(&bytes[16..48], b"cluster-id-16-bynode-id-16-bytes");
        assert_eq!(&bytes[48..66], b"\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\0\0\0\0\x02\x01");
        assert_eq!(bytes[66..76], [0; 10]);
        assert_eq!(bytes[76..], crc32c::crc32c(&bytes[..76]).to_le_bytes());
    }

    #[test]
    fn a_missing_file_is_a_first_start_and_a_stored_one_comes_back() {
        let (_parent, directory) = directory();
        assert!(matches!(directory.load(), Loaded::First));
        let mut state = example();
        for term in 1..4 {
            state.record.term = Term(term);
            directory.store(&state).expect("store");
        }
        assert!(matches!(directory.load(), Loaded::State(loaded) if loaded == state));
    }

    type Expected = fn(&StateError) -> bool;

    #[test]
    fn an_unusable_file_is_kept_aside_and_reported() {
        let (_parent, directory) = directory();
        let file = directory.path.join("state");
        let mut newer = example().encode().to_vec();
        newer[8] = 2;
        newer.push(0);
        let cases: [(&[u8], Expected); 5] = [
            (b"", |e| matches!(e, StateError::WrongLength { found: 0 })),
            (b"something else entirely", |e| matches!(e, StateError::NoMagic)),
            (&example().encode()[..79], |e| matches!(e, StateError::WrongLength { found: 79 })),
            (&newer, |e| matches!(e, StateError::Newer { found: 2 })),
            (&[0; 80], |e| matches!(e, StateError::NoMagic)),
        ];
        for (number, (bytes, expected)) in cases.into_iter().enumerate() {
            fs::write(&file, bytes).expect("write");
            let Loaded::Unusable { reason, kept: Some(kept) } = directory.load() else {
                panic!("case {number} was taken for usable")
            };
            assert!(expected(&reason), "case {number}: {reason}");
            assert_eq!(fs::read(kept).expect("read"), bytes);
            assert!(matches!(directory.load(), Loaded::First));
        }
    }

    #[test]
    fn what_is_not_a_file_is_unusable() {
        let (_parent, directory) = directory();
        fs::create_dir(directory.path.join("state")).expect("mkdir");
        assert!(matches!(directory.load(), Loaded::Unusable { reason: StateError::System { .. }, .. }));
        nix::unistd::mkfifo(&directory.path.join("state"), Mode::S_IRWXU).expect("mkfifo");
        assert!(matches!(directory.load(), Loaded::Unusable { .. }));
    }

    #[test]
    fn two_daemons_cannot_share_it() {
        let (_parent, directory) = directory();
        assert!(matches!(StateDirectory::open(&directory.path), Err(StateError::InUse { .. })));
        let path = directory.path.clone();
        drop(directory);
        StateDirectory::open(&path).expect("open once it is free");
    }

    #[test]
    fn a_failure_to_store_is_final_and_leaves_the_old_state() {
        let (_parent, directory) = directory();
        directory.store(&example()).expect("store");
        let in_the_way = directory.path.join("state.new");
        fs::create_dir(&in_the_way).expect("mkdir");
        let other = NodeState { cluster: [1; 16], ..example() };
        assert!(matches!(directory.store(&other), Err(StateError::System { .. })));
        fs::remove_dir(&in_the_way).expect("rmdir");
        assert!(matches!(directory.store(&other), Err(StateError::Failed)));
        assert!(matches!(directory.load(), Loaded::State(state) if state == example()));
    }

    proptest! {
        #[test]
        fn any_change_of_bits_is_noticed(at in 0..STATE_BYTES, mask in 1_u8..) {
            let mut bytes = example().encode();
            bytes[at] ^= mask;
            prop_assert!(NodeState::decode(&bytes).is_err());
        }

        #[test]
        fn garbage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(NodeState::decode(&bytes).is_err());
        }
    }
}
