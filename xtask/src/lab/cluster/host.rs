//! One node of a cluster: its files, its file system, its daemon while that runs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{NodeStatus, Options, module};
use crate::lab::image::LoopImage;
use crate::lab::net::Namespace;
use crate::lab::place::Place;
use crate::lab::status::Status;
use crate::lab::{log, mount, wait};

/// Longest time a daemon may take from SIGTERM to its end.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// See the module. Dropping it kills the daemon.
#[derive(Debug)]
pub struct Host {
    /// a or b.
    pub name: &'static str,
    /// The product.
    pub program: PathBuf,
    home: PathBuf,
    daemon: Option<Child>,
    ended: Option<Instant>,
    image: LoopImage,
}

impl Host {
    pub(super) fn new(name: &'static str, program: &Path, place: &Place, options: &Options) -> Result<Host> {
        let home = place.path().join(format!("{name}.node"));
        fs::create_dir_all(&home)?;
        let image = LoopImage::new(place.path(), name, options.filesystem, options.room)?;
        let host = Host { name, program: program.to_owned(), home, daemon: None, ended: None, image };
        for number in 0..options.modules {
            fs::create_dir_all(host.data(number))?;
        }
        Ok(host)
    }

    /// The directory that a module mirrors.
    #[must_use]
    pub fn data(&self, number: usize) -> PathBuf {
        self.image.path().join(module::name(number))
    }

    /// Where the installed modules are.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.home.join("modules")
    }

    /// A file of the node, outside of what is mirrored.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A file in the cluster directory that only root may read.
    pub(super) fn keep_secret(&self, name: &str, content: &[u8]) -> Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(self.home.join("cluster").join(name))?;
        Ok(file.write_all(content)?)
    }

    /// A command of the product on this node.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn command(&self, namespace: &Namespace, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.args(words);
        for place in ["directory", "modules", "state", "run", "logs"] {
            let directory = if place == "directory" { "cluster" } else { place };
            command.arg(format!("--{place}={}", self.home.join(directory).display()));
        }
        command.stdin(Stdio::null());
        namespace.enter(&mut command)?;
        Ok(command)
    }

    pub(super) fn module(&self, namespace: &Namespace, arguments: &[&str]) -> Result<String> {
        let (verb, rest) = arguments.split_first().context("a verb")?;
        let output = self.command(namespace, &["module", verb])?.args(rest).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "module {}: {said}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    pub(super) fn start(&mut self, namespace: &Namespace, preset: &str) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let mut command = self.command(namespace, &["cluster", "run", "--heartbeat", preset])?;
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        self.daemon = Some(command.spawn().context("start the daemon")?);
        let name = self.name;
        let tail = self.log();
        wait::until(&format!("the daemon of {name} to answer"), super::SETTLE_BOUND, || {
            Ok(self.status(namespace)?.map(drop))
        })
        .with_context(|| log::tail(&tail, 20))
    }

    /// Whether the daemon was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub(super) fn command_line(&self, namespace: &Namespace, words: &str) -> String {
        let mut line = format!("ip netns exec {} {} {words}", namespace.name(), self.program.display());
        for (place, directory) in [("directory", "cluster"), ("run", "run")] {
            line += &format!(" --{place} {}", self.home.join(directory).display());
        }
        line
    }

    /// How long ago the daemon was found to have ended.
    pub fn dead_for(&mut self) -> Duration {
        if self.is_running() {
            self.ended = None;
            return Duration::ZERO;
        }
        self.ended.get_or_insert_with(Instant::now).elapsed()
    }

    /// When the application was started last, in seconds since the machine started.
    ///
    /// # Errors
    /// It never was.
    pub fn started_at(&self) -> Result<f64> {
        let text = fs::read_to_string(self.file("started")).context("the application was never started")?;
        let last = text.lines().last().and_then(|line| line.split(' ').next()).unwrap_or_default();
        last.parse().with_context(|| format!("{text:?} is no time"))
    }

    /// The daemon.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.daemon.as_ref().map(|child| Pid::from_raw(child.id() as i32))
    }

    pub(super) fn status(&mut self, namespace: &Namespace) -> Result<Option<NodeStatus>> {
        if let Some(child) = &mut self.daemon
            && let Some(status) = child.try_wait()?
        {
            bail!("the daemon of {} ended by itself ({status}); its log:\n{}", self.name, self.tail());
        }
        let output =
            self.command(namespace, &["cluster", "status", "--json"])?.stderr(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text).with_context(|| format!("the status of {}: {text}", self.name))?))
    }

    /// What the mirror of the first module says of itself; none: it does not answer.
    pub(super) fn mirror(&self, namespace: &Namespace) -> Result<Option<Status>> {
        let mut command = Command::new(&self.program);
        let config = self.home.join("run").join(module::name(0)).join("mirror.toml");
        command.args(["status", "--json", "--config"]).arg(config);
        namespace.enter(&mut command)?;
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
        Ok(serde_json::from_slice(&output.stdout).ok())
    }

    /// Stop the daemon in order.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill(pid, Signal::SIGTERM).context("send SIGTERM")?;
        let mut child = self.daemon.take().context("a daemon")?;
        let ended =
            wait::until_uninterrupted(&format!("the daemon of {} to end", self.name), STOP_BOUND, || {
                Ok(child.try_wait()?)
            });
        match ended {
            Ok(status) => {
                ensure!(
                    status.success(),
                    "the daemon of {} ended with {status}:\n{}",
                    self.name,
                    self.tail()
                );
                Ok(())
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(self.tail()))
            }
        }
    }

    /// It was killed with its machine.
    pub(super) fn forget(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.wait();
        }
    }

    /// What a machine that starts again has not got any more.
    pub(super) fn clean_up(&self) {
        mount::take_away_below(self.image.path());
        let _ = fs::remove_dir_all(self.home.join("run"));
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        log::tail(&self.log(), 40)
    }

    pub(super) fn complaints(&self, expected: &[&str]) -> Result<Vec<String>> {
        let found = log::unexpected(&self.log(), expected)?;
        Ok(found.into_iter().map(|line| format!("{}: {line}", self.name)).collect())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
