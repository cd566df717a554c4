//! pjdfstest: what POSIX and the manual pages say about each system call on names and attributes.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::ground::{Ended, Ground};
use super::install;
use super::outcome::{Case, Outcome};
use crate::lab::log::last;
use crate::setup;

/// Longest time of a run.
const BOUND: Duration = Duration::from_secs(15 * 60);

/// What the file systems below have, and users that every Debian has. The nap is longer than the kernel's coarsest time
/// stamp (10 ms at 100 Hz).
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]

[settings]
naptime = 0.02
"#;

/// In the names of the tests that remount their file system read-only.
const READ_ONLY: &str = "::erofs";

/// Run the tests whose names contain one of `only`; all if there is none.
///
/// Those that remount run in a process of their own: a file that an earlier test leaves open without a name would keep
/// the file system from being remounted.
///
/// # Errors
/// The suite did not come to its end.
pub fn run(ground: &mut Ground, only: &[String]) -> Result<Vec<Case>> {
    let only: Vec<&str> = only.iter().map(String::as_str).collect();
    let mut cases = part(ground, &only, false)?;
    let read_only = cases.iter().filter(|case| case.name.contains(READ_ONLY));
    let names: Vec<String> = read_only.map(|case| case.name.clone()).collect();
    if !names.is_empty() {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let remounting = part(ground, &names, true)?;
        cases.retain(|case| !case.name.contains(READ_ONLY));
        cases.extend(remounting.into_iter().filter(|case| case.name.contains(READ_ONLY)));
    }
    Ok(cases)
}

fn part(ground: &mut Ground, only: &[&str], remounting: bool) -> Result<Vec<Case>> {
    let configuration = ground.outside.join("pjdfstest.toml");
    fs::write(&configuration, format!("{CONFIGURATION}allow_remount = {remounting}\n"))?;
    let mut command = Command::new(install::pjdfstest()?);
    command.env("PATH", path_with_mount(&ground.outside)?);
    // Its words are read: without colours, and without the frames of each panic.
    command.env("NO_COLOR", "1").env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    command.arg("--configuration-file").arg(configuration).arg("--path").arg(&ground.directory);
    command.arg("--secondary-fs").arg(&ground.other).arg("--").args(only);
    let ended = ground.run(command, BOUND)?;
    read(&ended)
}

/// A PATH whose `mount` changes the kernel's mount by itself: mount(8) would hand a FUSE mount to a program that makes a
/// new one.
fn path_with_mount(outside: &Path) -> Result<OsString> {
    let directory = outside.join("bin");
    fs::create_dir_all(&directory)?;
    let script = directory.join("mount");
    let program = setup::program("mount");
    fs::write(&script, format!("#!/bin/sh\nexec {} --internal-only \"$@\"\n", program.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(directory).chain(std::env::split_paths(&path));
    std::env::join_paths(all).context("a PATH for the suite")
}

fn read(ended: &Ended) -> Result<Vec<Case>> {
    let cases = cases(&ended.words);
    let total = total(&ended.words)
        .with_context(|| format!("{}, without a summary:\n{}", ended.status, last(&ended.words, 15)))?;
    ensure!(total == cases.len(), "{} tests were read of {total}", cases.len());
    Ok(cases)
}

/// Each test has a line `name   ok`, and what it has to say in indented lines after it.
fn cases(words: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in words.lines() {
        if line.starts_with(char::is_whitespace) {
            if let Some(Outcome::Failed(words) | Outcome::Skipped(words)) =
                cases.last_mut().map(|case| &mut case.outcome)
            {
                words.push_str(line.trim());
                words.push(' ');
            }
            continue;
        }
        let parts: Vec<&str> = line.split_whitespace().collect();
        let outcome = match parts.as_slice() {
            [_, "ok"] => Outcome::Passed,
            [_, "FAILED"] => Outcome::Failed(String::new()),
            [_, "skipped"] => Outcome::Skipped(String::new()),
            _ => continue,
        };
        cases.push(Case::new(parts[0], outcome));
    }
    cases
}

/// The number before `total` in the closing line.
fn total(words: &str) -> Option<usize> {
    let line = words.lines().rev().find(|line| line.starts_with("Summary:"))?;
    line.strip_suffix(" total")?.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    const SAID: &str = "\
chmod::changed_mode::regular                       ok
chmod::enoent                                      FAILED
\tassertion failed: left == right
  left: 1
chflags::all                                       skipped
\trequires features: chflags

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
";

    fn ended(words: &str) -> Ended {
        Ended { status: ExitStatus::from_raw(256), words: words.to_owned() }
    }

    #[test]
    fn each_test_is_read_with_its_words() {
        let found = read(&ended(SAID)).unwrap();
        let words = "assertion failed: left == right left: 1 ".to_owned();
        assert_eq!(
            found,
            [
                Case::new("chmod::changed_mode::regular", Outcome::Passed),
                Case::new("chmod::enoent", Outcome::Failed(words)),
                Case::new("chflags::all", Outcome::Skipped("requires features: chflags ".into())),
            ]
        );
    }

    #[test]
    fn a_suite_that_died_or_was_misread_is_no_result() {
        assert!(read(&ended("chmod::enoent    ok\n")).is_err());
        assert!(read(&ended(&SAID.replace("3 total", "4 total"))).is_err());
    }
}
