//! stress-ng: the stressors of the class `filesystem` that work on files in a directory, each with verification.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::ground::{Ended, Ground};
use super::outcome::{Case, Outcome};
use crate::lab::log::last;
use crate::setup;

/// Longest time of one stressor, whatever it is told.
const BOUND: Duration = Duration::from_secs(120);
/// After these seconds a stressor ends by itself.
const SECONDS: &str = "4";

/// Stressor, how many of its operations, and what else it is told. Left out are those of the class that work on
/// something else (binderfs, procfs, event descriptors) or on the whole machine (fanotify marks, I/O priorities, bind mounts).
const STRESSORS: &[(&str, u32, &[&str])] = &[
    ("access", 100, &[]),
    ("aio", 200, &[]),
    ("aiol", 20, &[]),
    ("chattr", 20, &[]),
    ("chdir", 100, &["--chdir-dirs", "64"]),
    ("chmod", 50, &[]),
    ("chown", 200, &[]),
    ("copy-file", 20, &["--copy-file-bytes", "128m"]),
    ("dentry", 2000, &[]),
    ("dir", 200, &["--dir-dirs", "256"]),
    ("dirdeep", 200, &[]),
    ("dirmany", 200, &[]),
    ("dup", 200, &[]),
    ("fallocate", 20, &["--fallocate-bytes", "64m"]),
    ("fcntl", 500, &[]),
    ("fiemap", 200, &["--fiemap-bytes", "32m"]),
    ("file-ioctl", 200, &[]),
    ("filename", 200, &[]),
    ("flock", 500, &[]),
    ("fpunch", 2, &[]),
    ("fsize", 50, &[]),
    ("fstat", 200, &[]),
    ("getdent", 200, &[]),
    ("handle", 200, &[]),
    ("hdd", 200, &["--hdd-bytes", "32m"]),
    ("inode-flags", 5, &[]),
    ("inotify", 5, &[]),
    ("io-uring", 200, &[]),
    ("iomix", 200, &["--iomix-bytes", "64m"]),
    ("lease", 50, &[]),
    ("link", 50, &[]),
    ("locka", 500, &[]),
    ("lockf", 500, &[]),
    ("lockofd", 500, &[]),
    ("mknod", 100, &[]),
    ("mmap", 20, &["--mmap-file", "--mmap-bytes", "16m"]),
    ("msync", 50, &["--msync-bytes", "8m"]),
    ("open", 1000, &[]),
    ("readahead", 50, &["--readahead-bytes", "32m"]),
    ("rename", 500, &[]),
    ("revio", 100, &["--revio-bytes", "32m"]),
    ("seek", 200, &["--seek-size", "32m"]),
    ("sendfile", 200, &["--sendfile-size", "4m"]),
    ("splice", 100, &[]),
    ("symlink", 20, &[]),
    ("sync-file", 2, &["--sync-file-bytes", "16m"]),
    ("touch", 200, &[]),
    ("utime", 200, &[]),
    ("verity", 20, &[]),
    ("xattr", 10, &[]),
];

/// Run the stressors whose names contain one of `only`; all if there is none.
///
/// # Errors
/// One cannot be started, or does not end in time.
pub fn run(ground: &mut Ground, only: &[String]) -> Result<Vec<Case>> {
    let chosen = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(word));
    STRESSORS
        .iter()
        .filter(|(name, _, _)| chosen(name))
        .map(|(name, operations, arguments)| one(ground, name, *operations, arguments))
        .collect()
}

fn one(ground: &mut Ground, name: &str, operations: u32, arguments: &[&str]) -> Result<Case> {
    let directory = ground.directory.join(name);
    fs::create_dir(&directory)?;
    let mut command = Command::new(setup::program("stress-ng"));
    command.args([&format!("--{name}"), "2", &format!("--{name}-ops"), &operations.to_string()]);
    command.args(arguments).args(["--verify", "--no-rand-seed", "--timeout", SECONDS]);
    command.arg("--temp-path").arg(&directory);
    let ended = ground.run(command, BOUND)?;
    Ok(Case::new(name, outcome(&ended)))
}

/// Exit codes: see stress-ng(1). 3 and 4 mean that the machine or the file system lacks what the stressor needs; so does 0
/// with words that say that it was skipped.
fn outcome(ended: &Ended) -> Outcome {
    let told: Vec<&str> = ended
        .words
        .lines()
        .filter(|line| ["fail:", "error:", "warn:", "skip"].iter().any(|word| line.contains(word)))
        .collect();
    let told = format!("{}: {}", ended.status, last(&told.join("\n"), 5));
    match ended.status.code() {
        Some(0) if ended.words.contains("skipping stress") => Outcome::Skipped(told),
        Some(0) if !ended.words.contains("fail:") => Outcome::Passed,
        Some(3 | 4) => Outcome::Skipped(told),
        _ => Outcome::Failed(told),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn said(code: i32, words: &str) -> Outcome {
        outcome(&Ended { status: ExitStatus::from_raw(code << 8), words: words.to_owned() })
    }

    #[test]
    fn a_skipped_stressor_has_not_passed() {
        assert_eq!(said(0, "stress-ng: info: successful run completed"), Outcome::Passed);
        assert!(matches!(said(0, "verity is not supported, skipping stress test"), Outcome::Skipped(_)));
        assert!(matches!(said(3, "out of system resources"), Outcome::Skipped(_)));
        assert!(matches!(said(2, "fail: [1] access"), Outcome::Failed(_)));
        assert!(matches!(said(0, "stress-ng: fail: [1] access"), Outcome::Failed(_)));
    }
}
