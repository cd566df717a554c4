//! Directories to test in: on the file system of the machine, and on small ones of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use replicator_core::ids::VolumeId;
use tempfile::TempDir;

use crate::volume::Volume;

/// A temporary directory in which two volumes are made; `None`, with the reason on the output, where this machine
/// does not allow what the test needs.
pub(super) fn directory() -> Option<TempDir> {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: needs root (owners, devices, file handles)");
        return None;
    }
    Some(tempfile::tempdir().expect("a temporary directory"))
}

/// Open `name` in `parent` as a volume; made if it is not there.
pub(super) fn volume(parent: &Path, name: &str) -> Arc<Volume> {
    let path = parent.join(name);
    fs::create_dir_all(&path).expect("make the directory");
    Arc::new(Volume::open(VolumeId(0), &path).expect("open the volume"))
}

/// A mounted file system in a file, unmounted and deleted when dropped.
pub(super) struct Image {
    mounted: PathBuf,
    _directory: TempDir,
}

impl Image {
    /// Make a file system of `megabytes` with a command that gets the file's path as its last argument. `None`, with the
    /// reason on the output, where this machine cannot.
    pub(super) fn new(megabytes: u64, mkfs: &[&str]) -> Option<Image> {
        let directory = directory()?;
        let file = directory.path().join("image");
        let mounted = directory.path().join("mounted");
        fs::File::create(&file).and_then(|f| f.set_len(megabytes << 20)).expect("make the image");
        fs::create_dir(&mounted).expect("make the mount point");
        let quiet = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        if !quiet(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&file)) {
            println!("not run: {} does not work here", mkfs[0]);
            return None;
        }
        if !quiet(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&mounted)) {
            println!("not run: loop mounts do not work here");
            return None;
        }
        Some(Image { mounted, _directory: directory })
    }

    pub(super) fn ext4() -> Option<Image> {
        Image::new(128, &["mkfs.ext4", "-q", "-F", "-b", "4096"])
    }

    pub(super) fn xfs() -> Option<Image> {
        Image::new(320, &["mkfs.xfs", "-q", "-f"])
    }

    pub(super) fn path(&self) -> &Path {
        &self.mounted
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily, so that a descriptor which a failed test leaves open keeps nothing mounted.
        let done = Command::new("umount").arg("-l").arg(&self.mounted).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.mounted.display());
        }
    }
}

/// The inode number of a path, not following a symlink.
pub(super) fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("stat").ino()
}
