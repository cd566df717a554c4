//! Hidden commands: work that must be a process of its own, because it is killed in the middle or measured.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::lab::mapping::Mapping;
use crate::lab::records::{self, Random};

/// Work in a process of its own.
#[derive(clap::Subcommand)]
pub enum Args {
    /// Append records, fsync each, and print how many are acknowledged.
    Append {
        /// The file, made new.
        #[arg(long)]
        file: PathBuf,
        /// Number of this writer.
        #[arg(long)]
        writer: u32,
    },
    /// Create small files with an fsync each for some seconds, and print the latencies as JSON.
    Create {
        /// Where; must exist.
        #[arg(long)]
        directory: PathBuf,
        /// How long.
        #[arg(long)]
        seconds: u64,
    },
    /// Change a few small files until killed: written, cut, renamed, removed, and hardly ever synced.
    Scribble {
        /// Where; must exist.
        #[arg(long)]
        directory: PathBuf,
        /// Same seed, same work.
        #[arg(long)]
        seed: u64,
    },
    /// Write small records with an fsync each, and print when each call began and ended (monotonic clock, nanoseconds).
    Probe {
        /// The file, made new.
        #[arg(long)]
        file: PathBuf,
    },
    /// Do operations as told over standard input, for the model.
    Actor,
    /// Keep numbered records for clients, until killed: the application of the cluster's laboratory.
    Ledger {
        /// The file, made if it is missing.
        #[arg(long)]
        file: PathBuf,
        /// Where clients connect.
        #[arg(long)]
        listen: std::net::SocketAddr,
    },
    /// Burn processor time until killed.
    Burn,
    /// Mixed writes at full speed for some seconds: buffered, mapped, renamed, truncated, synced.
    Mixed {
        /// Where; must exist.
        #[arg(long)]
        directory: PathBuf,
        /// How long.
        #[arg(long)]
        seconds: u64,
        /// Same seed, same work.
        #[arg(long)]
        seed: u64,
    },
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    match args {
        Args::Append { file, writer } => append(&file, writer),
        Args::Create { directory, seconds } => {
            let latencies = create(&directory, Duration::from_secs(seconds))?;
            println!("{}", serde_json::to_string(&latencies)?);
            Ok(())
        }
        Args::Scribble { directory, seed } => scribble(&directory, seed),
        Args::Probe { file } => probe(&file),
        Args::Actor => crate::model::serve(),
        Args::Ledger { file, listen } => crate::lab::ledger::serve(&file, listen),
        Args::Burn => loop {
            std::hint::spin_loop();
        },
        Args::Mixed { directory, seconds, seed } => {
            let written = mixed(&directory, Duration::from_secs(seconds), seed)?;
            println!("{written}");
            Ok(())
        }
    }
}

/// Path of this program, as it was when it started: a build during the run may replace it.
///
/// # Errors
/// The kernel does not say.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let program = std::env::current_exe().context("find this program")?;
    Ok(PROGRAM.get_or_init(|| program).clone())
}

fn append(path: &Path, writer: u32) -> Result<()> {
    let mut file = File::create_new(path).with_context(|| format!("create {}", path.display()))?;
    // The name is part of what is acknowledged: fsync of a new file does not promise it.
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    let mut pipe = std::io::stdout();
    for number in 0.. {
        file.write_all(&records::encode(writer, number))?;
        if number % 2 == 0 {
            file.sync_data()?
        } else {
            file.sync_all()?
        }
        // One write(2): standard output is flushed at the line's end.
        pipe.write_all(format!("{}\n", number + 1).as_bytes())?;
    }
    Ok(())
}

/// The records of the probe go round in a file of this size.
const PROBE_BYTES: u64 = 1 << 20;

fn probe(path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let bytes = Random::new(9).bytes(4096);
    let mut pipe = std::io::stdout();
    for number in 0.. {
        let begin = monotonic();
        file.write_all_at(&bytes, number * 4096 % PROBE_BYTES)?;
        file.sync_all()?;
        pipe.write_all(format!("{begin} {}\n", monotonic()).as_bytes())?;
    }
    Ok(())
}

/// The monotonic clock, which all processes share, in nanoseconds.
#[must_use]
pub fn monotonic() -> u64 {
    let Ok(time) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else { return 0 };
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Latencies of one kind of operation.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub struct Latencies {
    /// Operations done.
    pub count: u64,
    /// Operations per second.
    pub per_second: f64,
    /// Percentiles, in microseconds.
    pub p50_us: f64,
    /// The same.
    pub p90_us: f64,
    /// The same.
    pub p99_us: f64,
}

impl Latencies {
    fn of(mut taken: Vec<Duration>, over: Duration) -> Latencies {
        taken.sort_unstable();
        let at = |share: f64| {
            let index = ((taken.len() as f64 * share) as usize).min(taken.len().saturating_sub(1));
            taken.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Latencies {
            count: taken.len() as u64,
            per_second: taken.len() as f64 / over.as_secs_f64().max(1e-9),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
        }
    }
}

fn create(directory: &Path, time: Duration) -> Result<Latencies> {
    let bytes = Random::new(7).bytes(4096);
    let begin = Instant::now();
    let mut taken = Vec::new();
    while begin.elapsed() < time {
        let path = directory.join(format!("small-{}", taken.len()));
        let one = Instant::now();
        let mut file = File::create_new(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        drop(file);
        taken.push(one.elapsed());
    }
    let latencies = Latencies::of(taken, begin.elapsed());
    for number in 0..latencies.count {
        fs::remove_file(directory.join(format!("small-{number}")))?;
    }
    Ok(latencies)
}

/// Files the mixed work goes round on.
const MIXED_FILES: u64 = 24;
/// Largest size of one of them.
const MIXED_SIZE: u64 = 4 << 20;

fn mixed(directory: &Path, time: Duration, seed: u64) -> Result<u64> {
    let mut random = Random::new(seed);
    let bytes = random.bytes(256 * 1024);
    let begin = Instant::now();
    let mut written = 0;
    while begin.elapsed() < time {
        let path = directory.join(format!("mixed-{}", random.below(MIXED_FILES)));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let at = random.below(MIXED_SIZE);
        match random.below(20) {
            0 => fs::rename(&path, directory.join(format!("mixed-{}", random.below(MIXED_FILES))))?,
            1 => file.set_len(at)?,
            2 => file.sync_data()?,
            3 => fs::remove_file(&path)?,
            4 | 5 => written += store(&file, at, &bytes[..8192])?,
            6..=8 => {
                file.write_all_at(&bytes, at)?;
                written += bytes.len() as u64;
            }
            _ => {
                let from = random.below(bytes.len() as u64 - 4096) as usize;
                for step in 0..8 {
                    file.write_all_at(&bytes[from..from + 4096], at + step * 8192)?;
                    written += 4096;
                }
            }
        }
    }
    Ok(written)
}

/// Files of a scribbler, and the size up to which they grow.
const SCRIBBLED_FILES: u64 = 16;
const SCRIBBLED_SIZE: u64 = 256 << 10;

fn scribble(directory: &Path, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let bytes = random.bytes(16 << 10);
    loop {
        let path = directory.join(format!("scribbled-{}", random.below(SCRIBBLED_FILES)));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let at = random.below(SCRIBBLED_SIZE);
        match random.below(40) {
            0 => fs::rename(&path, directory.join(format!("scribbled-{}", random.below(SCRIBBLED_FILES))))?,
            1 => file.set_len(at)?,
            2 => file.sync_data()?,
            3 => fs::remove_file(&path)?,
            4 => drop(store(&file, at, &bytes[..4096])?),
            _ => file.write_all_at(&bytes[..1 + random.below(bytes.len() as u64) as usize], at)?,
        }
    }
}

/// Store through a shared mapping that is unmapped without msync.
fn store(file: &File, at: u64, bytes: &[u8]) -> Result<u64> {
    let start = at / 4096 * 4096;
    let end = start + bytes.len() as u64;
    if file.metadata()?.len() < end {
        file.set_len(end)?;
    }
    Mapping::new(file, start, bytes.len())?.store(0, bytes);
    Ok(bytes.len() as u64)
}
