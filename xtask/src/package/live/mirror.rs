//! A mirror without a cluster: `replicator@NAME.service` on both nodes, from its start to its end.

use anyhow::{Context, Result, ensure};

use super::{BETA, Site, System};
use crate::lab::cluster::SETTLE_BOUND;
use crate::lab::wait;

const UNIT: &str = "replicator@data";
const DIRECTORY: &str = "/srv/data";
const CONFIG: &str = "/etc/replicator/data.toml";
const KEY: &str = "/etc/replicator/data.key";

/// Try it.
///
/// # Errors
/// What is not as it should be.
pub fn run(site: &Site) -> Result<()> {
    let [alpha, beta, _] = &site.systems;
    let address = site.lan.hosts[BETA].socket(7400);
    write(alpha, &format!("role = \"primary\"\n[link]\npeer = \"{address}\""))?;
    write(beta, &format!("role = \"secondary\"\n[link]\nlisten = \"{address}\""))?;
    for system in [beta, alpha] {
        system.run(&["systemctl", "enable", "--now", UNIT])?;
        system.require_unit(UNIT, "active")?;
    }
    for system in [alpha, beta] {
        wait_green(system)?;
    }
    ensure!(is_mounted(alpha, DIRECTORY)?, "the gate is not mounted for everybody");
    alpha.run(&["sh", "-c", "echo word > /srv/data/file && sync /srv/data/file"])?;
    let copy = beta.run(&["cat", "/srv/data/file"])?;
    ensure!(copy == "word", "the copy of what was synced is {copy:?}");
    for system in [alpha, beta] {
        system.run(&["systemctl", "disable", "--now", UNIT])?;
        system.require_unit(UNIT, "inactive")?;
        let result = system.unit(UNIT, "Result")?;
        ensure!(result == "success", "{UNIT} on {} ended: {result}", system.name);
        ensure!(!is_mounted(system, DIRECTORY)?, "something is mounted yet on {}", system.name);
        ensure!(system.run(&["cat", "/srv/data/file"])? == "word", "no plain file on {}", system.name);
    }
    Ok(())
}

fn write(system: &System, more: &str) -> Result<()> {
    std::fs::create_dir_all(system.path(DIRECTORY))?;
    system.write(KEY, 0o600, "a key of more than thirty-two bytes, for both nodes\n")?;
    let name = system.name;
    let text = format!(
        "[node]\nname = \"{name}\"\ncluster = \"demo\"\nstate-directory = \"/var/lib/replicator\"\n\
         control-socket = \"/run/replicator/control.sock\"\n{more}\ncluster-key-file = \"{KEY}\"\n\
         [mirror]\ndirectories = [\"{DIRECTORY}\"]\n"
    );
    system.write(CONFIG, 0o644, &text)
}

fn wait_green(system: &System) -> Result<()> {
    let mut said = String::new();
    let green = wait::until(&format!("both copies to be the same, by {}", system.name), SETTLE_BOUND, || {
        let output = system.command(&["replicator", "status", "--config", CONFIG])?.output()?;
        said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok(output.status.success().then_some(()))
    });
    green.with_context(|| said)
}

/// Whether something is mounted there, seen by whoever comes.
pub fn is_mounted(system: &System, directory: &str) -> Result<bool> {
    Ok(system.command(&["mountpoint", "--quiet", directory])?.status()?.success())
}
