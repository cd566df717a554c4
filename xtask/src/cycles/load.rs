//! What goes on in a cycle: records that are acknowledged, changes that nobody waits for, and files that are left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::wait;
use crate::lab::writers::{Found, Writers};
use crate::worker;

/// Longest time until the writers got so many records acknowledged.
const BOUND: Duration = Duration::from_secs(60);
/// Bytes of a file that is left alone, at most.
const QUIET: u64 = 32 << 10;
const QUIET_IN_DIRECTORY: u32 = 50;

/// Files that lie beside.
///
/// # Errors
/// The file system refused.
pub fn plant(data: &Path, files: u32) -> Result<()> {
    let mut random = Random::new(u64::from(files));
    for number in 0..files {
        let directory = data.join(format!("quiet{}", number / QUIET_IN_DIRECTORY));
        fs::create_dir_all(&directory)?;
        let length = random.below(QUIET) as usize;
        fs::write(directory.join(format!("file{number}")), random.bytes(length))?;
    }
    Ok(())
}

/// The load of one cycle, in a directory of its own.
pub struct Load {
    /// Its name below the mirrored directory.
    name: PathBuf,
    writers: Writers,
    scribbler: Child,
}

impl Load {
    /// # Errors
    /// A process cannot be started.
    pub fn start(mirror: &Mirror, cycle: u32, writers: u32) -> Result<Load> {
        let name = PathBuf::from(format!("load{cycle}"));
        let directory = mirror.data().join(&name);
        let scribbled = directory.join("scribbled");
        fs::create_dir_all(&scribbled)?;
        let writers = Writers::start(&mirror.net.a, &directory, "log", writers)?;
        let mut command = Command::new(worker::program()?);
        command.args(["worker", "scribble", "--seed", &cycle.to_string(), "--directory"]).arg(scribbled);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        mirror.net.a.enter(&mut command)?;
        let scribbler = command.spawn().context("start a scribbler")?;
        Ok(Load { name, writers, scribbler })
    }

    /// Wait until each writer got `more` records acknowledged.
    ///
    /// # Errors
    /// A writer ended, or it takes too long.
    pub fn wait_for(&mut self, more: u64) -> Result<()> {
        self.writers.wait_for(more, BOUND)
    }

    /// End it.
    ///
    /// # Errors
    /// A process cannot be waited for.
    pub fn end(&mut self) -> Result<()> {
        let _ = self.scribbler.kill();
        let scribbler = &mut self.scribbler;
        wait::until_uninterrupted("a killed scribbler to end", BOUND, || Ok(scribbler.try_wait()?))?;
        self.writers.end()
    }

    /// Hold what is below `root` against what was acknowledged. Only after [`Load::end`].
    ///
    /// # Errors
    /// An acknowledged record is missing.
    pub fn verify(&self, root: &Path) -> Result<Found> {
        self.writers.verify(&root.join(&self.name))
    }

    /// How many files and directories it left below `root`, and their bytes.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub fn touched(&self, root: &Path) -> Result<(u64, u64)> {
        let (mut entries, mut bytes) = (1, 0);
        let mut open = vec![root.join(&self.name)];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                entries += 1;
                if metadata.is_dir() {
                    open.push(entry.path());
                } else {
                    bytes += metadata.len();
                }
            }
        }
        Ok((entries, bytes))
    }

    /// Remove what it left.
    ///
    /// # Errors
    /// The file system refused.
    pub fn remove(&self, root: &Path) -> Result<()> {
        fs::remove_dir_all(root.join(&self.name)).context("remove what a cycle left")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.scribbler.kill();
        let _ = self.scribbler.wait();
    }
}
