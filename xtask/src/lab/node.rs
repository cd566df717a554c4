//! One node: its files, and the daemon while it runs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::config::{Identity, NodeConfig};
use super::net::Namespace;
use super::status::Status;
use super::{log, wait};

/// Longest time a daemon may take from SIGTERM to its end.
pub const STOP_BOUND: Duration = Duration::from_secs(20);
/// Longest time a daemon may take until it answers `status`.
pub const START_BOUND: Duration = Duration::from_secs(30);

/// A node of the lab. Dropping it kills its daemon.
#[derive(Debug)]
pub struct Node {
    /// Its name: "a" or "b".
    pub name: String,
    /// The daemon's program.
    pub program: PathBuf,
    /// What it is configured with; written to the file at each start.
    pub config: NodeConfig,
    /// The mirrored directories.
    pub directories: Vec<PathBuf>,
    /// Where commands reach it.
    pub socket: PathBuf,
    /// Where its log goes: outside everything that is mirrored.
    pub log: PathBuf,
    /// Where it keeps its state.
    pub state_directory: PathBuf,
    /// What `replicator run` is told beside its configuration.
    pub arguments: Vec<String>,
    config_file: PathBuf,
    process: Option<Child>,
}

impl Node {
    /// A node whose own files (state, log, socket, configuration) are in `home`, which is made.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn new(
        name: &str,
        role: &'static str,
        program: &Path,
        home: &Path,
        key_file: &Path,
        directories: Vec<PathBuf>,
    ) -> Result<Node> {
        let state = home.join("state");
        fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?;
        let socket = home.join("control");
        let identity = Identity {
            name: name.to_owned(),
            role,
            state_directory: state.clone(),
            control_socket: socket.clone(),
            key_file: key_file.to_owned(),
            directories: directories.clone(),
        };
        Ok(Node {
            name: name.to_owned(),
            program: program.to_owned(),
            config: NodeConfig::new(&identity),
            directories,
            socket,
            log: home.join("log"),
            state_directory: state,
            arguments: Vec::new(),
            config_file: home.join("replicator.toml"),
            process: None,
        })
    }

    /// Keep the node's state in that directory, which it makes itself.
    pub fn keep_state_in(&mut self, directory: &Path) {
        self.config.set("node.state-directory", directory.to_string_lossy().into_owned());
        directory.clone_into(&mut self.state_directory);
    }

    /// Write the configuration and start the daemon, without waiting for anything.
    ///
    /// # Errors
    /// It runs already, or it cannot be started.
    pub fn launch(&mut self, namespace: &Namespace) -> Result<()> {
        if self.process.is_some() {
            bail!("node {} is started twice", self.name);
        }
        let mut command = self.command(namespace)?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        self.process = Some(child);
        Ok(())
    }

    /// Start the daemon and wait until it answers.
    ///
    /// # Errors
    /// It ended, or did not answer in time; the message holds the end of its log.
    pub fn start(&mut self, namespace: &Namespace) -> Result<()> {
        self.launch(namespace)?;
        self.wait_for("it answers", START_BOUND, |_| true).map(drop)
    }

    /// Start the daemon, expecting that it refuses; returns how it ended and what it said.
    ///
    /// # Errors
    /// It did not end within [`START_BOUND`] (it is killed then).
    pub fn refused(&mut self, namespace: &Namespace) -> Result<Refused> {
        let command = self.command(namespace)?;
        refused(command, &self.log)
    }

    fn command(&self, namespace: &Namespace) -> Result<Command> {
        fs::write(&self.config_file, self.config.text()?)?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(&self.config_file).args(&self.arguments);
        command.stdin(Stdio::null());
        // Not in the terminal's group: Ctrl-C is the lab's affair, which stops the nodes in order.
        command.process_group(0);
        namespace.enter(&mut command)?;
        Ok(command)
    }

    /// The configuration file, written at each start.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// The daemon's process.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(|child| Pid::from_raw(child.id() as i32))
    }

    /// Whether a daemon was started and has not ended.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ask the daemon how it is; `None` while it does not answer.
    ///
    /// # Errors
    /// It ended, or what it said is not the status this project promises.
    pub fn status(&mut self) -> Result<Option<Status>> {
        if let Some(child) = &mut self.process
            && let Some(status) = child.try_wait()?
        {
            bail!("node {} ended by itself ({status}); its log:\n{}", self.name, log::tail(&self.log, 20));
        }
        let output = Command::new(&self.program)
            .args(["status", "--json", "--socket"])
            .arg(&self.socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .context("start replicator status")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // The exit code is the node's colour; only an answer is written to standard output.
        if text.trim().is_empty() {
            return Ok(None);
        }
        let status =
            serde_json::from_str(&text).with_context(|| format!("status of {}: {text}", self.name))?;
        Ok(Some(status))
    }

    /// Send a request over the control socket, and return the answer: a line of JSON each.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn request(&self, request: &serde_json::Value) -> Result<serde_json::Value> {
        let mut socket = UnixStream::connect(&self.socket).context("connect to the control socket")?;
        socket.set_read_timeout(Some(wait::SHORT))?;
        socket.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).context("read the answer")?;
        serde_json::from_str(&line).with_context(|| format!("an answer: {line}"))
    }

    /// What the daemon says of itself at a moment after this call: it renews what it says a few times a second.
    ///
    /// # Errors
    /// It does not answer.
    pub fn fresh_status(&mut self) -> Result<Status> {
        let before = self.status()?.context("the node answers")?.uptime_seconds;
        self.wait_for("what it says is renewed", wait::SHORT, |status| status.uptime_seconds > before)
    }

    /// Wait until the status has a property, and return that status.
    ///
    /// # Errors
    /// The daemon ended, or `bound` passed; the message holds the last status.
    pub fn wait_for(
        &mut self,
        what: &str,
        bound: Duration,
        mut property: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        let found = wait::until(&format!("node {}: {what}", self.name), bound, || {
            let status = self.status()?;
            if status.is_some() {
                last = status;
            }
            Ok(last.clone().filter(|status| property(status)))
        });
        found.map_err(|error| {
            let tail = log::tail(&self.log, 12);
            match last {
                Some(last) => anyhow!("{error:#}; last status: {}; log:\n{tail}", last.summary()),
                None => anyhow!("{error:#}; it never answered; log:\n{tail}"),
            }
        })
    }

    /// Stop in order (SIGTERM) and require exit code 0.
    ///
    /// # Errors
    /// It did not end within [`STOP_BOUND`] (it is killed then), or not with code 0.
    pub fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill(pid, Signal::SIGTERM).context("send SIGTERM")?;
        let ended = self.wait_end(STOP_BOUND);
        if ended.is_err() {
            self.kill()?;
        }
        let status = ended.with_context(|| format!("log of {}:\n{}", self.name, log::tail(&self.log, 12)))?;
        if !status.success() {
            bail!("node {} stopped with {status}; log:\n{}", self.name, log::tail(&self.log, 12));
        }
        Ok(())
    }

    /// kill -9, and wait for the process to be gone.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        if self.is_running() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.wait_end(STOP_BOUND).map(drop)
    }

    /// Take a file of its own away, if it is there: what it keeps for its next start.
    ///
    /// # Errors
    /// It is there and stays.
    pub fn forget(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.state_directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Send a signal (SIGSTOP, SIGCONT).
    ///
    /// # Errors
    /// There is no daemon.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().ok_or_else(|| anyhow!("node {} does not run", self.name))?;
        kill(pid, signal).with_context(|| format!("send {signal}"))
    }

    /// Wait for the end of the process.
    ///
    /// # Errors
    /// `bound` passed.
    pub fn wait_end(&mut self, bound: Duration) -> Result<ExitStatus> {
        let Some(mut child) = self.process.take() else { return Ok(ExitStatus::from_raw(0)) };
        let ended =
            wait::until_uninterrupted(&format!("node {} to end", self.name), bound, || Ok(child.try_wait()?));
        if ended.is_err() {
            self.process = Some(child);
        }
        ended
    }

    /// Fail if the log holds a complaint that was not expected.
    ///
    /// # Errors
    /// The complaints.
    pub fn check_log(&self, expected: &[&str]) -> Result<()> {
        let lines = log::unexpected(&self.log, expected)?;
        if !lines.is_empty() {
            bail!("unexpected in the log of node {}:\n{}", self.name, lines.join("\n"));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// How a daemon ended that was expected to refuse.
#[derive(Clone, Debug)]
#[must_use]
pub struct Refused {
    status: ExitStatus,
    words: String,
}

impl Refused {
    /// Require that it refused in order, and said all of these words.
    ///
    /// # Errors
    /// It panicked, ended as if all were well or by a signal, or left out a word.
    pub fn naming(&self, wanted: &[&str]) -> Result<()> {
        let Refused { status, words } = self;
        ensure!(!words.contains("panicked"), "it panicked: {words}");
        ensure!(status.code().is_some_and(|code| code != 0), "{status}; it said: {words}");
        for word in wanted {
            ensure!(words.contains(word), "the message does not name `{word}`: {words}");
        }
        Ok(())
    }
}

/// Run a command that is expected to end by itself with an error; its words also go to `log`.
///
/// # Errors
/// It did not end within [`START_BOUND`] (it is killed then).
pub fn refused(mut command: Command, log: &Path) -> Result<Refused> {
    let words = log.with_extension("refused");
    let file = File::create(&words)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
    let ended = wait::until_uninterrupted("the daemon to refuse", START_BOUND, || Ok(child.try_wait()?));
    let words = fs::read_to_string(&words)?;
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error.context(format!("it went on; it said:\n{words}")));
        }
    };
    Ok(Refused { status, words })
}

/// Write a cluster key that only its owner can read.
///
/// # Errors
/// The file cannot be written.
pub fn write_key(path: &Path, key: &str) -> Result<()> {
    fs::write(path, format!("{key}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
