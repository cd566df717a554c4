//! The package is taken away from machines that use it: what runs ends in order first, and files stay.

use anyhow::{Context, Result, ensure};

use super::cluster::{SERVICE, UNIT, WITNESS, require_plain, wait_active};
use super::{Site, System};
use crate::package::tree;

/// What must not go with the package: data, keys, state, grants.
const KEPT: &[&[&str]] = &[NODE, NODE, &["/var/lib/replicator-witness"]];
const NODE: &[&str] = &["/etc/replicator", "/var/lib/replicator"];

/// Remove and purge it, on the node that is active, on the other that took over, and on the machine of the witness.
///
/// # Errors
/// What is not as it should be.
pub fn run(site: &Site) -> Result<()> {
    let [alpha, beta, third] = &site.systems;
    beta.require_unit(SERVICE, "active")?;
    for (system, unit) in [(beta, UNIT), (alpha, UNIT), (third, WITNESS)] {
        remove(system, unit).with_context(|| format!("on {}", system.name))?;
        if unit == UNIT {
            require_plain(system)?;
        }
        if system.name == beta.name {
            wait_active(alpha).context("the other node takes over")?;
        }
    }
    for (system, kept) in site.systems.iter().zip(KEPT) {
        purge(system, kept).with_context(|| format!("purge on {}", system.name))?;
    }
    println!("removed from all three in order; data, keys, state and grants are left");
    Ok(())
}

fn remove(system: &System, unit: &str) -> Result<()> {
    system.require_unit(unit, "active")?;
    system.run(&["dpkg", "--remove", "replicator"])?;
    ensure!(!system.path("/usr/sbin/replicator").exists(), "the program is left");
    for unit in tree::UNITS {
        let unit = unit.replace("@.", "@data.");
        let state = system.run(&["systemctl", "show", "--property=LoadState,ActiveState", "--", &unit])?;
        let gone = state.contains("LoadState=not-found") && state.contains("ActiveState=inactive");
        ensure!(gone, "systemd has {unit} yet: {state}\n{}", system.journal(&unit));
    }
    let journal = system.journal(unit);
    ensure!(journal.contains("Deactivated successfully"), "{unit} did not end in order:\n{journal}");
    for (_, file) in tree::SETTINGS {
        ensure!(system.path(file).exists(), "{file} is gone");
    }
    Ok(())
}

fn purge(system: &System, kept: &[&str]) -> Result<()> {
    let said = system.run(&["dpkg", "--purge", "replicator"])?;
    for directory in kept {
        ensure!(
            said.contains(&format!("{directory} is left")),
            "that {directory} is left is not told: {said}"
        );
        let files =
            std::fs::read_dir(system.path(directory)).with_context(|| format!("{directory} is gone"))?;
        ensure!(files.count() > 0, "{directory} is empty");
    }
    ensure!(!system.path("/var/log/replicator").exists(), "logs are left");
    for (_, file) in tree::SETTINGS {
        ensure!(!system.path(file).exists(), "{file} is left");
    }
    let enabled = system.run(&["systemctl", "list-unit-files", "--no-legend", "replicator*"]);
    ensure!(enabled.as_ref().is_err() || enabled.is_ok_and(|units| units.is_empty()), "units are left");
    let failed =
        system.run(&["systemctl", "list-units", "--failed", "--plain", "--no-legend", "replicator*"])?;
    ensure!(failed.is_empty(), "failed: {failed}");
    Ok(())
}
