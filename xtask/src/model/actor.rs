//! The processes that do operations: this program again, told over a pipe what to do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::executor::{self, Executor};
use super::operation::{Operation, Outcome};
use crate::lab::net::Namespace;
use crate::worker;

/// What a process is told in one line.
#[derive(Serialize, Deserialize)]
struct Request {
    /// Close everything and work in this directory.
    enter: Option<PathBuf>,
    operations: Vec<Operation>,
}

/// Work as such a process until the pipe ends.
///
/// # Errors
/// The pipe broke, or what came through it makes no sense.
pub fn serve() -> Result<()> {
    executor::become_ordinary()?;
    let mut executor = Executor::default();
    let mut answers = std::io::stdout();
    for line in std::io::stdin().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        if let Some(directory) = request.enter {
            executor.enter(&directory)?;
        }
        let outcomes: Vec<Outcome> =
            request.operations.iter().map(|operation| executor.take(operation)).collect();
        let mut line = serde_json::to_vec(&outcomes)?;
        line.push(b'\n');
        // One write(2): whoever kills this process finds a line or none.
        answers.write_all(&line)?;
        answers.flush()?;
    }
    Ok(())
}

/// A process at the other end of the pipe; killed when dropped.
#[derive(Debug)]
pub struct Actor {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Actor {
    /// Start one, in the primary's namespace if it works on the gate: it dies with the node.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(namespace: Option<&Namespace>) -> Result<Actor> {
        let mut command = Command::new(worker::program()?);
        command.args(["worker", "actor"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(namespace) = namespace {
            namespace.enter(&mut command)?;
        }
        let mut process = command.spawn().context("start a process of the model")?;
        let requests = process.stdin.take().context("its pipe")?;
        let answers = BufReader::new(process.stdout.take().context("its pipe")?);
        Ok(Actor { process, requests, answers })
    }

    /// Tell it to work in a directory.
    ///
    /// # Errors
    /// It is gone or cannot.
    pub fn enter(&mut self, directory: &Path) -> Result<()> {
        self.send(&Request { enter: Some(directory.to_owned()), operations: Vec::new() })?;
        self.answer().map(drop)
    }

    /// Tell it what to do, without waiting.
    ///
    /// # Errors
    /// It is gone.
    pub fn tell(&mut self, operations: &[Operation]) -> Result<()> {
        self.send(&Request { enter: None, operations: operations.to_vec() })
    }

    /// Wait for what came of what it was told.
    ///
    /// # Errors
    /// It is gone.
    pub fn answer(&mut self) -> Result<Vec<Outcome>> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("read a process's answer")?;
        if !line.ends_with('\n') {
            bail!("a process of the model ended: {:?}", self.process.try_wait());
        }
        serde_json::from_str(&line).with_context(|| format!("a process answered {line}"))
    }

    /// Do it and wait.
    ///
    /// # Errors
    /// It is gone.
    pub fn take(&mut self, operations: &[Operation]) -> Result<Vec<Outcome>> {
        self.tell(operations)?;
        self.answer()
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.requests.write_all(&line).context("tell a process what to do")
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
