//! What many scenarios do with files.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// Words in logs that losing the peer explains.
pub const PEER_LOST: &[&str] = &["peer", "session", "link", "connect", "alone"];

/// Words in logs that a killed daemon explains at its next start.
pub const CRASHED: &[&str] = &["crashed"];

/// Make a file with these bytes, fsync it and its directory.
///
/// # Errors
/// The file system refused.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    };
    write().with_context(|| format!("write and fsync {}", path.display()))
}

/// fsync of a directory.
///
/// # Errors
/// The file system refused.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Open for reading and writing, made if missing, with extra open(2) flags.
///
/// # Errors
/// The file system refused.
pub fn open(path: &Path, flags: i32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
    options.open(path).with_context(|| format!("open {}", path.display()))
}

/// Require that the copy of `name` holds, at this moment, the bytes the primary's file holds.
///
/// # Errors
/// It does not: an acknowledged write is not on the secondary.
pub fn require_copied(mirror: &Mirror, name: impl AsRef<Path>, when: &str) -> Result<()> {
    let name = name.as_ref();
    let (data, copy) = (mirror.data().join(name), mirror.copy().join(name));
    let copied = fs::read(&copy).with_context(|| format!("{when}: read the copy {}", copy.display()))?;
    let bytes = fs::read(&data).with_context(|| format!("{when}: read {}", data.display()))?;
    if copied != bytes {
        let same = copied.iter().zip(&bytes).take_while(|(one, other)| one == other).count();
        bail!(
            "{when}: {} has {} bytes and its copy {}; the first difference is at {same}",
            name.display(),
            bytes.len(),
            copied.len()
        );
    }
    Ok(())
}

/// A tree of small files: `directories` with `files` each, of 0 to `size` bytes, without any fsync.
///
/// # Errors
/// The file system refused.
pub fn plant(root: &Path, random: &mut Random, directories: u64, files: u64, size: u64) -> Result<()> {
    for directory in 0..directories {
        let directory = root.join(format!("d{directory}"));
        fs::create_dir_all(&directory)?;
        for file in 0..files {
            let length = random.below(size + 1) as usize;
            fs::write(directory.join(format!("f{file}")), random.bytes(length))?;
        }
    }
    Ok(())
}

/// renameat2(2) with flags.
///
/// # Errors
/// What it returns.
pub fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let result =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// fallocate(2).
///
/// # Errors
/// What it returns.
pub fn fallocate(file: &File, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    // SAFETY: fallocate takes no memory and the descriptor is open.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A crash of the primary of which nothing is known but that it happened: what it recorded is gone.
///
/// # Errors
/// It cannot be killed, or the record not be removed.
pub fn kill_without_a_record(mirror: &mut Mirror) -> Result<()> {
    mirror.primary.kill()?;
    mirror.primary.forget("activity.base")
}

/// The same of the secondary.
///
/// # Errors
/// As for the primary.
pub fn kill_secondary_without_a_record(mirror: &mut Mirror) -> Result<()> {
    mirror.secondary.kill()?;
    mirror.secondary.forget("register.base")
}

/// Everything was compared in the present session, at least so many bytes. Returns how many.
///
/// # Errors
/// It went on from an earlier one, does not say why not, or left something out.
pub fn require_all_compared(mirror: &mut Mirror, least: u64, when: &str) -> Result<u64> {
    let resync = mirror.primary.fresh_status()?.resync;
    ensure!(!resync.resumed && !resync.why.is_empty(), "{when}: resumed: {}", resync.why);
    ensure!(resync.bytes_compared >= least, "{when}: not everything was compared: {resync:?}");
    Ok(resync.bytes_compared)
}
