//! The small files of a cluster directory: read whole, replaced whole, and the directory itself made whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use zeroize::Zeroizing;

use super::error::MembershipError;

pub(super) const DESCRIPTION: &str = "cluster.toml";
pub(super) const AUTHORITY: &str = "authority.pem";
pub(super) const AUTHORITY_KEY: &str = "authority.key";
pub(super) const NODE: &str = "node.pem";
pub(super) const SECRETS: &str = "secrets";
pub(super) const MIRROR_KEY: &str = "mirror.key";
pub(super) const WITNESS_KEY: &str = "witness.key";
pub(super) const TOKEN: &str = "join-token";
const LOCK: &str = "lock";

/// No file of the directory is larger, in bytes.
pub(super) const FILE_BYTES_MAX: u64 = 64 << 10;

fn system(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> MembershipError {
    move |source| MembershipError::System { operation, path: path.to_owned(), source }
}

/// The lock of a directory; free again when dropped, and when the process ends.
pub(super) struct Locked {
    _lock: Flock<File>,
}

/// Wait until nobody else changes something in the directory. Others hold it for a few writes only.
pub(super) fn lock(directory: &Path) -> Result<Locked, MembershipError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
        .open(&path)
        .map_err(system("open", &path))?;
    let mut waiting = file;
    loop {
        match Flock::lock(waiting, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(Locked { _lock: lock }),
            Err((back, Errno::EINTR)) => waiting = back,
            Err((_, errno)) => return Err(system("lock", &path)(errno.into())),
        }
    }
}

/// Whether a path is there as a directory that only its owner can use.
pub(super) fn check_directory(directory: &Path) -> Result<(), MembershipError> {
    let found = match fs::metadata(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MembershipError::NotAMember { path: directory.to_owned() });
        }
        Err(error) => return Err(system("look at", directory)(error)),
    };
    if !found.is_dir() {
        return Err(MembershipError::NotAMember { path: directory.to_owned() });
    }
    private(directory, found.permissions().mode())
}

fn private(path: &Path, mode: u32) -> Result<(), MembershipError> {
    match mode & 0o7777 {
        mode if mode & 0o077 != 0 => Err(MembershipError::Exposed { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

/// A file's bytes, if there is one. It must be for its owner only.
pub(super) fn read(directory: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, MembershipError> {
    let path = directory.join(name);
    // A FIFO in its place must not block.
    let flags = OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system("open", &path)(error)),
    };
    private(&path, file.metadata().map_err(system("look at", &path))?.permissions().mode())?;
    // With its size from the start, no part of a secret is left behind where a growing vector was.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(system("read", &path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(MembershipError::FileTooLarge { path, limit: FILE_BYTES_MAX });
    }
    Ok(Some(bytes))
}

/// Put a file in the place of the one with the name, if any. Durable when this returns; the old one is there if it fails, or, if the
/// last step fails, one of both.
pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), MembershipError> {
    let (path, aside) = (directory.join(name), directory.join(format!(".{name}.new")));
    write(&aside, bytes)?;
    fs::rename(&aside, &path).map_err(system("replace", &path))?;
    sync_directory(directory)
}

/// Take a file away, durably; whether it was there.
pub(super) fn remove(directory: &Path, name: &str) -> Result<bool, MembershipError> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Ok(()) => sync_directory(directory).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(system("remove", &path)(error)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), MembershipError> {
    // What a crash left there, or somebody else put there, may be open elsewhere or have a wider mode: nothing is written into it.
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system("remove the remains", path)(error)),
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(system("create", path))?;
    file.write_all(bytes).map_err(system("write", path))?;
    file.sync_all().map_err(system("sync", path))
}

fn sync_directory(directory: &Path) -> Result<(), MembershipError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(system("sync the directory", directory))
}

/// A cluster directory in the making, beside its place. Dropped before it is put in place, it is removed.
#[derive(Debug)]
pub(super) struct Staging {
    aside: PathBuf,
    place: PathBuf,
    done: bool,
}

impl Staging {
    /// Begin. What a crash left of an earlier attempt is removed.
    pub(super) fn begin(place: &Path) -> Result<Staging, MembershipError> {
        let taken = || MembershipError::AlreadyAMember { path: place.to_owned() };
        let name = place.file_name().ok_or_else(taken)?;
        match fs::read_dir(place).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(taken()),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system("look at", place)(error)),
        }
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(system("create", parent))?;
        let mut aside = std::ffi::OsString::from(".");
        aside.push(name);
        aside.push(".new");
        let aside = parent.join(aside);
        match fs::remove_dir_all(&aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system("remove the remains", &aside)(error)),
        }
        DirBuilder::new().mode(0o700).create(&aside).map_err(system("create", &aside))?;
        Ok(Staging { aside, place: place.to_owned(), done: false })
    }

    /// Add a file.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), MembershipError> {
        write(&self.aside.join(name), bytes)
    }

    /// Put the directory in its place, durably, with all that was written.
    pub(super) fn finish(mut self) -> Result<(), MembershipError> {
        sync_directory(&self.aside)?;
        fs::rename(&self.aside, &self.place).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                MembershipError::AlreadyAMember { path: self.place.clone() }
            }
            _ => system("put in place", &self.place)(error),
        })?;
        self.done = true;
        let parent = self.place.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = fs::remove_dir_all(&self.aside)
        {
            tracing::debug!(path = %self.aside.display(), %error, "cannot remove what was begun; the next attempt does");
        }
    }
}
