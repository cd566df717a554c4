//! A file system in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{exec, mount};
use crate::setup;

/// A mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// Smallest image mkfs.xfs makes a file system in.
const XFS_MINIMUM: u64 = 320 * MIB;
/// Smallest image that is comfortable for btrfs.
const BTRFS_MINIMUM: u64 = 256 * MIB;

/// Which file system an image holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Filesystem {
    /// With journal, initialised when made.
    Ext4,
    /// Images are at least 320 MiB.
    Xfs,
    /// Images are at least 256 MiB.
    Btrfs,
}

impl Filesystem {
    /// The program that makes one.
    #[must_use]
    pub fn maker(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "mkfs.ext4",
            Filesystem::Xfs => "mkfs.xfs",
            Filesystem::Btrfs => "mkfs.btrfs",
        }
    }

    /// Its name, as on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
        }
    }

    /// The least size of an image, `bytes` or what the file system needs.
    #[must_use]
    pub fn at_least(self, bytes: u64) -> u64 {
        match self {
            Filesystem::Ext4 => bytes,
            Filesystem::Xfs => bytes.max(XFS_MINIMUM),
            Filesystem::Btrfs => bytes.max(BTRFS_MINIMUM),
        }
    }

    /// Make one in an image.
    ///
    /// # Errors
    /// Its maker refuses.
    pub fn make(self, image: &Path) -> Result<()> {
        exec::run(Command::new(setup::program(self.maker())).args(self.arguments()).arg(image))
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            // Nothing is left to be written in the background, where it would disturb a measurement.
            Filesystem::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Filesystem::Xfs => &["-q", "-f"],
            Filesystem::Btrfs => &["-q", "-f"],
        }
    }
}

/// A mounted file system in a sparse file; unmounted and deleted when dropped.
#[derive(Debug)]
pub struct LoopImage {
    file: PathBuf,
    point: PathBuf,
}

impl LoopImage {
    /// Make `<directory>/<name>.img` of `bytes` and mount it on `<directory>/<name>`.
    ///
    /// # Errors
    /// No space, no loop device, or the file system cannot be made or mounted.
    pub fn new(directory: &Path, name: &str, filesystem: Filesystem, bytes: u64) -> Result<LoopImage> {
        setup::require(&[filesystem.maker()])?;
        let image = LoopImage::at(directory, name);
        let file =
            File::create_new(&image.file).with_context(|| format!("create {}", image.file.display()))?;
        file.set_len(filesystem.at_least(bytes))?;
        drop(file);
        filesystem.make(&image.file)?;
        image.mount()
    }

    /// Copy an image to `<directory>/<name>.img`, as sparse as it is, and mount that on `<directory>/<name>`.
    ///
    /// # Errors
    /// No space, no loop device, or it cannot be mounted.
    pub fn copy(from: &Path, directory: &Path, name: &str) -> Result<LoopImage> {
        let image = LoopImage::at(directory, name);
        exec::run(Command::new("cp").args(["--sparse=always", "--"]).arg(from).arg(&image.file))?;
        image.mount()
    }

    fn at(directory: &Path, name: &str) -> LoopImage {
        LoopImage { file: directory.join(format!("{name}.img")), point: directory.join(name) }
    }

    fn mount(self) -> Result<LoopImage> {
        setup::require(&["mount", "umount"])?;
        setup::require_loop()?;
        fs::create_dir(&self.point)?;
        let mut command = Command::new(setup::program("mount"));
        exec::run(command.args(["-o", "loop"]).arg(&self.file).arg(&self.point))?;
        Ok(self)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for LoopImage {
    fn drop(&mut self) {
        mount::take_away(&self.point);
        let _ = fs::remove_dir(&self.point);
        let _ = fs::remove_file(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::place::{self, Place};

    #[test]
    fn every_file_system_is_made_mounted_and_gone() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: needs root");
            return;
        }
        let place = Place::new().unwrap();
        for filesystem in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs] {
            let image = LoopImage::new(place.path(), filesystem.name(), filesystem, 64 * MIB).unwrap();
            fs::write(image.path().join("file"), "bytes").unwrap();
            let path = image.path().to_owned();
            drop(image);
            assert!(!path.exists());
        }
        assert!(place::mounts_below(place.path()).unwrap().is_empty());
    }
}
