//! Something mounted at a directory until it is dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{exec, wait};
use crate::setup;

/// Take away what is mounted at a point, if anything is: in order, or, if it stays in use, when who uses it is gone.
pub fn take_away(point: &Path) {
    let umount = |lazy: bool| {
        let mut command = Command::new(setup::program("umount"));
        if lazy {
            command.arg("-l");
        }
        exec::run(command.arg(point)).is_ok()
    };
    // Busy for a moment while the kernel ends what a killed process had begun; then by force.
    let unmounted =
        wait::until_uninterrupted("umount", Duration::from_secs(2), || Ok(umount(false).then_some(())));
    if unmounted.is_err() {
        umount(true);
    }
}

/// Take away everything that is mounted below a directory, the last first.
pub fn take_away_below(directory: &Path) {
    let Ok(table) = std::fs::read_to_string("/proc/self/mounts") else { return };
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let mut below: Vec<_> =
        points.filter(|point| *point != directory && point.starts_with(directory)).collect();
    below.reverse();
    below.into_iter().for_each(take_away);
}

/// A mount; taken away when dropped, also while it is in use.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// A file system in memory.
    ///
    /// # Errors
    /// mount(8) failed.
    pub fn memory(point: &Path) -> Result<Mounted> {
        Mounted::new(Command::new(setup::program("mount")).args(["-t", "tmpfs", "memory"]), point)
    }

    /// A directory a second time, without what is mounted below it.
    ///
    /// # Errors
    /// mount(8) failed.
    pub fn again(directory: &Path, point: &Path) -> Result<Mounted> {
        Mounted::new(Command::new(setup::program("mount")).arg("--bind").arg(directory), point)
    }

    fn new(mount: &mut Command, point: &Path) -> Result<Mounted> {
        exec::run(mount.arg(point))?;
        Ok(Mounted { point: point.to_owned() })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmount it in order.
    ///
    /// # Errors
    /// It is in use.
    pub fn unmount(&self) -> Result<()> {
        exec::run(Command::new(setup::program("umount")).arg(&self.point))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing is left to take away after an orderly unmount.
        let _ = exec::run(Command::new(setup::program("umount")).arg("-l").arg(&self.point));
    }
}
