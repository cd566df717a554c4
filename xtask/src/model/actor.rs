//! The processes that do operations: this program again, told over a pipe what to do.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::executor::{self, Executor};
use super::operation::{Operation, Outcome};
use crate::lab::mapping::survive_refusals;
use crate::lab::net::Namespace;
use crate::worker;

/// What a process is told in one line; it answers each with one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Request {
    /// Close everything and work in this directory.
    Enter(PathBuf),
    /// Do this.
    Take(Operation),
}

/// Work as such a process until the pipe ends.
///
/// # Errors
/// The pipe broke, or what came through it makes no sense.
pub fn serve() -> Result<()> {
    executor::become_ordinary()?;
    // Whoever runs at once with this process may make a file shorter while it stores.
    survive_refusals()?;
    let mut executor = Executor::default();
    let mut answers = std::io::stdout();
    for line in std::io::stdin().lines() {
        let outcome = match serde_json::from_str(&line?)? {
            Request::Enter(directory) => executor.enter(&directory).map(|()| Outcome::Done(0))?,
            Request::Take(operation) => executor.take(&operation),
        };
        let mut line = serde_json::to_vec(&outcome)?;
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
    /// What it was told and has not answered, in this order.
    unanswered: VecDeque<Request>,
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
        Ok(Actor { process, requests, answers, unanswered: VecDeque::new() })
    }

    /// Tell it to work in a directory.
    ///
    /// # Errors
    /// It is gone or cannot.
    pub fn enter(&mut self, directory: &Path) -> Result<()> {
        self.send([Request::Enter(directory.to_owned())])?;
        self.answer().map(drop)
    }

    /// Tell it what to do, without waiting.
    ///
    /// # Errors
    /// It is gone.
    pub fn tell(&mut self, operations: &[Operation]) -> Result<()> {
        self.send(operations.iter().cloned().map(Request::Take))
    }

    /// Wait for what came of all that it was told.
    ///
    /// # Errors
    /// It is gone.
    pub fn answer(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(self.unanswered.len());
        while let Some(request) = self.unanswered.pop_front() {
            let mut line = String::new();
            self.answers.read_line(&mut line).context("read a process's answer")?;
            if !line.ends_with('\n') {
                return Err(self.ended(&format!("at {request:?}")));
            }
            outcomes.push(serde_json::from_str(&line).with_context(|| format!("a process answered {line}"))?);
        }
        Ok(outcomes)
    }

    /// Do it and wait.
    ///
    /// # Errors
    /// It is gone.
    pub fn take(&mut self, operations: &[Operation]) -> Result<Vec<Outcome>> {
        self.tell(operations)?;
        self.answer()
    }

    fn send(&mut self, requests: impl IntoIterator<Item = Request>) -> Result<()> {
        let mut lines = Vec::new();
        for request in requests {
            serde_json::to_writer(&mut lines, &request)?;
            lines.push(b'\n');
            self.unanswered.push_back(request);
        }
        self.requests
            .write_all(&lines)
            .map_err(|error| self.ended(&format!("before it was told more ({error})")))
    }

    /// How it ended, after it has closed a pipe: it does so only when it ends.
    fn ended(&mut self, when: &str) -> anyhow::Error {
        match self.process.wait() {
            Ok(status) => anyhow!("a process of the model ended {when}: {status}"),
            Err(error) => anyhow!("a process of the model ended {when}, and how is not known: {error}"),
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
