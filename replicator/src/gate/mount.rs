//! The mount itself: put over the directory, found again, taken away; also one that a crashed daemon left.

use std::ffi::{CString, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, io, thread};

use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::fstat;

use super::device::Device;
use crate::volume::Volume;

/// Type of the mount, by which it is known again: FUSE with the subtype `replicator`.
pub const FILESYSTEM_TYPE: &str = "fuse.replicator";
/// First column of the mount table. Not a file's name.
const SOURCE: &str = "replicator";
/// Where the kernel lets connections be aborted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// How long a living daemon may take to answer the question whether it lives.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Mounts of crashed daemons on top of each other that are taken away in one go.
const STACKED_MOUNTS_MAX: usize = 16;

/// Symlinks followed to find a directory (as the kernel does, path_resolution(7)).
const SYMLINKS_MAX: usize = 40;

/// A line of /proc/self/mountinfo (proc(5)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// Its number.
    pub id: u32,
    /// Minor device number: for FUSE also the number of the connection.
    pub minor: u32,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its type, with subtype.
    pub filesystem: String,
}

impl MountEntry {
    fn parse(line: &str) -> Option<MountEntry> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ');
        let id = front.next()?.parse().ok()?;
        let minor = front.nth(1)?.split_once(':')?.1.parse().ok()?;
        let point = unescape(front.nth(1)?);
        Some(MountEntry { id, minor, point, filesystem: back.split(' ').next()?.to_owned() })
    }
}

/// The kernel writes space, tab, newline and backslash as octal escapes.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = if *first == b'\\' {
            tail.get(..3)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        } else {
            None
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Mounts on this path, the topmost last.
fn mounts_at(path: &Path) -> io::Result<Vec<MountEntry>> {
    let table = fs::read(format!("/proc/{}/mountinfo", "self"))?;
    Ok(String::from_utf8_lossy(&table)
        .lines()
        .filter_map(MountEntry::parse)
        .filter(|entry| entry.point == path)
        .collect())
}

/// Mount the connection over the volume's directory, with the covered mount's own restrictions.
///
/// # Errors
/// What mount(2) returns; ENOENT if the mount cannot be found afterwards.
pub fn attach(volume: &Volume, device: &Device) -> io::Result<MountEntry> {
    let root = volume.root();
    let mode = fstat(root)?.st_mode;
    // The subtype also shows in the mount table. Permissions are the kernel's business, everybody may come in.
    let options = format!(
        "fd={},rootmode={mode:o},user_id=0,group_id=0,default_permissions,allow_other",
        device.fd().as_raw_fd()
    );
    // Through the descriptor: exactly over the directory that was opened, wherever its path leads meanwhile.
    let target = format!("/proc/self/fd/{}", root.as_raw_fd());
    nix::mount::mount(
        Some(SOURCE),
        target.as_str(),
        Some(FILESYSTEM_TYPE),
        covered_flags(volume)?,
        Some(options.as_str()),
    )?;
    mounts_at(&volume.path)?
        .pop()
        .filter(|entry| entry.filesystem == FILESYSTEM_TYPE)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

fn covered_flags(volume: &Volume) -> io::Result<MsFlags> {
    // SAFETY: all-zero is a statvfs, which is integers throughout.
    let mut stat: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` outlives the call.
    if unsafe { libc::fstatvfs64(volume.root().as_raw_fd(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let pairs = [
        (libc::ST_RDONLY, MsFlags::MS_RDONLY),
        (libc::ST_NOSUID, MsFlags::MS_NOSUID),
        (libc::ST_NODEV, MsFlags::MS_NODEV),
        (libc::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (libc::ST_NOATIME, MsFlags::MS_NOATIME),
        (libc::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (libc::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let mut flags = MsFlags::empty();
    for (bit, flag) in pairs {
        if stat.f_flag & bit != 0 {
            flags |= flag;
        }
    }
    if !flags.intersects(MsFlags::MS_NOATIME | MsFlags::MS_RELATIME) {
        flags |= MsFlags::MS_STRICTATIME;
    }
    Ok(flags)
}

/// What became of an attempt to take the mount away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detached {
    /// It is gone, nobody used it.
    Clean,
    /// It is gone from the tree; whoever had something open in it goes on until the last close.
    Lazily,
    /// It was not there any more.
    Absent,
}

/// Take the mount away from the tree.
///
/// # Errors
/// EBUSY where another mount lies over it; else what umount2(2) returns.
pub fn detach(mount: &MountEntry) -> io::Result<Detached> {
    let there = mounts_at(&mount.point)?;
    match there.last() {
        Some(top) if top.id == mount.id => {}
        _ if there.iter().any(|entry| entry.id == mount.id) => {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        _ => return Ok(Detached::Absent),
    }
    match nix::mount::umount2(&mount.point, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Detached::Clean),
        Err(nix::Error::EBUSY) => {
            nix::mount::umount2(&mount.point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?;
            Ok(Detached::Lazily)
        }
        Err(nix::Error::EINVAL) => Ok(Detached::Absent),
        Err(errno) => Err(errno.into()),
    }
}

/// End a connection whatever is under way: all its callers get ECONNABORTED.
///
/// # Errors
/// What writing to the control file returns.
pub fn abort(mount: &MountEntry) -> io::Result<()> {
    let control = Path::new(CONNECTIONS).join(mount.minor.to_string()).join("abort");
    if !control.exists() {
        // Not mounted everywhere; this is where it belongs.
        nix::mount::mount(
            Some("fusectl"),
            CONNECTIONS,
            Some("fusectl"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            None::<&str>,
        )?;
    }
    fs::write(control, b"1")
}

/// What was found over a directory at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovered {
    /// Nothing of ours.
    Clean,
    /// So many mounts of dead daemons, which were taken away.
    Removed(usize),
}

/// Why a directory cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A daemon is alive on it.
    #[error("{path} is served by a living replicator daemon; stop it first")]
    Served {
        /// The directory.
        path: PathBuf,
    },
    /// Whether a daemon is alive on it cannot be told.
    #[error("{path} is a replicator mount whose daemon does not answer; stop or kill that daemon first")]
    Silent {
        /// The directory.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {path}: {source}")]
    System {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Take away what a crashed daemon left mounted over `path`, so that the directory itself can be opened.
///
/// # Errors
/// [`RecoverError`]: a daemon is alive there, or the mount cannot be taken away.
pub fn recover(path: &Path) -> Result<Recovered, RecoverError> {
    let system = |operation| {
        let path = path.to_owned();
        move |source| RecoverError::System { path, operation, source }
    };
    let point = resolve(path).map_err(system("find"))?;
    for removed in 0..STACKED_MOUNTS_MAX {
        let top = mounts_at(&point).map_err(system("find mounts on"))?.pop();
        if top.is_none_or(|top| top.filesystem != FILESYSTEM_TYPE) {
            return Ok(if removed == 0 { Recovered::Clean } else { Recovered::Removed(removed) });
        }
        match answers(&point) {
            Some(Err(error)) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            }
            Some(_) => return Err(RecoverError::Served { path: point }),
            None => return Err(RecoverError::Silent { path: point }),
        }
        nix::mount::umount2(&point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
            .map_err(io::Error::from)
            .map_err(system("unmount"))?;
        tracing::warn!(path = %point.display(), "a mount left by a crashed daemon was taken away");
    }
    Err(system("unmount all of what is mounted on")(io::Error::from_raw_os_error(libc::EBUSY)))
}

/// The path as the mount table shows it. The last part may be dead, so it is not looked at unless it is a symlink.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..SYMLINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
        let parent = fs::canonicalize(parent)?;
        let point = parent.join(name);
        match fs::read_link(&point) {
            Ok(target) => path = parent.join(target),
            Err(_) => return Ok(point),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Whether somebody answers for the file system at `path`; `None` if nobody does so in time.
fn answers(path: &Path) -> Option<io::Result<()>> {
    let (sender, receiver) = mpsc::channel();
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // A thread of its own: the question is a request to that daemon and may wait for ever.
    thread::Builder::new()
        .name("gate-recover".to_owned())
        .spawn(move || {
            // SAFETY: all-zero is a statfs, which is integers throughout.
            let mut stat: libc::statfs64 = unsafe { std::mem::zeroed() };
            // SAFETY: the path is NUL-terminated, `stat` outlives the call.
            let result = unsafe { libc::statfs64(path.as_ptr(), &raw mut stat) };
            let answer = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
            let _ = sender.send(answer);
        })
        .ok()?;
    receiver.recv_timeout(ANSWER_TIME).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_lines_are_understood() {
        let line = "36 35 0:98 / /mnt/with\\040space rw,noatime shared:1 - fuse.replicator replicator rw,allow_other";
        let entry = MountEntry::parse(line).unwrap();
        assert_eq!(entry.id, 36);
        assert_eq!(entry.minor, 98);
        assert_eq!(entry.point, Path::new("/mnt/with space"));
        assert_eq!(entry.filesystem, FILESYSTEM_TYPE);
        assert_eq!(MountEntry::parse("nonsense"), None);
        assert_eq!(unescape("\\"), Path::new("\\"));
        assert_eq!(unescape("a\\999"), Path::new("a\\999"));
    }
}
