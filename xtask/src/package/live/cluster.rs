//! A cluster of two nodes with a witness, run by units: founded, used, hung, upgraded, switched off, removed.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::mirror::is_mounted;
use super::{ALPHA, BETA, FILE, Site, System, THIRD, remove};
use crate::lab::cluster::{ModuleStatus, NodeStatus, SETTLE_BOUND};
use crate::lab::wait;

/// The daemon's unit.
pub const UNIT: &str = "replicator-cluster.service";
/// The witness's.
pub const WITNESS: &str = "replicator-witness.service";
/// The module that comes with the package, for any application: started by scripts.
const SCRIPTED: &str = "mirror";
/// One whose application is a unit.
const SERVED: &str = "served";
const MODULES: &[&str] = &[SCRIPTED, SERVED];
/// What the modules mirror.
pub const DIRECTORIES: &[&str] = &["/srv/application", "/srv/served"];
/// Its unit.
pub const SERVICE: &str = "served.service";

/// The application of both: says where it was started, and keeps a file open.
const APPLICATION: &str = "#!/bin/sh
set -e
directory=${1:-/srv/application}
exec 3>> \"$directory/started\"
cat /etc/hostname >&3
sync \"$directory/started\"
exec sleep infinity
";
const SERVED_UNIT: &str = "[Service]
ExecStart=/usr/local/bin/application /srv/served
[Install]
WantedBy=multi-user.target
";
const SERVED_MODULE: &str = "[module]
name = \"served\"
[mirror]
port = 7421
[[directory]]
path = \"/srv/served\"
[services]
units = [\"served.service\"]
";
/// So that the trial need not wait for the minute that the unit has.
const WATCHDOG: &str = "[Service]\nWatchdogSec=20s\n";

/// Try it.
///
/// # Errors
/// What is not as it should be.
pub fn run(site: &mut Site) -> Result<()> {
    found(site).context("found a cluster")?;
    start(site).context("start the cluster")?;
    println!("a cluster is founded and runs; both modules are active on alpha");
    let fed = Fed::now(site)?;
    used(site).context("use the cluster")?;
    println!("what is written on alpha is on beta; the journal has what the daemons said");
    hang(site).context("a daemon that hangs")?;
    println!("a daemon that hung was ended and begun anew by its watchdog");
    fed.went_on(site).context("the watchdog is fed")?;
    upgrade(site).context("upgrade")?;
    stop(site).context("stop the active node")?;
    println!("an upgrade ends nothing; a node that is stopped gives its application to the other");
    switch_off(site).context("switch the active node off")?;
    println!(
        "the other takes over from a node that is switched off, or loses its power; it comes back by itself"
    );
    remove::run(site).context("remove the package")
}

fn found(site: &Site) -> Result<()> {
    let [alpha, beta, third] = &site.systems;
    third.run(&["systemctl", "enable", "--now", WITNESS])?;
    third.require_unit(WITNESS, "active")?;
    let arbiter = format!("kind = \"witness\"\naddresses = [\"{}\"]", site.lan.hosts[THIRD].socket(7412));
    let node = node(site, ALPHA);
    let mut init = vec!["replicator", "cluster", "init", "--name", "shop", "--arbiter", &arbiter];
    init.extend(node.iter().map(String::as_str));
    alpha.run(&init)?;
    join(site)?;
    let description = alpha.run(&["replicator", "cluster", "describe"])?;
    let id = description.lines().find_map(|line| line.strip_prefix("id = ")).context("an id")?;
    let key = third.run(&["replicator", "witness", "add-cluster", id.trim_matches('"')])?;
    for system in [alpha, beta] {
        system.write("/etc/replicator/cluster/arbiter.key", 0o600, &key)?;
        install_modules(system)?;
    }
    Ok(())
}

/// The options of `cluster init` and `join` for a node.
fn node(site: &Site, number: usize) -> Vec<String> {
    let host = &site.lan.hosts[number];
    [
        ["--node", site.systems[number].name].map(str::to_owned),
        ["--heartbeat".to_owned(), format!("lan={}", host.socket(7410))],
        ["--heartbeat".to_owned(), format!("cross=10.78.0.{}:7410", number + 1)],
        ["--control".to_owned(), host.socket(7411).to_string()],
        ["--mirror".to_owned(), host.address.to_string()],
    ]
    .concat()
}

fn join(site: &Site) -> Result<()> {
    let [alpha, beta, _] = &site.systems;
    let listen = site.lan.hosts[ALPHA].socket(7413).to_string();
    let mut invite = alpha.command(&["replicator", "cluster", "invite", "--listen", &listen])?;
    let mut invite = invite.stdout(Stdio::piped()).spawn().context("invite")?;
    let mut token = String::new();
    BufReader::new(invite.stdout.take().context("its words")?).read_line(&mut token)?;
    let node = node(site, BETA);
    let mut join = vec!["replicator", "cluster", "join"];
    join.extend(node.iter().map(String::as_str));
    join.push(token.trim());
    let joined = beta.run(&join);
    if joined.is_err() {
        let _ = invite.kill();
    }
    let invited = invite.wait()?;
    joined?;
    ensure!(invited.success(), "invite: {invited}");
    Ok(())
}

fn install_modules(system: &System) -> Result<()> {
    for directory in DIRECTORIES {
        std::fs::create_dir_all(system.path(directory))?;
    }
    system.write("/usr/local/bin/application", 0o755, APPLICATION)?;
    system.write("/etc/systemd/system/served.service", 0o644, SERVED_UNIT)?;
    system.write("/root/served/module.toml", 0o644, SERVED_MODULE)?;
    system.run(&["systemctl", "daemon-reload"])?;
    system.run(&["systemctl", "enable", SERVICE])?;
    for directory in ["/usr/share/replicator/modules/mirror", "/root/served"] {
        system.run(&["replicator", "module", "install", directory])?;
    }
    let enabled = system.unit(SERVICE, "UnitFileState")?;
    ensure!(enabled == "disabled", "the machine starts a module's unit: {enabled}");
    Ok(())
}

fn start(site: &Site) -> Result<()> {
    let [alpha, beta, _] = &site.systems;
    alpha.write(&format!("/etc/systemd/system/{UNIT}.d/watchdog.conf"), 0o644, WATCHDOG)?;
    alpha.run(&["systemctl", "daemon-reload"])?;
    for (system, peer) in [(alpha, beta), (beta, alpha)] {
        system.run(&["systemctl", "enable", "--now", UNIT])?;
        system.require_unit(UNIT, "active")?;
        let status = system.unit(UNIT, "StatusText")?;
        ensure!(status == format!("{} of a cluster with {}", system.name, peer.name), "it says: {status}");
        for module in MODULES {
            system.run(&["replicator", "module", "start", module])?;
        }
    }
    for module in MODULES {
        promote(alpha, module)?;
    }
    wait_roles(alpha, beta)
}

/// As soon as the nodes have met.
fn promote(system: &System, module: &str) -> Result<()> {
    let mut refused = String::new();
    let promoted = wait::until("the nodes to meet", SETTLE_BOUND, || {
        let promoted = system.run(&["replicator", "module", "promote", module]);
        Ok(promoted.map_err(|error| refused = format!("{error:#}")).ok().map(drop))
    });
    promoted.context(refused)
}

/// Until one node is active with all modules, and the other holds the copies.
fn wait_roles(active: &System, copy: &System) -> Result<()> {
    for module in MODULES {
        wait_for(active, module, &["primary"])?;
        wait_for(copy, module, &["secondary"])?;
    }
    Ok(())
}

/// Until a module on a node is in one of these states, and ready.
fn wait_for(system: &System, module: &str, states: &[&str]) -> Result<()> {
    let mut last: Option<ModuleStatus> = None;
    let found = wait::until(&format!("{module} on {} to be {states:?}", system.name), SETTLE_BOUND, || {
        let said = system.try_run(&["replicator", "cluster", "status", "--json"])?;
        // A daemon that is not there says nothing.
        let status: Option<NodeStatus> = serde_json::from_str(&said).ok();
        let found = status.and_then(|status| status.modules.into_iter().find(|found| found.module == module));
        last = found.clone().or(last.take());
        let there = |found: &ModuleStatus| states.iter().any(|state| found.here.is_ready(state));
        Ok(found.filter(there).map(drop))
    });
    found.with_context(|| format!("last status: {last:?}"))
}

/// Until a node is active with all modules, with the other or without.
pub fn wait_active(system: &System) -> Result<()> {
    MODULES.iter().try_for_each(|module| wait_for(system, module, &["alone", "primary"]))
}

/// When watchdogs were fed last.
struct Fed(Vec<(usize, &'static str, String)>);

impl Fed {
    /// Of those that go on while alpha's daemon hangs.
    fn now(site: &Site) -> Result<Fed> {
        let look = |(number, unit)| Ok((number, unit, fed(&site.systems[number], unit)?));
        Ok(Fed([(BETA, UNIT), (THIRD, WITNESS)].into_iter().map(look).collect::<Result<_>>()?))
    }

    fn went_on(&self, site: &Site) -> Result<()> {
        for (number, unit, then) in &self.0 {
            let system = &site.systems[*number];
            ensure!(then != "0", "{unit} on {} was not fed when it started", system.name);
            let restarts = system.unit(unit, "NRestarts")?;
            ensure!(restarts == "0", "{unit} on {} was begun anew {restarts} times", system.name);
            wait::until(&format!("{unit} on {} to be fed", system.name), SETTLE_BOUND, || {
                Ok((fed(system, unit)? != *then).then_some(()))
            })?;
        }
        Ok(())
    }
}

fn fed(system: &System, unit: &str) -> Result<String> {
    system.unit(unit, "WatchdogTimestampMonotonic")
}

fn used(site: &Site) -> Result<()> {
    let [alpha, beta, _] = &site.systems;
    alpha.require_unit(SERVICE, "active")?;
    beta.require_unit(SERVICE, "inactive")?;
    for directory in DIRECTORIES {
        ensure!(is_mounted(alpha, directory)?, "the gate of {directory} is not mounted for everybody");
        require_mirrored(site, directory, "word")?;
        let started = beta.run(&["cat", &format!("{directory}/started")])?;
        ensure!(started == "alpha", "the application of {directory} was started on {started:?}");
    }
    for (words, node) in [
        (&["journalctl", "--no-pager", "--unit", UNIT][..], "alpha"),
        (&["replicator", "cluster", "logs", "--lines=2000"], "alpha"),
        (&["replicator", "cluster", "logs", "--lines=2000", "--node=beta"], "beta"),
    ] {
        let said = alpha.run(words)?;
        let running = |line: &str| line.contains(&format!(" {node} replicator[")) && line.contains("running");
        ensure!(said.lines().any(running), "{words:?} does not say that the daemon runs:\n{said}");
    }
    Ok(())
}

/// What is synced on alpha is on beta.
fn require_mirrored(site: &Site, directory: &str, word: &str) -> Result<()> {
    let [alpha, beta, _] = &site.systems;
    let file = format!("{directory}/file");
    alpha.run(&["sh", "-c", &format!("echo {word} > {file} && sync {file}")])?;
    let copy = beta.run(&["cat", &file])?;
    ensure!(copy == word, "the copy of what was synced in {directory} is {copy:?}");
    Ok(())
}

/// Nobody but systemd notices that the daemon is stopped and not gone: its mirrors and the application go on, and the other node hears the mirrors.
fn hang(site: &Site) -> Result<()> {
    let [alpha, beta, _] = &site.systems;
    let hung = alpha.unit(UNIT, "MainPID")?;
    kill(alpha.outside(&hung)?, Signal::SIGSTOP).context("stop the daemon")?;
    for word in ["other", "word"] {
        DIRECTORIES.iter().try_for_each(|directory| require_mirrored(site, directory, word))?;
    }
    wait::until("systemd to begin the daemon anew", SETTLE_BOUND, || {
        Ok((alpha.unit(UNIT, "NRestarts")? == "1").then_some(()))
    })?;
    let why = alpha.run(&["journalctl", "--no-pager", "--unit", UNIT, "--grep=Watchdog timeout"]);
    why.context("the daemon was begun anew for another reason than its watchdog")?;
    wait_roles(alpha, beta)?;
    alpha.require_unit(UNIT, "active")?;
    alpha.require_unit(SERVICE, "active")?;
    ensure!(alpha.unit(UNIT, "MainPID")? != hung, "it is the same process");
    Ok(())
}

/// The same package once more, on every machine: who runs goes on, and is told of.
fn upgrade(site: &Site) -> Result<()> {
    for (system, unit) in site.systems.iter().zip([UNIT, UNIT, WITNESS]) {
        let before = system.unit(unit, "MainPID")?;
        let said = system.run(&["dpkg", "--install", FILE])?;
        ensure!(said.contains(&format!("{unit} goes on")), "who runs on {} is not told: {said}", system.name);
        system.require_unit(unit, "active")?;
        ensure!(system.unit(unit, "MainPID")? == before, "{unit} on {} was begun anew", system.name);
        let enabled = system.unit(unit, "UnitFileState")?;
        ensure!(enabled == "enabled", "{unit} on {} is {enabled} now", system.name);
    }
    wait_roles(&site.systems[ALPHA], &site.systems[BETA])
}

/// The node that is active, which gives its application to the other, and the one that is not.
fn stop(site: &Site) -> Result<()> {
    let [alpha, beta, _] = &site.systems;
    for _ in 0..2 {
        alpha.run(&["systemctl", "stop", UNIT])?;
        require_ended(alpha)?;
        wait_active(beta)?;
        alpha.run(&["systemctl", "start", UNIT])?;
        wait_roles(beta, alpha)?;
    }
    Ok(())
}

/// It ended in order, and so did what it ran; plain files are left.
pub fn require_ended(system: &System) -> Result<()> {
    system.require_unit(UNIT, "inactive")?;
    let result = system.unit(UNIT, "Result")?;
    ensure!(result == "success", "{UNIT} on {} ended: {result}", system.name);
    let left = system.unit(UNIT, "ControlGroup")?;
    ensure!(left.is_empty(), "processes of {UNIT} are left on {}", system.name);
    require_plain(system)
}

/// No application runs, nothing is mounted, files are there.
pub fn require_plain(system: &System) -> Result<()> {
    system.require_unit(SERVICE, "inactive")?;
    for directory in DIRECTORIES {
        ensure!(!is_mounted(system, directory)?, "{directory} is mounted yet on {}", system.name);
        let word = system.run(&["cat", &format!("{directory}/file")])?;
        ensure!(word == "word", "no plain file in {directory} on {}", system.name);
    }
    Ok(())
}

/// In order, and then without: who is left asks the witness.
fn switch_off(site: &mut Site) -> Result<()> {
    site.systems[BETA].power_off()?;
    come_back(site, BETA).context("after a switch-off in order")?;
    site.systems[ALPHA].cut();
    come_back(site, ALPHA).context("after a loss of power")
}

/// The other node is active, and the one that is off comes back as the secondary by itself.
fn come_back(site: &mut Site, number: usize) -> Result<()> {
    wait_active(&site.systems[1 - number])?;
    site.switch_on(number)?;
    let (back, active) = (&site.systems[number], &site.systems[1 - number]);
    back.require_unit(UNIT, "active")?;
    wait_roles(active, back)
}
