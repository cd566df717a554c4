//! Small files: read whole, put in place whole and durably.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};

/// A step that failed, with its name.
#[derive(Debug)]
pub(super) struct Failed {
    /// "write", "sync", ...
    pub step: &'static str,
    /// Why.
    pub source: io::Error,
    /// Whether the new content may have taken the place of the old one and be lost again in a crash.
    pub in_doubt: bool,
}

fn before(step: &'static str) -> impl Fn(io::Error) -> Failed {
    move |source| Failed { step, source, in_doubt: false }
}

/// At most `most` bytes of a file, after they were made durable; `None` if there is none.
///
/// The sync is for what another process left: who was killed between the rename and the sync of the directory leaves a file that is
/// seen and can still be lost. Nothing may be said about it before that is over.
///
/// # Errors
/// The step that failed.
pub(super) fn read_durable(path: &Path, most: u64) -> Result<Option<Vec<u8>>, Failed> {
    // A FIFO in its place must not block.
    let flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(before("open")(error)),
    };
    let mut bytes = Vec::new();
    (&file).take(most).read_to_end(&mut bytes).map_err(before("read"))?;
    file.sync_all().map_err(before("sync"))?;
    if let Some(directory) = path.parent() {
        sync_directory(directory).map_err(before("sync the directory of"))?;
    }
    Ok(Some(bytes))
}

/// Put a file with these bytes, mode 0600, in the place of the one at `path`, if any. It is durable when the call returns; after a
/// crash at any moment the old one is there or the new one, whole.
///
/// # Errors
/// The step that failed, and whether that leaves it in doubt which one is there after a crash.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    // What a crash left of an earlier attempt. A new inode has no failed pages of an old one.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(before("make room for")(error)),
        _ => {}
    }
    let flags = O_CLOEXEC | O_NOFOLLOW;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(&aside)
        .map_err(before("create"))?;
    file.write_all(bytes).map_err(before("write"))?;
    file.sync_all().map_err(before("sync"))?;
    let after = |step| move |source| Failed { step, source, in_doubt: true };
    std::fs::rename(&aside, path).map_err(after("rename"))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    sync_directory(directory).map_err(after("sync the directory of"))
}

/// Make a directory, mode 0700, durable in the one above it. It may be there already.
///
/// # Errors
/// The step that failed.
pub(super) fn make_directory(path: &Path) -> Result<(), Failed> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(before("create")(error)),
        _ => {}
    }
    match path.parent() {
        Some(above) if above.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(above) => sync_directory(above),
        None => Ok(()),
    }
    .map_err(before("sync the directory of"))
}

/// Make the names in a directory durable.
///
/// # Errors
/// What the system returns.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
