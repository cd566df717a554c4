//! What is measured.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::fio::{self, Figures};
use super::prepared::{BULK, DIRECT, SYNCED};
use super::variants::Variant;
use crate::lab::exec;
use crate::worker::{self, Latencies};

/// One job.
pub struct Job {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    kind: Kind,
}

enum Kind {
    /// fio on one of the prepared files.
    Fio { file: &'static str, arguments: &'static [&'static str] },
    /// A new file of 4 KiB, fsync, close; again and again.
    Create,
}

const fn fio(
    name: &'static str,
    about: &'static str,
    file: &'static str,
    arguments: &'static [&'static str],
) -> Job {
    Job { name, about, kind: Kind::Fio { file, arguments } }
}

/// All jobs.
pub const JOBS: &[Job] = &[
    fio("write-1m", "sequential write calls of 1 MiB", BULK, &["--rw=write", "--bs=1m", "--invalidate=0"]),
    fio(
        "write-4k",
        "random buffered write calls of 4 KiB",
        BULK,
        // fio would empty the page cache before it begins. On the gate that empties FUSE's own, which is empty, and
        // not the backing file's: both are to start from the same cache.
        &["--rw=randwrite", "--bs=4k", "--norandommap", "--invalidate=0"],
    ),
    fio("sync-1", "write 4 KiB and fsync, one job", SYNCED, &["--rw=write", "--bs=4k", "--fsync=1"]),
    fio(
        "sync-4",
        "the same, four jobs on files of their own",
        SYNCED,
        &["--rw=write", "--bs=4k", "--fsync=1", "--numjobs=4"],
    ),
    Job { name: "create", about: "new file of 4 KiB, fsync, close", kind: Kind::Create },
    fio(
        "direct-write",
        "O_DIRECT random write of 4 KiB, depth 16",
        DIRECT,
        &["--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=16", "--norandommap"],
    ),
    fio(
        "direct-read",
        "O_DIRECT random read of 4 KiB, depth 16",
        DIRECT,
        &["--rw=randread", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=16", "--norandommap"],
    ),
    fio("read-1m", "sequential buffered read of 1 MiB", BULK, &["--rw=read", "--bs=1m", "--invalidate=0"]),
    fio(
        "read-4k",
        "random buffered read of 4 KiB",
        BULK,
        &["--rw=randread", "--bs=4k", "--invalidate=0", "--norandommap"],
    ),
];

impl Job {
    /// Whether the job says something in this variant: `semi-sync` differs in what waits only.
    pub fn runs_in(&self, variant: Variant) -> bool {
        variant != Variant::SemiSync || self.waits()
    }

    fn waits(&self) -> bool {
        matches!(self.kind, Kind::Create | Kind::Fio { file: SYNCED, .. })
    }

    /// Run it for some seconds in a prepared directory.
    pub fn run(&self, directory: &Path, seconds: u64) -> Result<Figures> {
        match &self.kind {
            Kind::Fio { file, arguments } => fio::run(directory, file, arguments, seconds),
            Kind::Create => {
                let mut command = Command::new(worker::program()?);
                command.args(["worker", "create", "--seconds", &seconds.to_string(), "--directory"]);
                let words = exec::output(command.arg(directory))?;
                let found: Latencies = serde_json::from_str(&words).context("the worker's figures")?;
                Ok(Figures {
                    per_second: found.per_second,
                    bytes_per_second: found.per_second * 4096.0,
                    p50_us: found.p50_us,
                    p90_us: found.p90_us,
                    p99_us: found.p99_us,
                    sync_p50_us: 0.0,
                })
            }
        }
    }
}
