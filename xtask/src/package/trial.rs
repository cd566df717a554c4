//! A package is installed below a directory of its own, used, upgraded, removed and purged there, by the true dpkg and with its scripts.
//!
//! systemd is played: a `systemctl` that writes down what it is told.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{Package, tree};
use crate::lab::exec;
use crate::setup;

const PLAYED: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/orders"
if [ "$1" = list-units ]; then echo "replicator-cluster.service loaded active running replicator cluster"; fi
"#;

/// What an operator and the daemon have written by the time the package goes, and whether a purge takes it away.
const WRITTEN: &[(&str, bool)] = &[
    ("etc/replicator/cluster/cluster.toml", false),
    ("etc/replicator/cluster/authority.key", false),
    ("etc/replicator/replicator.toml", false),
    ("var/lib/replicator/web/standing.json", false),
    ("var/lib/replicator/web/mirror/state", false),
    ("var/lib/replicator-witness/identity", false),
    ("var/log/replicator/web/start-primary@1.log", true),
    ("srv/data/file", false),
];
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/replicator-cluster.service";

struct Trial<'a> {
    package: &'a Package,
    place: tempfile::TempDir,
}

/// Try a package.
///
/// # Errors
/// What is not as it should be.
pub fn run(package: &Package) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: to install a package needs root");
        return Ok(());
    }
    setup::require(&["dpkg"])?;
    let trial = Trial::new(package)?;
    let files = trial.install()?;
    trial.use_it()?;
    let verified = trial.verify_units()?;
    trial.write()?;
    trial.upgrade()?;
    trial.remove()?;
    trial.purge()?;
    println!("passed: {files} files installed, upgraded, removed and purged; {verified}");
    Ok(())
}

impl Trial<'_> {
    fn new(package: &Package) -> Result<Trial<'_>> {
        let trial = Trial { package, place: tempfile::tempdir().context("make a place for a system")? };
        for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "run/systemd/system", "srv/data"] {
            fs::create_dir_all(trial.path(directory))?;
        }
        for file in ["status", "available"] {
            fs::write(trial.path("var/lib/dpkg").join(file), "")?;
        }
        let systemctl = trial.place.path().join("tools/systemctl");
        fs::create_dir(trial.place.path().join("tools"))?;
        fs::write(&systemctl, PLAYED)?;
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
        Ok(trial)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.place.path().join("root").join(below)
    }

    fn has(&self, below: &str) -> bool {
        self.path(below).symlink_metadata().is_ok()
    }

    /// dpkg, and what systemd was told meanwhile.
    fn dpkg(&self, arguments: &[&str]) -> Result<(String, Vec<String>)> {
        let tools = self.place.path().join("tools");
        let orders = tools.join("orders");
        fs::write(&orders, "")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            [tools]
                .into_iter()
                .chain(std::env::split_paths(&path))
                .chain(["/usr/sbin".into(), "/sbin".into()]),
        )?;
        let mut command = Command::new(setup::program("dpkg"));
        command.arg("--root").arg(self.path("")).arg("--log").arg(self.path("dpkg.log"));
        // The libraries are the machine's own, of which the new system knows nothing.
        command.args(["--force-script-chrootless", "--force-depends", "--force-confold"]);
        command.args(arguments).env("PATH", path).env("DEBIAN_FRONTEND", "noninteractive");
        let said = exec::output(&mut command)?;
        let orders = fs::read_to_string(orders)?.lines().map(str::to_owned).collect();
        Ok((said, orders))
    }

    /// Everything is there, root's, as it was packed; nothing is begun.
    fn install(&self) -> Result<usize> {
        let file = self.package.file.to_string_lossy().into_owned();
        let (_, orders) = self.dpkg(&["--install", &file])?;
        ensure!(orders == ["daemon-reload"], "an installation tells systemd: {orders:?}");
        let packed = tree::files(&self.package.root)?.0;
        let packed: Vec<PathBuf> = packed.into_iter().filter(|path| !path.starts_with("DEBIAN")).collect();
        for path in &packed {
            let (was, is) = (self.package.root.join(path), self.path("").join(path));
            let found = fs::metadata(&is).with_context(|| format!("{} is not there", path.display()))?;
            let mode = fs::metadata(&was)?.mode();
            ensure!(
                (found.uid(), found.gid(), found.mode()) == (0, 0, mode),
                "{}: {found:?}",
                path.display()
            );
            ensure!(fs::read(&was)? == fs::read(&is)?, "{} has another content", path.display());
        }
        let keys = fs::metadata(self.path("etc/replicator"))?.mode() & 0o7777;
        ensure!(keys == 0o700, "others may look into /etc/replicator: {keys:o}");
        ensure!(!self.has(ENABLED), "a unit was enabled");
        let (changed, _) = self.dpkg(&["--verify", "replicator"])?;
        ensure!(changed.is_empty(), "dpkg --verify: {changed}");
        Ok(packed.len())
    }

    /// The installed program runs, and takes the modules that came with it.
    fn use_it(&self) -> Result<()> {
        let program = self.path("usr/sbin/replicator");
        let said = |arguments: &[&str]| exec::output(Command::new(&program).args(arguments));
        let version = said(&["--version"])?;
        ensure!(version.trim().ends_with(env!("CARGO_PKG_VERSION")), "--version: {version}");
        for command in ["cluster", "module", "witness"] {
            ensure!(said(&[command, "--help"])?.contains("Usage:"), "{command} --help");
        }
        let example = self.path("usr/share/doc/replicator/examples/replicator.toml");
        said(&["check-config", "--offline", &example.to_string_lossy()])?;
        for module in fs::read_dir(self.path("usr/share/replicator/modules"))? {
            let module = module?;
            if module.file_type()?.is_dir() {
                let readme = module.path().join("README.md");
                ensure!(readme.exists(), "{} is not there", readme.display());
            }
        }
        let link = self.path("usr/share/doc/replicator/modules/README.md");
        ensure!(link.exists(), "the documents' links to modules lead nowhere");
        Ok(())
    }

    /// The units are what systemd takes, where it can be asked. They are looked at with the program where it lies here.
    fn verify_units(&self) -> Result<String> {
        let Some(analyze) = setup::find("systemd-analyze") else {
            return Ok("units not looked at: there is no systemd-analyze here".to_owned());
        };
        let place = self.place.path().join("units");
        fs::create_dir(&place)?;
        let program = self.path("usr/sbin/replicator");
        let mut command = Command::new(analyze);
        command.args(["verify", "--man=no", "--recursive-errors=no"]);
        for unit in tree::UNITS {
            let text = fs::read_to_string(self.path(tree::UNIT_DIRECTORY).join(unit))?;
            ensure!(text.contains("ExecStart=/usr/sbin/replicator "), "{unit} starts another program");
            let name = unit.replace("@.", "@data.");
            fs::write(place.join(&name), text.replace("/usr/sbin/replicator", &program.to_string_lossy()))?;
            command.arg(place.join(name));
        }
        let output = command.stdin(Stdio::null()).output().context("run systemd-analyze")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let complaints: Vec<&str> = said.lines().filter(|line| line.contains("replicator")).collect();
        if !output.status.success() || !complaints.is_empty() {
            bail!("systemd-analyze verify: {}: {said}", output.status);
        }
        Ok(format!("{} units verified", tree::UNITS.len()))
    }

    fn write(&self) -> Result<()> {
        for (file, _) in WRITTEN {
            let path = self.path(file);
            fs::create_dir_all(path.parent().context("a file below a directory")?)?;
            fs::write(path, file)?;
        }
        for (_, file) in tree::SETTINGS {
            fs::write(self.path(file), "# changed\n")?;
        }
        let link = self.path(ENABLED);
        fs::create_dir_all(link.parent().context("a link below a directory")?)?;
        symlink(Path::new("/").join(tree::UNIT_DIRECTORY).join(tree::UNITS[0]), link)?;
        Ok(())
    }

    /// Who runs is told of, and nothing else happens to it.
    fn upgrade(&self) -> Result<()> {
        let file = self.package.file.to_string_lossy().into_owned();
        let (said, orders) = self.dpkg(&["--install", &file])?;
        let calm = |order: &String| order.starts_with("list-units") || order == "daemon-reload";
        ensure!(orders.iter().all(calm) && !orders.is_empty(), "an upgrade tells systemd: {orders:?}");
        ensure!(said.contains("replicator-cluster.service goes on"), "who runs on is not told: {said}");
        self.require_written(|_| true)?;
        for (_, file) in tree::SETTINGS {
            ensure!(fs::read_to_string(self.path(file))? == "# changed\n", "{file} was overwritten");
        }
        Ok(())
    }

    /// All ends in order first; what was written stays.
    fn remove(&self) -> Result<()> {
        let (_, orders) = self.dpkg(&["--remove", "replicator"])?;
        let stopped =
            orders.first().is_some_and(|order| order.starts_with("stop replicator-cluster.service"));
        ensure!(stopped, "a removal tells systemd: {orders:?}");
        for path in ["usr/sbin/replicator", "usr/share/replicator", "usr/share/doc/replicator"] {
            ensure!(!self.has(path), "{path} is left");
        }
        for unit in tree::UNITS {
            ensure!(!self.path(tree::UNIT_DIRECTORY).join(unit).exists(), "{unit} is left");
        }
        for (_, file) in tree::SETTINGS {
            ensure!(self.has(file), "{file} is gone");
        }
        self.require_written(|_| true)
    }

    /// What the package brought is gone; keys, state and data are not.
    fn purge(&self) -> Result<()> {
        let (said, _) = self.dpkg(&["--purge", "replicator"])?;
        for (_, file) in tree::SETTINGS {
            ensure!(!self.has(file), "{file} is left");
        }
        ensure!(!self.has(ENABLED), "a unit is still enabled");
        self.require_written(|purged| !purged)?;
        for kept in ["/etc/replicator", "/var/lib/replicator", "/var/lib/replicator-witness"] {
            ensure!(said.contains(&format!("{kept} is left")), "that {kept} is left is not told: {said}");
        }
        let (listed, _) = self.dpkg(&["--get-selections"])?;
        ensure!(!listed.contains("replicator"), "dpkg still knows it: {listed}");
        Ok(())
    }

    /// Exactly those files are there, with what was written, for which `there` says so.
    fn require_written(&self, there: impl Fn(bool) -> bool) -> Result<()> {
        for (file, purged) in WRITTEN {
            let content = fs::read_to_string(self.path(file)).ok();
            let wanted = there(*purged).then(|| (*file).to_owned());
            ensure!(content == wanted, "{file}: {content:?}");
        }
        Ok(())
    }
}
