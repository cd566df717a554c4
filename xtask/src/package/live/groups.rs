//! Control groups of the systems: each is given one, and what is below that is its systemd's.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::net::Namespace;
use crate::lab::place::Place;
use crate::lab::{exec, mount, wait};
use crate::setup;

/// What the names of network namespaces begin with, and so those of control groups.
const PREFIX: &str = "rpl";

/// The unified hierarchy, mounted for the trial; dropping it removes the groups that were given.
#[derive(Debug)]
pub struct Groups {
    point: PathBuf,
    given: std::cell::RefCell<Vec<PathBuf>>,
}

impl Groups {
    /// # Errors
    /// The kernel has no unified hierarchy.
    pub fn new(place: &Place) -> Result<Groups> {
        let point = place.path().join("groups");
        fs::create_dir(&point)?;
        let mut command = Command::new(setup::program("mount"));
        exec::run(command.args(["-t", "cgroup2", "groups"]).arg(&point))?;
        remove_dead(&point);
        Ok(Groups { point, given: std::cell::RefCell::default() })
    }

    /// Let a command, and all that comes of it, be in the group of a system on this network.
    ///
    /// # Errors
    /// The group cannot be made.
    pub fn enter(&self, network: &Namespace, command: &mut Command) -> Result<()> {
        let group = self.point.join(network.name());
        fs::create_dir_all(&group).with_context(|| format!("make {}", group.display()))?;
        let mut given = self.given.borrow_mut();
        if !given.contains(&group) {
            given.push(group.clone());
        }
        let mut processes = File::options().write(true).open(group.join("cgroup.procs"))?;
        // SAFETY: between fork and exec only write(2) is called, which is async-signal-safe; the file is open as long as the closure.
        unsafe {
            command.pre_exec(move || processes.write_all(b"0"));
        }
        Ok(())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.given.get_mut() {
            // A moment passes until the kernel has counted the last process out.
            let gone =
                wait::until_uninterrupted("a control group to be empty", Duration::from_secs(10), || {
                    Ok(remove(group).then_some(()))
                });
            if gone.is_err() {
                eprintln!("warning: the control group {} is left behind", group.display());
            }
        }
        mount::take_away(&self.point);
    }
}

/// Remove those of processes that are no more.
fn remove_dead(point: &Path) {
    let Ok(entries) = fs::read_dir(point) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')).map(|(pid, _)| pid);
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// A group and those below it; `false`: somebody is in one.
fn remove(group: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(group) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}
