//! File systems of their own, for the tests of several crates.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A file system in an image file, or in memory, gone in the end.
pub struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    /// `None` where this machine has not got that file system.
    pub fn of(filesystem: &str, megabytes: u64) -> Option<Image> {
        let image = Image { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(image.path()).unwrap();
        let succeeds = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        let mounted = if filesystem == "tmpfs" {
            succeeds(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(image.path()))
        } else {
            let file = image.directory.path().join("image");
            fs::File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
            let force = if filesystem == "ext4" { "-F" } else { "-f" };
            succeeds(Command::new(format!("mkfs.{filesystem}")).args(["-q", force]).arg(&file))
                && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(image.path()))
        };
        mounted.then_some(image)
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
