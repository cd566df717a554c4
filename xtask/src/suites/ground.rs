//! Where a suite runs: a plain file system, or the gate of a mirror, whose trees are compared while the suite is halted.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::lab::compare::Comparison;
use crate::lab::exec;
use crate::lab::log::last;
use crate::lab::mirror::Mirror;
use crate::lab::wait;

/// How long a suite runs between two halts.
const BETWEEN: Duration = Duration::from_millis(700);
/// Longest time until the trees are the same once the suite rests: two daemons and a comparison share the machine.
const IDENTICAL_BOUND: Duration = Duration::from_secs(120);

/// On which of the two.
pub enum Side<'a> {
    /// The root of a plain file system.
    Native(PathBuf),
    /// The gate.
    Gate(&'a mut Mirror),
}

/// A directory for a suite to work in.
pub struct Ground<'a> {
    /// The directory, empty at the beginning.
    pub directory: PathBuf,
    /// A directory on another file system.
    pub other: PathBuf,
    /// Where the suite's own files go, outside everything that is compared.
    pub outside: PathBuf,
    /// How often the trees were compared in between.
    pub halts: u64,
    /// The longest time until they were the same.
    pub longest: Duration,
    mirror: Option<&'a mut Mirror>,
}

/// What a program of a suite gave.
pub struct Ended {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// All it said, on both outputs.
    pub words: String,
}

impl<'a> Ground<'a> {
    /// Make the directory `name` on this side.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(side: Side<'a>, name: &str, place: &Path, other: &Path) -> Result<Ground<'a>> {
        let (root, side, mirror) = match side {
            Side::Native(root) => (root, "native", None),
            Side::Gate(mirror) => (mirror.data().to_owned(), "gate", Some(mirror)),
        };
        let directory = root.join(name);
        let outside = place.join(format!("{name}.{side}"));
        for path in [&directory, &outside] {
            fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(Ground { directory, other: other.to_owned(), outside, halts: 0, longest: Duration::ZERO, mirror })
    }

    /// Run a program to its end. On the gate it is halted now and then until both trees are the same.
    ///
    /// # Errors
    /// It does not start or end in time, or the trees stay different. How it ended is the caller's to judge.
    pub fn run(&mut self, mut command: Command, bound: Duration) -> Result<Ended> {
        let line = exec::describe(&command);
        let output = self.outside.join("output");
        // Both write to the end of one file.
        let file = File::create(&output)?;
        drop(file);
        let append = OpenOptions::new().append(true).open(&output)?;
        command.stdin(Stdio::null()).stdout(append.try_clone()?).stderr(append);
        // A group of its own: halted and ended as one.
        command.process_group(0);
        if let Some(mirror) = &self.mirror {
            mirror.net.a.enter(&mut command)?;
        }
        let child = command.spawn().with_context(|| format!("start `{line}`"))?;
        let mut running = Running { group: Pid::from_raw(child.id() as i32), child };
        let ended = self.watch(&mut running, bound);
        let words = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
        let status = ended.with_context(|| format!("`{line}`; it said:\n{}", last(&words, 15)))?;
        Ok(Ended { status, words })
    }

    fn watch(&mut self, running: &mut Running, bound: Duration) -> Result<ExitStatus> {
        let mut last = Instant::now();
        wait::until("it to end", bound, || {
            if let Some(status) = running.child.try_wait()? {
                return Ok(Some(status));
            }
            if let Some(mirror) = &mut self.mirror
                && last.elapsed() >= BETWEEN
            {
                let halted = Instant::now();
                running.signal(Signal::SIGSTOP);
                let same = mirror.wait_same_trees(IDENTICAL_BOUND);
                if same.is_err()
                    && let Some(status) = mirror.primary.status()?
                {
                    eprintln!("the primary: {}", status.summary());
                }
                same.context("halted in the middle")?;
                self.halts += 1;
                self.longest = self.longest.max(halted.elapsed());
                running.signal(Signal::SIGCONT);
                last = Instant::now();
            }
            Ok(None)
        })
    }

    /// Wait until nothing is on its way and both trees are the same. Nothing to do natively.
    ///
    /// # Errors
    /// They stay different.
    pub fn settle(&mut self) -> Result<Comparison> {
        match &mut self.mirror {
            Some(mirror) => mirror.wait_identical_within(IDENTICAL_BOUND),
            None => Ok(Comparison::default()),
        }
    }
}

/// A program and those it started; all are killed when this is dropped.
struct Running {
    child: Child,
    group: Pid,
}

impl Running {
    fn signal(&self, signal: Signal) {
        // Nobody is left in the group if it ended just now.
        let _ = killpg(self.group, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
