//! fio with verification: each engine writes blocks that hold their own checksum and place, and reads them back.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::ground::Ground;
use super::outcome::{Case, Outcome};
use crate::lab::log::last;
use crate::setup;

/// Longest time of one engine.
const BOUND: Duration = Duration::from_secs(180);

/// Every engine that writes files, buffered and, where it can, past the page cache.
const ENGINES: &[(&str, &[&str])] = &[
    ("sync", &[]),
    ("psync", &[]),
    ("psync-direct", &["--direct=1"]),
    ("psync-dsync", &["--sync=dsync"]),
    ("psync-sync", &["--sync=sync"]),
    ("vsync", &[]),
    ("pvsync", &[]),
    ("pvsync2", &[]),
    ("mmap", &[]),
    ("splice", &[]),
    ("posixaio", &["--iodepth=8"]),
    ("libaio", &["--iodepth=8"]),
    ("libaio-direct", &["--iodepth=16", "--direct=1"]),
    ("io_uring", &["--iodepth=8"]),
    ("io_uring-direct", &["--iodepth=16", "--direct=1"]),
    ("io_uring-fixed", &["--iodepth=16", "--direct=1", "--fixedbufs=1", "--registerfiles=1"]),
];

/// Overwritten once in random order, synced now and then, then verified by reading.
const ARGUMENTS: &[&str] = &[
    "--rw=randwrite",
    "--bsrange=4k-64k",
    "--blockalign=4k",
    "--size=12m",
    "--loops=2",
    "--fsync=40",
    "--end_fsync=1",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--do_verify=1",
    "--randseed=7",
    "--allrandrepeat=1",
    "--thread=1",
];

/// Run the engines whose names contain one of `only`; all if there is none.
///
/// # Errors
/// fio cannot be started, or does not end in time.
pub fn run(ground: &mut Ground, only: &[String]) -> Result<Vec<Case>> {
    let chosen = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(word));
    ENGINES
        .iter()
        .filter(|(name, _)| chosen(name))
        .map(|(name, arguments)| one(ground, name, arguments))
        .collect()
}

fn one(ground: &mut Ground, name: &str, arguments: &[&str]) -> Result<Case> {
    let engine = name.split('-').next().unwrap_or(name);
    let mut command = Command::new(setup::program("fio"));
    // fio keeps its own record of what it verified in the working directory.
    command.current_dir(&ground.outside);
    command.arg(format!("--name={name}")).arg(format!("--ioengine={engine}"));
    command.arg(format!("--directory={}", ground.directory.display()));
    command.args(ARGUMENTS).args(arguments);
    let ended = ground.run(command, BOUND)?;
    let outcome = if ended.status.success() {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("{}: {}", ended.status, last(&ended.words, 8)))
    };
    Ok(Case::new(name, outcome))
}
