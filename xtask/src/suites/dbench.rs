//! dbench: the recorded file operations of a file server's clients. It fails if an operation fails that succeeded when
//! it was recorded.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::ground::Ground;
use super::outcome::{Case, Outcome};
use crate::lab::log::last;
use crate::setup;

/// Time that a run may take beside its seconds.
const AROUND: Duration = Duration::from_secs(180);

/// Name, options, clients.
const RUNS: &[(&str, &[&str])] = &[
    ("clients", &["4"]),
    // Every file O_SYNC: each write is a promise that waits for the peer.
    ("clients-sync-files", &["--sync", "2"]),
    ("clients-sync-directories", &["--sync-dir", "2"]),
    ("clients-fsync", &["--fsync", "2"]),
];

/// Run each for `seconds`.
///
/// # Errors
/// dbench cannot be started, or does not end in time.
pub fn run(ground: &mut Ground, seconds: u64) -> Result<Vec<Case>> {
    RUNS.iter().map(|(name, arguments)| one(ground, name, arguments, seconds)).collect()
}

fn one(ground: &mut Ground, name: &str, arguments: &[&str], seconds: u64) -> Result<Case> {
    let directory = ground.directory.join(name);
    std::fs::create_dir(&directory)?;
    let mut command = Command::new(setup::program("dbench"));
    command.arg("--directory").arg(&directory).args(["--timelimit", &seconds.to_string()]).args(arguments);
    let ended = ground.run(command, AROUND + Duration::from_secs(seconds))?;
    let complaint = ended.words.lines().find(|line| line.contains("ERROR") || line.contains("failed"));
    let outcome = match complaint {
        None if ended.status.success() && ended.words.contains("Throughput") => Outcome::Passed,
        Some(line) => Outcome::Failed(line.trim().to_owned()),
        None => Outcome::Failed(format!("{}: {}", ended.status, last(&ended.words, 5))),
    };
    Ok(Case::new(name, outcome))
}
