//! fsx: random operations on one file; what was read is compared with what must be there.
//!
//! The same seed makes the same operations, so the file's last bytes are the same on both sides too.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ground::Ground;
use super::install;
use super::outcome::{Case, Outcome};
use crate::lab::log::last;

/// Longest time of one operation on a slow and busy machine, for the bound of a run.
const OPERATION: Duration = Duration::from_millis(20);
/// Time that a run may take beside its operations.
const AROUND: Duration = Duration::from_secs(300);

/// All operations of fsx: the defaults leave out syncing, closing, space and copies.
const WEIGHTS: &str = "
[weights]
close_open = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 2
punch_hole = 3
posix_fadvise = 1
copy_file_range = 2
";

/// One way to run it.
struct Way {
    name: &'static str,
    /// Keys before the table of weights.
    keys: &'static str,
    /// Weight of sendfile.
    sendfile: u32,
}

const WAYS: &[Way] = &[
    // The file becomes strict, and is opened again before its release is over: sendfile is refused, see docs/semantics.md. fsx
    // takes that for an error.
    Way { name: "mappings-synced", keys: "", sendfile: 0 },
    // The tracer, and not msync, must tell that a page was stored to.
    Way { name: "mappings-not-synced", keys: "nomsyncafterwrite = true\n", sendfile: 2 },
];

/// The longest time that all of it may take, on both sides.
#[must_use]
pub fn bound(operations: u64, seeds: u64) -> Duration {
    let runs = u32::try_from(seeds).unwrap_or(u32::MAX).saturating_mul(2 * WAYS.len() as u32);
    one_bound(operations).saturating_mul(runs)
}

fn one_bound(operations: u64) -> Duration {
    AROUND + OPERATION * u32::try_from(operations).unwrap_or(u32::MAX)
}

/// Run `operations` in each way with each seed, and wait after each for both trees to be the same.
///
/// # Errors
/// It cannot be started, or does not end in time; or the trees stay different.
pub fn run(ground: &mut Ground, operations: u64, seeds: RangeInclusive<u64>) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for seed in seeds {
        for way in WAYS {
            cases.push(one(ground, way, operations, seed)?);
            ground.settle().with_context(|| format!("{}, seed {seed}", way.name))?;
        }
    }
    Ok(cases)
}

fn one(ground: &mut Ground, way: &Way, operations: u64, seed: u64) -> Result<Case> {
    let name = format!("{} {seed}", way.name);
    let configuration = ground.outside.join(format!("{name}.toml"));
    fs::write(&configuration, format!("{}{WEIGHTS}sendfile = {}\n", way.keys, way.sendfile))?;
    let file = ground.directory.join(&name);
    let mut command = Command::new(install::fsx()?);
    command.arg("-f").arg(configuration).arg("-P").arg(&ground.outside);
    command.args(["-N", &operations.to_string(), "-S", &seed.to_string()]).arg(&file);
    let ended = ground.run(command, one_bound(operations))?;
    let outcome = if ended.status.success() && ended.words.contains("All operations completed") {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("{}: {}", ended.status, last(&ended.words, 8)))
    };
    let left = Some(digest(&file)?);
    Ok(Case { left, ..Case::new(&name, outcome) })
}

fn digest(path: &Path) -> Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hasher.write_usize(bytes.len());
    Ok(hasher.finish())
}
