//! A node's machine as far as its disk: a file system on a disk whose power can be cut.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::crash_disk::{CrashDisk, Cut, Loss};
use super::image::Filesystem;
use super::records::Random;
use super::{exec, mount, place, wait};
use crate::setup;

/// A file system on such a disk, mounted while the machine is on; all of it is gone when it is dropped.
#[derive(Debug)]
pub struct Machine {
    disk: CrashDisk,
    image: PathBuf,
    served: PathBuf,
    point: PathBuf,
}

impl Machine {
    /// Make `<directory>/<name>.img` of `bytes`, and mount it, through its disk, on `<directory>/<name>`.
    ///
    /// # Errors
    /// No space, no loop device, no FUSE.
    pub fn new(directory: &Path, name: &str, filesystem: Filesystem, bytes: u64) -> Result<Machine> {
        setup::require(&[filesystem.maker(), "mount", "umount"])?;
        setup::require_loop()?;
        let image = directory.join(format!("{name}.img"));
        let file = File::create_new(&image).with_context(|| format!("create {}", image.display()))?;
        file.set_len(filesystem.at_least(bytes))?;
        drop(file);
        filesystem.make(&image)?;
        let (served, point) = (directory.join(format!("{name}.disk")), directory.join(name));
        fs::create_dir(&served)?;
        fs::create_dir(&point)?;
        let machine = Machine { disk: CrashDisk::new(&image, &served)?, image, served, point };
        machine.mount()?;
        Ok(machine)
    }

    /// Where its file system is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    fn mount(&self) -> Result<()> {
        let mut command = Command::new(setup::program("mount"));
        exec::run(command.args(["-o", "loop"]).arg(self.disk.file()).arg(&self.point))
    }

    /// The power is to fail in the middle of a write.
    pub fn fail_at(&self, blocks: usize, loss: Loss, random: Random) {
        self.disk.fail_at(blocks, loss, random);
    }

    /// These processes run on it: they stop with it, and say nothing of a disk that is off. They are to be killed then.
    pub fn set_running(&self, running: Vec<Pid>) {
        self.disk.set_running(running);
    }

    /// The power fails, if it has not. Whatever runs on the machine is to be killed then, and [`Machine::clear`] to be called.
    ///
    /// # Errors
    /// What survives cannot be kept.
    pub fn cut(&self, loss: Loss, random: &mut Random) -> Result<Cut> {
        self.disk.cut(loss, random)
    }

    /// Take away what the kernel still has of the file system of a machine that is off.
    ///
    /// # Errors
    /// Something still uses it.
    pub fn clear(&self) -> Result<()> {
        for gate in place::gates_below(&self.point)?.iter().rev() {
            exec::run(Command::new(setup::program("umount")).arg("-l").arg(gate))?;
        }
        let mut last = None;
        wait::until_uninterrupted("the file system of a dead machine to go", Duration::from_secs(30), || {
            last = exec::run(Command::new(setup::program("umount")).arg(&self.point)).err();
            Ok(last.is_none().then_some(()))
        })
        .map_err(|error| last.take().map_or(error, |last| last.context("30 s in vain")))
    }

    /// The power is back: what survived is mounted.
    ///
    /// # Errors
    /// The file system does not recover.
    pub fn power_on(&self) -> Result<()> {
        self.disk.power_on();
        self.mount().context("mount what survived a power cut")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for point in [&self.point, &self.served] {
            mount::take_away(point);
            let _ = fs::remove_dir(point);
        }
        let _ = fs::remove_file(&self.image);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::image::MIB;
    use crate::lab::place::Place;

    /// What was synced is there after a power cut, what was not is gone, on each file system.
    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: needs root");
            return;
        }
        let place = Place::new().unwrap();
        let mut random = Random::new(1);
        for filesystem in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs] {
            let machine = Machine::new(place.path(), filesystem.name(), filesystem, 64 * MIB).unwrap();
            for (number, loss) in [Loss::All, Loss::Some].into_iter().enumerate() {
                let (synced, lost) = (format!("synced{number}"), format!("lost{number}"));
                let file = File::create(machine.path().join(&synced)).unwrap();
                std::io::Write::write_all(&mut &file, synced.as_bytes()).unwrap();
                file.sync_all().unwrap();
                File::open(machine.path()).unwrap().sync_all().unwrap();
                fs::write(machine.path().join(&lost), "never synced").unwrap();
                drop(file);
                machine.cut(loss, &mut random).unwrap();
                assert!(
                    fs::write(machine.path().join("late"), "off")
                        .and_then(|()| { File::open(machine.path().join("late"))?.sync_all() })
                        .is_err()
                );
                machine.clear().unwrap();
                machine.power_on().unwrap();
                assert_eq!(fs::read(machine.path().join(&synced)).unwrap(), synced.as_bytes());
                if loss == Loss::All {
                    assert!(!machine.path().join(&lost).exists(), "{}", filesystem.name());
                }
            }
        }
    }
}
