//! Where a lab stands, and how what a dead one left behind is found and cleared away.
//!
//! Every process that uses the lab has one directory `replicator-lab.<pid>` and locks a file in it. A directory whose
//! lock is free belongs to a dead process: its namespaces (`rpl<pid>-...`), their processes, its mounts and files go.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::{crash_disk, exec, net, wait};
use crate::setup;

/// Parent of all labs: on a disk (not a tmpfs) and reachable by every user, because PostgreSQL refuses to be root.
const PARENT: &str = "/var/tmp";
/// Names another parent. A tmpfs there takes the disk, and its noise, out of a measurement.
const PARENT_VARIABLE: &str = "REPLICATOR_LAB";
const PREFIX: &str = "replicator-lab.";

static ROOT: OnceLock<PathBuf> = OnceLock::new();
static LOCK: Mutex<Option<Flock<File>>> = Mutex::new(None);
static NEXT: AtomicU32 = AtomicU32::new(0);

fn parent() -> PathBuf {
    std::env::var_os(PARENT_VARIABLE).map_or_else(|| PathBuf::from(PARENT), PathBuf::from)
}

/// A directory of its own below this process's lab directory; removed when dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    number: u32,
}

impl Place {
    /// Make one. The first call of a process also clears away what dead ones left.
    ///
    /// # Errors
    /// Not root, or the directory cannot be made.
    pub fn new() -> Result<Place> {
        // Held to the end, so that no other `Place` takes the common directory away in between.
        let mut lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let root = root(&mut lock)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(number.to_string());
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Place { path, number })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name for a network namespace of this place; `side` tells them apart.
    #[must_use]
    pub fn namespace(&self, side: &str) -> String {
        format!("rpl{}-{}{side}", std::process::id(), self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.path) {
            eprintln!("warning: {} is left behind: {error:#}", self.path.display());
        }
        let mut lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = ROOT.get()
            && fs::read_dir(root).is_ok_and(|entries| entries.count() <= 1)
        {
            // Only the lock file is in it: the next `Place` of this process makes what it needs again.
            let _ = fs::remove_dir_all(root);
            *lock = None;
        }
    }
}

/// This process's directory, made and locked when it is not there.
fn root(lock: &mut Option<Flock<File>>) -> Result<&'static PathBuf> {
    let root = ROOT.get_or_init(|| parent().join(format!("{PREFIX}{}", std::process::id())));
    if lock.is_none() {
        setup::require_root("the lab (network namespaces, mounts, loop devices)")?;
        clear_dead();
        if root.exists() {
            // Of a dead process with the same number.
            clear(root)?;
        }
        fs::create_dir(root).with_context(|| format!("create {}", root.display()))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        let file = File::create(root.join("lock"))?;
        *lock = Some(
            Flock::lock(file, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, errno)| errno)
                .context("lock the lab's directory")?,
        );
    }
    Ok(root)
}

/// Clear away what dead labs left. Failures are reported, nothing more: they are not this run's.
pub fn clear_dead() {
    let Ok(entries) = fs::read_dir(parent()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if pid.parse() == Ok(std::process::id()) {
            continue;
        }
        let alive = match File::open(entry.path().join("lock")) {
            Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err(),
            // Being made at this moment, or its lock was cleared already.
            Err(_) => Path::new("/proc").join(pid).exists(),
        };
        if !alive {
            clear_process(pid, &entry.path());
        }
    }
}

/// Clear away everything of this process, however it stands: the last thing before an exit that runs no destructors.
pub fn clear_own() {
    if let Some(root) = ROOT.get() {
        clear_process(&std::process::id().to_string(), root);
    }
}

/// Clear away what the process `pid` left, after it was killed.
pub fn clear_of(pid: u32) {
    clear_process(&pid.to_string(), &parent().join(format!("{PREFIX}{pid}")));
}

fn clear_process(pid: &str, root: &Path) {
    for name in net::names() {
        if name.strip_prefix("rpl").and_then(|rest| rest.split('-').next()) == Some(pid) {
            net::remove(&name);
        }
    }
    if root.exists()
        && let Err(error) = clear(root)
    {
        eprintln!("warning: {} is left behind: {error:#}", root.display());
    }
}

/// Unmount everything below `path` and delete it. Never deletes across a mount.
fn clear(path: &Path) -> Result<()> {
    // Twice: a gate lies over a loop image's directory, and a lazy unmount shows what it covered.
    for _ in 0..2 {
        for point in mounts_below(path)?.iter().rev() {
            let _ = exec::run(Command::new(setup::program("umount")).arg("-l").arg(point));
        }
    }
    let left = mounts_below(path)?;
    if !left.is_empty() {
        bail!(
            "still mounted: {}",
            left.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    wait::until_uninterrupted("delete the lab's directory", Duration::from_secs(5), || {
        match fs::remove_dir_all(path) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(())),
            Err(_) => Ok(None),
        }
    })
    .or_else(|_| fs::remove_dir_all(path).map_err(Into::into))
}

/// Mount points at or below `path`, in the order in which they were mounted.
///
/// # Errors
/// The mount table cannot be read.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(mounts()?.into_iter().map(|(point, _)| point).filter(|point| point.starts_with(path)).collect())
}

/// Of those, the FUSE mounts.
///
/// # Errors
/// The mount table cannot be read.
pub fn gates_below(path: &Path) -> Result<Vec<PathBuf>> {
    let is_gate = |filesystem: &str| filesystem.starts_with("fuse") && filesystem != crash_disk::KIND;
    let gates = mounts()?.into_iter().filter(|(_, filesystem)| is_gate(filesystem));
    Ok(gates.map(|(point, _)| point).filter(|point| point.starts_with(path)).collect())
}

/// Every mount point and its file system's name (proc(5), mountinfo).
fn mounts() -> Result<Vec<(PathBuf, String)>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let entry = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        Some((PathBuf::from(front.split(' ').nth(4)?), back.split(' ').next()?.to_owned()))
    };
    Ok(table.lines().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::image::{Filesystem, LoopImage, MIB};
    use crate::lab::net::Pair;

    #[test]
    fn what_a_dead_process_left_is_cleared_away() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: needs root");
            return;
        }
        let place = Place::new().unwrap();
        let path = place.path().to_owned();
        let image = LoopImage::new(&path, "image", Filesystem::Ext4, 16 * MIB).unwrap();
        let pair = Pair::new(&place).unwrap();
        let names = [pair.a.name().to_owned(), pair.b.name().to_owned()];
        let mut command = Command::new("sleep");
        command.arg("1000");
        pair.a.enter(&mut command).unwrap();
        let mut child = command.spawn().unwrap();
        assert_eq!(mounts_below(&path).unwrap(), [image.path()]);
        // As if this process had died here: no destructor runs, and another one looks.
        std::mem::forget((pair, image));
        for name in &names {
            net::remove(name);
        }
        clear(&path).unwrap();
        assert!(!path.exists());
        assert!(mounts_below(&path).unwrap().is_empty());
        assert!(net::names().iter().all(|name| !names.contains(name)));
        assert!(!child.wait().unwrap().success());
    }
}
