//! Processes that append records with an fsync each and say of each one that it was acknowledged.
//!
//! They run in the primary's namespace and die with it. What they say goes over a pipe, which is no part of the cluster:
//! a record counts as acknowledged as soon as its number was written to the pipe.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::net::Namespace;
use super::{records, wait};
use crate::worker;

/// Some writers at work, each on its own file `<prefix><number>` in one directory.
#[derive(Debug)]
pub struct Writers {
    writers: Vec<Writer>,
}

#[derive(Debug)]
struct Writer {
    number: u32,
    name: PathBuf,
    process: Child,
    acknowledged: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
}

/// What was found of the acknowledged records.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Records their writers were told are durable.
    pub acknowledged: u64,
    /// Whole records in the files, at least as many.
    pub records: u64,
}

impl Writers {
    /// Start `count` writers in `directory`.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn start(namespace: &Namespace, directory: &Path, prefix: &str, count: u32) -> Result<Writers> {
        let mut writers = Writers { writers: Vec::new() };
        for number in 0..count {
            writers.writers.push(Writer::start(namespace, directory, prefix, number)?);
        }
        Ok(writers)
    }

    /// Wait until every writer has `more` records acknowledged than now.
    ///
    /// # Errors
    /// `bound` passed, or a writer ended.
    pub fn wait_for(&mut self, more: u64, bound: Duration) -> Result<()> {
        for writer in &mut self.writers {
            let goal = writer.acknowledged.load(Ordering::SeqCst) + more;
            wait::until(&format!("writer {} to have {goal} records", writer.number), bound, || {
                if writer.acknowledged.load(Ordering::SeqCst) >= goal {
                    return Ok(Some(()));
                }
                if let Some(status) = writer.process.try_wait()? {
                    bail!("writer {} ended too early: {status}", writer.number);
                }
                Ok(None)
            })?;
        }
        Ok(())
    }

    /// End them all (SIGKILL) and wait until the last acknowledgement is read.
    ///
    /// # Errors
    /// A process cannot be waited for.
    pub fn end(&mut self) -> Result<()> {
        for writer in &mut self.writers {
            let _ = writer.process.kill();
        }
        for writer in &mut self.writers {
            wait::until_uninterrupted("a killed writer to end", Duration::from_secs(60), || {
                Ok(writer.process.try_wait()?)
            })?;
            if let Some(reader) = writer.reader.take() {
                reader.join().map_err(|_| anyhow!("the reader of a writer's pipe died"))?;
            }
        }
        Ok(())
    }

    /// Hold the files in `directory` (the other node's) against what was acknowledged. Only after [`Writers::end`].
    ///
    /// # Errors
    /// An acknowledged record is missing or damaged.
    pub fn verify(&self, directory: &Path) -> Result<Found> {
        let mut found = Found::default();
        for writer in &self.writers {
            let path = directory.join(&writer.name);
            let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
            let bytes = std::fs::read(&path).or_else(|error| {
                // Killed before anything was acknowledged: the file may not be there yet.
                if acknowledged == 0 { Ok(Vec::new()) } else { Err(error) }
            });
            let bytes = bytes.with_context(|| format!("read {}", path.display()))?;
            found.records += records::verify(&bytes, writer.number, acknowledged)
                .with_context(|| format!("in {}", path.display()))?;
            found.acknowledged += acknowledged;
        }
        Ok(found)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Writer {
    fn start(namespace: &Namespace, directory: &Path, prefix: &str, number: u32) -> Result<Writer> {
        let name = PathBuf::from(format!("{prefix}{number}"));
        let mut command = Command::new(worker::program()?);
        command.args(["worker", "append", "--writer", &number.to_string(), "--file"]);
        command.arg(directory.join(&name)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        namespace.enter(&mut command)?;
        let mut process = command.spawn().context("start a writer")?;
        let pipe = process.stdout.take().context("a writer's pipe")?;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&acknowledged);
        let reader = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = String::new();
            // Every line is the number of records acknowledged so far; one that was cut off was not said.
            while pipe.read_line(&mut line).is_ok() && line.ends_with('\n') {
                if let Ok(number) = line.trim().parse() {
                    count.store(number, Ordering::SeqCst);
                }
                line.clear();
            }
        });
        Ok(Writer { number, name, process, acknowledged, reader: Some(reader) })
    }
}
