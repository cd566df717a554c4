//! A Debian system with its own systemd: process 1 of namespaces of its own, on a file system of its own.
//!
//! It is what a machine is for all that runs in it, but for the kernel, which is this machine's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::groups::Groups;
use crate::lab::image::LoopImage;
use crate::lab::net::Namespace;
use crate::lab::place::Place;
use crate::lab::{exec, wait};
use crate::setup;

/// What makes process 1 of it.
const BEGIN: &str = include_str!("begin.sh");
/// Where commands are found in it.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest time for a command, in seconds: a unit that is stopped may take ten minutes, and none here has a reason to.
const COMMAND_BOUND: &str = "150";
/// Longest time until a system is up, or down.
const SYSTEM_BOUND: Duration = Duration::from_secs(90);

/// See the module. Dropping it is pulling the plug.
#[derive(Debug)]
pub struct System {
    /// Its host name.
    pub name: &'static str,
    running: Option<Running>,
    /// Where it leaves the number of its process 1.
    number: PathBuf,
    /// What was said before there was a journal.
    words: PathBuf,
    image: LoopImage,
}

#[derive(Debug)]
struct Running {
    /// unshare(1), the parent of its process 1, which dies with it.
    parent: Child,
    /// Its process 1.
    init: Pid,
}

impl System {
    /// One that is off.
    ///
    /// # Errors
    /// The image cannot be copied or mounted.
    pub fn new(name: &'static str, from: &Path, place: &Place) -> Result<System> {
        let image = LoopImage::copy(from, place.path(), name)?;
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', "");
        fs::write(image.path().join("etc/machine-id"), id)?;
        let file = |what| place.path().join(format!("{name}.{what}"));
        Ok(System { name, running: None, number: file("init"), words: file("words"), image })
    }

    /// A file of it.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.image.path().join(below.trim_start_matches('/'))
    }

    /// Write a file, with the directories above it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &str, mode: u32, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(file);
        fs::create_dir_all(path.parent().context("a file below a directory")?)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// Switch it on, in this network, and wait until it is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&mut self, network: &Namespace, groups: &Groups) -> Result<()> {
        ensure!(self.running.is_none(), "{} is on already", self.name);
        match fs::remove_file(&self.number) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = Command::new(setup::program("unshare"));
        command.args(["--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--cgroup"]);
        command
            .args(["/bin/sh", "-c", BEGIN, "begin"])
            .arg(self.image.path())
            .arg(self.name)
            .arg(&self.number);
        let words = File::create(&self.words)?;
        command.stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words);
        network.enter(&mut command)?;
        groups.enter(network, &mut command)?;
        let parent = command.spawn().context("start unshare")?;
        // Until its number is known there is nobody else to end; it ends with its parent.
        let running = self.running.insert(Running { parent, init: Pid::from_raw(0) });
        running.init = wait::until("a system to begin", SYSTEM_BOUND, || {
            let number = fs::read_to_string(&self.number).unwrap_or_default();
            Ok(number.trim().parse().ok().map(Pid::from_raw))
        })?;
        self.wait_up().with_context(|| fs::read_to_string(&self.words).unwrap_or_default())
    }

    fn wait_up(&self) -> Result<()> {
        let mut said = String::new();
        let up = wait::until(&format!("{} to be up", self.name), SYSTEM_BOUND, || {
            said = self.try_run(&["systemctl", "is-system-running"])?;
            Ok(matches!(said.as_str(), "running" | "degraded").then_some(()))
        });
        up.with_context(|| said)
    }

    /// A command in it.
    ///
    /// # Errors
    /// It is off.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let running = self.running.as_ref().with_context(|| format!("{} is off", self.name))?;
        let mut command = Command::new(setup::program("nsenter"));
        command.arg(format!("--target={}", running.init));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"]);
        command.args(["timeout", "--kill-after=5", COMMAND_BOUND]).args(words);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Run a command; what it says, without the last newline.
    ///
    /// # Errors
    /// It fails, with its words.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let said = exec::output(&mut self.command(words)?).with_context(|| format!("on {}", self.name))?;
        Ok(said.trim_end().to_owned())
    }

    /// The same of one whose exit code says nothing that its words do not.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn try_run(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words)?.output().with_context(|| format!("run {words:?}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// systemd does not answer.
    pub fn unit(&self, unit: &str, property: &str) -> Result<String> {
        self.run(&["systemctl", "show", "--value", "--property", property, "--", unit])
    }

    /// A unit is in this state, and stays loaded as its file says.
    ///
    /// # Errors
    /// It is in another.
    pub fn require_unit(&self, unit: &str, state: &str) -> Result<()> {
        let found = self.unit(unit, "ActiveState")?;
        ensure!(found == state, "{unit} on {} is {found}, not {state}:\n{}", self.name, self.journal(unit));
        let old = self.unit(unit, "NeedDaemonReload")?;
        ensure!(old == "no", "{}: systemd does not know the present {unit}", self.name);
        Ok(())
    }

    /// What a unit logged.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--quiet", "--lines=200", "--unit", unit]).unwrap_or_default()
    }

    /// Its process of this number, as this machine numbers it.
    ///
    /// # Errors
    /// There is none.
    pub fn outside(&self, process: &str) -> Result<Pid> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.running.as_ref().context("it is off")?.init.as_raw());
        let mut found = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let inside =
                status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split('\t').next_back()?;
            (inside == process && namespace(pid) == own).then(|| Pid::from_raw(pid))
        });
        found.next().with_context(|| format!("no process {process} on {}", self.name))
    }

    /// Switch it off in order.
    ///
    /// # Errors
    /// It does not end.
    pub fn power_off(&mut self) -> Result<()> {
        self.run(&["systemctl", "poweroff"])?;
        let running = self.running.as_mut().context("it is off")?;
        let ended = wait::until("a system to end", SYSTEM_BOUND, || Ok(running.parent.try_wait()?.map(drop)));
        ended.with_context(|| format!("{} is told to power off", self.name))?;
        self.running = None;
        Ok(())
    }

    /// Switch it off as a loss of power does, but for its disk, which is this machine's.
    pub fn cut(&mut self) {
        let Some(Running { mut parent, init }) = self.running.take() else { return };
        if init.as_raw() > 0 {
            let _ = kill(init, Signal::SIGKILL);
        } else {
            let _ = parent.kill();
        }
        let _ = parent.wait();
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.cut();
    }
}
