//! A package is installed on small Debian systems, each with a systemd that runs, and used there as an operator would: by units.
//!
//! ```text
//!   third 10.77.0.3 (witness) ---- switch ---- alpha 10.77.0.1, beta 10.77.0.2
//!                                              alpha 10.78.0.1 --- beta 10.78.0.2
//! ```

mod cluster;
mod groups;
mod mirror;
mod remove;
mod root;
mod system;

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use super::{Package, tree};
use crate::lab::interrupt;
use crate::lab::net::Lan;
use crate::lab::place::Place;
use crate::setup;

use groups::Groups;
use system::System;

/// Where the package lies on each system.
const FILE: &str = "/root/replicator.deb";
/// The nodes of the cluster.
const ALPHA: usize = 0;
const BETA: usize = 1;
/// The machine of the witness.
const THIRD: usize = 2;

/// Dropping it takes everything down.
#[derive(Debug)]
struct Site {
    // Dropped in this order: systems with all that runs on them, their control groups, networks, the directory.
    systems: [System; 3],
    groups: Groups,
    lan: Lan,
    _place: Place,
}

/// Try a package.
///
/// # Errors
/// What is not as it should be.
pub fn run(package: &Package) -> Result<()> {
    if let Some(why) = missing() {
        println!("not run: {why}");
        return Ok(());
    }
    interrupt::watch();
    let image = match root::image() {
        Ok(image) => image,
        Err(error) => {
            println!("not run: a Debian system cannot be made here: {error:#}");
            return Ok(());
        }
    };
    let mut site = Site::new(&image)?;
    let result = site.try_it(package);
    if result.is_err() {
        site.tell();
    }
    println!("passed: {}", result?);
    Ok(())
}

/// Why it cannot be run here.
fn missing() -> Option<String> {
    let needed = ["ip", "mount", "umount", "unshare", "nsenter", "pivot_root", "mkfs.ext4"];
    [
        setup::require_root("systems of their own"),
        setup::require(&needed),
        setup::require_fuse(),
        setup::require_loop(),
    ]
    .into_iter()
    .find_map(Result::err)
    .map(|error| format!("{error:#}"))
}

impl Site {
    fn new(image: &std::path::Path) -> Result<Site> {
        let place = Place::new()?;
        let lan = Lan::new(&place, &["alpha", "beta", "third"])?;
        let groups = Groups::new(&place)?;
        let system = |name| System::new(name, image, &place);
        let systems = [system("alpha")?, system("beta")?, system("third")?];
        Ok(Site { systems, groups, lan, _place: place })
    }

    fn try_it(&mut self, package: &Package) -> Result<String> {
        for number in [ALPHA, BETA, THIRD] {
            self.switch_on(number)?;
        }
        println!("three systems are up, with {}", self.version()?);
        for system in &self.systems {
            install(system, package).with_context(|| format!("install on {}", system.name))?;
        }
        mirror::run(self).context("a mirror without a cluster")?;
        println!("a mirror without a cluster was started and stopped");
        cluster::run(self)?;
        Ok(format!("installed, used, upgraded and removed under {}", self.version()?))
    }

    fn switch_on(&mut self, number: usize) -> Result<()> {
        self.systems[number].start(&self.lan.hosts[number], &self.groups)
    }

    fn version(&self) -> Result<String> {
        let said = self.systems[ALPHA].run(&["systemctl", "--version"])?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }

    /// For who looks for a fault: what the units wrote last.
    fn tell(&self) {
        for system in &self.systems {
            eprintln!("---- the journal of {}:\n{}", system.name, system.journal("replicator*"));
            for module in ["mirror", "served"] {
                let events = system.try_run(&["replicator", "module", "events", module]).unwrap_or_default();
                eprintln!("---- {module} on {}:\n{events}", system.name);
            }
        }
    }
}

/// What it needs is there, and nothing is begun by itself.
fn install(system: &System, package: &Package) -> Result<()> {
    fs::copy(&package.file, system.path(FILE)).context("copy the package")?;
    system.run(&["dpkg", "--install", FILE])?;
    for unit in tree::UNITS {
        let unit = unit.replace("@.", "@data.");
        system.require_unit(&unit, "inactive")?;
        let enabled = system.unit(&unit, "UnitFileState")?;
        ensure!(enabled == "disabled", "{unit} is {enabled} after the installation");
    }
    let changed = system.run(&["dpkg", "--verify", "replicator"])?;
    if !changed.is_empty() {
        bail!("dpkg --verify: {changed}");
    }
    Ok(())
}
