//! A disk whose power can be cut: a file served over FUSE, with a loop device and a file system on it.
//!
//! The loop driver turns each flush of the file system into an fsync of the file, so that the server knows what is stable
//! ([`store`]). At a power cut every request fails from then on; the file system above can only be unmounted. Under another
//! inode number the file then holds what survived, so that nothing the kernel kept of it is read again.

mod protocol;
mod store;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Pid;

use super::records::Random;
use super::wait;
use store::Store;
pub use store::{Cut, Loss};

/// The one file in the root of what is served.
const NAME: &str = "disk";
/// The name of its kind of file system in the mount table.
pub const KIND: &str = "fuse.crash-disk";
/// How long a write is waited for that is to be cut.
const PATIENCE: Duration = Duration::from_millis(300);

/// What the server and its owner share.
#[derive(Debug)]
struct Shared {
    store: Store,
    /// Starts of the machine: part of the file's inode number.
    starts: u64,
}

/// A disk, served until it is dropped.
#[derive(Debug)]
pub struct CrashDisk {
    point: PathBuf,
    shared: Arc<Mutex<Shared>>,
    server: Option<JoinHandle<()>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CrashDisk {
    /// Serve the content of `image` at `<point>/disk`; `point` is a directory.
    ///
    /// # Errors
    /// FUSE cannot be used here.
    pub fn new(image: &Path, point: &Path) -> Result<CrashDisk> {
        let stable = OpenOptions::new().read(true).write(true).open(image)?;
        let shared = Arc::new(Mutex::new(Shared { store: Store::new(stable)?, starts: 0 }));
        let device = File::options().read(true).write(true).open("/dev/fuse").context("open /dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("crash-disk"), point, Some(KIND), flags, Some(options.as_str()))
            .with_context(|| format!("mount a disk at {}", point.display()))?;
        let served = Arc::clone(&shared);
        let server = std::thread::spawn(move || protocol::serve(&device, &served));
        Ok(CrashDisk { point: point.to_owned(), shared, server: Some(server) })
    }

    /// The file to put a loop device on.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.point.join(NAME)
    }

    /// Let the power fail with the write that fills the cache with so many blocks; after a while without one, nothing is to be waited
    /// for.
    pub fn fail_at(&self, blocks: usize, loss: Loss, random: Random) {
        lock(&self.shared).store.fail_at(blocks, loss, random);
        let failed = || Ok(lock(&self.shared).store.is_off().then_some(()));
        // Whether it happened or not: the cut follows.
        let _ = wait::until_uninterrupted("the power to fail in a write", PATIENCE, failed);
    }

    /// These processes run on the machine, and stop when its power fails.
    pub fn set_running(&self, running: Vec<Pid>) {
        lock(&self.shared).store.set_running(running);
    }

    /// The power fails, if it has not failed yet.
    ///
    /// # Errors
    /// The image's own file system refuses.
    pub fn cut(&self, loss: Loss, random: &mut Random) -> Result<Cut> {
        lock(&self.shared).store.cut(loss, random).context("keep what survives a power cut")
    }

    /// The power is back.
    pub fn power_on(&self) {
        let mut shared = lock(&self.shared);
        shared.starts += 1;
        shared.store.power_on();
    }
}

impl Drop for CrashDisk {
    fn drop(&mut self) {
        // Ends the server, whose next read of the device fails.
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
        if let Some(server) = self.server.take() {
            // A loop device that is still there would keep it alive: then it ends with the process.
            if server.is_finished() {
                let _ = server.join();
            }
        }
    }
}
