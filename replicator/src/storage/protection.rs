//! The secondary's directory protected against local writers: it is mounted over itself, read-only.
//!
//! The node goes on writing through the descriptors that it took before, which lie below that mount; whoever comes by the path
//! is refused with EROFS. The mount is made whole before it is seen (open_tree(2), mount_setattr(2), move_mount(2)): at no
//! moment is there one that lets writers through.
//!
//! A daemon that is killed leaves the mount behind. So its number is written to the state directory *before* it is attached,
//! and what is found there at the next start is taken away, if it still is such a mount. Another read-only mount is somebody
//! else's decision and stays.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::status::raw_statx;
use crate::boot;
use crate::mounts::{Mount, MountTable};
use crate::volume::Volume;

/// The file in the state directory: the boot's id, then the number of each mount, a line each.
const RECORD: &str = "protection";

/// What keeps a directory from being protected, or a protection from being taken away.
#[derive(Debug, thiserror::Error)]
pub enum ProtectionError {
    /// The system refused.
    #[error("mirror.protect-secondary: cannot {operation} {path}: {source}", path = path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else was mounted over the protection.
    #[error(
        "{path} was protected by a node that crashed, and something else is mounted over that; unmount it, then start again",
        path = path.display()
    )]
    Covered {
        /// The directory.
        path: PathBuf,
    },
}

/// Directories protected until this is dropped.
#[derive(Debug)]
pub struct Protection {
    record: PathBuf,
    mounts: Vec<(u32, PathBuf)>,
}

impl Protection {
    /// Protect the directories of volumes, which were opened before.
    ///
    /// # Errors
    /// [`ProtectionError::System`]; none is protected then.
    pub fn put(
        state_directory: &Path,
        volumes: &[impl AsRef<Volume>],
    ) -> Result<Protection, ProtectionError> {
        let record = state_directory.join(RECORD);
        let mut protection = Protection { record, mounts: Vec::new() };
        for volume in volumes.iter().map(AsRef::as_ref) {
            let fail = |operation| system(operation, &volume.path);
            let copy = read_only_copy(volume.root()).map_err(fail("make a read-only mount of"))?;
            let id = mount_id(copy.as_fd()).map_err(fail("find the mount of"))?;
            protection.mounts.push((id, volume.path.clone()));
            protection.write().map_err(system("write", &protection.record))?;
            attach(copy.as_fd(), volume.root()).map_err(fail("mount over"))?;
            tracing::info!(directory = %volume.path.display(), "protected against local writers");
        }
        Ok(protection)
    }

    fn write(&self) -> io::Result<()> {
        let mut text = fs::read_to_string(boot::FILE)?;
        for (id, _) in &self.mounts {
            text.push_str(&format!("{id}\n"));
        }
        fs::write(&self.record, text)
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        for (id, path) in &self.mounts {
            match lift(*id) {
                Ok(Some(_)) => tracing::info!(directory = %path.display(), "protected no more"),
                // Somebody else took it away, or it was never attached.
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "the directory stays read-only: unmount it"),
            }
        }
        let _ = fs::remove_file(&self.record);
    }
}

/// Take away the protection that a daemon with this state directory left when it was killed. Returns the directories.
///
/// # Errors
/// [`ProtectionError`]: the directory would stay read-only.
pub fn recover(state_directory: &Path) -> Result<Vec<PathBuf>, ProtectionError> {
    let record = state_directory.join(RECORD);
    let text = match fs::read_to_string(&record) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(system("read", &record)(error)),
    };
    let boot = fs::read_to_string(boot::FILE).map_err(system("read", Path::new(boot::FILE)))?;
    let mut lines = text.lines();
    let mut freed = Vec::new();
    // A mount does not outlive the boot, and its number may be another's after it.
    if lines.next() == Some(boot.trim_end()) {
        for id in lines.filter_map(|line| line.parse().ok()) {
            freed.extend(lift(id)?);
        }
    }
    fs::remove_file(&record).map_err(system("remove", &record))?;
    Ok(freed)
}

/// Unmount the protection with that number; `None` if there is none.
fn lift(id: u32) -> Result<Option<PathBuf>, ProtectionError> {
    let table = MountTable::read().map_err(system("read", Path::new("/proc/self/mountinfo")))?;
    let Some(mount) = table.mounts().iter().find(|mount| mount.id == id) else { return Ok(None) };
    let path = mount.point.clone();
    if !is_protection(&table, &path, id) {
        let covered = mount.is_read_only() && table.at(&path).is_some_and(|top| top.id != id);
        return if covered { Err(ProtectionError::Covered { path }) } else { Ok(None) };
    }
    // Readers that have something open go on with it.
    umount2(&path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
        .map_err(io::Error::from)
        .map_err(system("unmount", &path))?;
    Ok(Some(path))
}

/// Whether the topmost mount there is a directory mounted read-only over itself, with that number.
fn is_protection(table: &MountTable, point: &Path, id: u32) -> bool {
    table.over_itself(point).is_some_and(|(top, _): (&Mount, _)| top.id == id && top.is_read_only())
}

fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProtectionError {
    let path = path.to_owned();
    move |source| ProtectionError::System { operation, path, source }
}

/// A mount of a directory that is nowhere yet, read-only, and private: what is mounted inside later is seen by nobody else.
fn read_only_copy(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the path is an empty string that outlives the call; the descriptor that is returned belongs to nobody else.
    let copy = unsafe {
        let fd = libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), c"".as_ptr(), flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty string, `attributes` has the length that is told, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            copy.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(copy) }
}

/// Mount a detached mount exactly over an open directory.
fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            directory.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of a mount as the mount table shows it, attached or not.
fn mount_id(mount: BorrowedFd<'_>) -> io::Result<u32> {
    let raw = raw_statx(mount, c"", libc::AT_EMPTY_PATH, libc::STATX_MNT_ID)?;
    if raw.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    u32::try_from(raw.stx_mnt_id).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nix::mount::{MsFlags, mount};
    use replicator_core::ids::VolumeId;

    use super::*;

    struct Ground {
        directory: tempfile::TempDir,
        state: tempfile::TempDir,
        volume: Arc<Volume>,
    }

    impl Ground {
        /// `None`, said, where this process may not mount.
        fn new() -> Option<Ground> {
            if !nix::unistd::geteuid().is_root() {
                println!("not run: mounting needs root");
                return None;
            }
            let directory = tempfile::tempdir().unwrap();
            let volume = Arc::new(Volume::open(VolumeId(0), directory.path()).unwrap());
            Some(Ground { directory, state: tempfile::tempdir().unwrap(), volume })
        }

        fn path(&self) -> PathBuf {
            fs::canonicalize(self.directory.path()).unwrap()
        }

        fn put(&self) -> Protection {
            Protection::put(self.state.path(), &[Arc::clone(&self.volume)]).unwrap()
        }

        fn record(&self) -> PathBuf {
            self.state.path().join(RECORD)
        }

        fn write(&self, name: &str) -> io::Result<()> {
            fs::write(self.path().join(name), "by path")
        }

        fn write_below(&self, name: &str) {
            use nix::fcntl::{OFlag, openat};
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
            openat(self.volume.root(), name, flags, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
    }

    impl Drop for Ground {
        fn drop(&mut self) {
            while umount2(&self.path(), MntFlags::MNT_DETACH).is_ok() {}
        }
    }

    #[test]
    fn writers_by_path_are_refused_and_the_node_is_not() {
        let Some(ground) = Ground::new() else { return };
        let protection = ground.put();
        assert_eq!(ground.write("stranger").unwrap_err().raw_os_error(), Some(libc::EROFS));
        ground.write_below("own");
        assert!(ground.path().join("own").exists(), "readers see what the node writes");
        // By handle too, which is how the replica reaches its files.
        ground.volume.open_file(ground.volume.root_inode, libc::O_RDONLY).unwrap();
        drop(protection);
        ground.write("stranger").unwrap();
        assert!(!ground.record().exists());
    }

    #[test]
    fn what_a_killed_daemon_left_is_taken_away() {
        let Some(ground) = Ground::new() else { return };
        assert_eq!(recover(ground.state.path()).unwrap(), Vec::<PathBuf>::new());
        std::mem::forget(ground.put());
        assert!(ground.write("stranger").is_err());
        assert_eq!(recover(ground.state.path()).unwrap(), [ground.path()]);
        ground.write("stranger").unwrap();
        assert_eq!(recover(ground.state.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_others_mounted_stays() {
        let Some(ground) = Ground::new() else { return };
        let path = ground.path();
        let bind = |flags| mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>);
        bind(MsFlags::empty()).unwrap();
        bind(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY).unwrap();
        let boot = fs::read_to_string(boot::FILE).unwrap();
        // Not in the record; in the record of another boot.
        let id = MountTable::read().unwrap().at(&path).unwrap().id;
        for record in [format!("{boot}{}\n", id - 1), format!("another boot\n{id}\n")] {
            fs::write(ground.record(), record).unwrap();
            assert_eq!(recover(ground.state.path()).unwrap(), Vec::<PathBuf>::new());
            assert!(ground.write("stranger").is_err());
        }
        // In the record, and writable by now: whoever did that needs no help.
        bind(MsFlags::MS_REMOUNT).unwrap();
        fs::write(ground.record(), format!("{boot}{id}\n")).unwrap();
        assert_eq!(recover(ground.state.path()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(MountTable::read().unwrap().at(&path).unwrap().id, id);
    }

    #[test]
    fn a_protection_that_is_covered_is_told() {
        let Some(ground) = Ground::new() else { return };
        std::mem::forget(ground.put());
        let path = ground.path();
        mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let result = recover(ground.state.path());
        assert!(
            matches!(&result, Err(ProtectionError::Covered { path: told }) if *told == path),
            "{result:?}"
        );
        umount2(&path, MntFlags::MNT_DETACH).unwrap();
        assert_eq!(recover(ground.state.path()).unwrap(), [path]);
    }
}
