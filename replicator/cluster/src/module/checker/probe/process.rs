//! Whether processes are there.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::super::super::ProcessDescription;
use super::super::super::run::{Process, processes};

/// Longest file with the number of a process, and longest list of arguments, that are read, in bytes.
const PID_FILE_BYTES_MAX: u64 = 4096;
const ARGUMENTS_BYTES_MAX: u64 = 128 << 10;

pub(super) fn look(wanted: &ProcessDescription) -> Result<(), String> {
    if let Some(path) = &wanted.pid_file {
        return named(path, wanted);
    }
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let most = wanted.at_most.unwrap_or(u32::MAX);
    let mut count = 0u32;
    for _ in processes().filter(|process| process.pid != own && matches(process, wanted)) {
        count = count.saturating_add(1);
        // There can be no more to learn.
        if count > most || (wanted.at_most.is_none() && count >= wanted.at_least) {
            break;
        }
    }
    if count < wanted.at_least {
        return Err(format!("{count} processes are there, at least {} must be", wanted.at_least));
    }
    if count > most {
        return Err(format!("more than {most} processes are there"));
    }
    Ok(())
}

/// Whether the process in the file is there, and is the one that is meant: its number may be another's by now.
fn named(path: &Path, wanted: &ProcessDescription) -> Result<(), String> {
    let text =
        read(path, PID_FILE_BYTES_MAX).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let line = text.lines().next().unwrap_or_default().trim();
    let pid = line.parse::<i32>().ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| format!("{} holds no number of a process", path.display()))?;
    match Process::look(pid).filter(Process::alive) {
        None => Err(format!("process {pid} of {} is gone", path.display())),
        Some(process) if !matches(&process, wanted) => {
            Err(format!("process {pid} of {} is another one ({})", path.display(), process.command))
        }
        Some(_) => Ok(()),
    }
}

fn matches(process: &Process, wanted: &ProcessDescription) -> bool {
    let named = wanted.command.as_ref().is_none_or(|command| *command == process.command);
    named && wanted.arguments.as_ref().is_none_or(|pattern| pattern.found_in(&arguments(process.pid)))
}

/// The arguments of a process, joined by spaces.
fn arguments(pid: i32) -> String {
    let text = read(Path::new(&format!("/proc/{pid}/cmdline")), ARGUMENTS_BYTES_MAX).unwrap_or_default();
    text.trim_end_matches('\0').replace('\0', " ")
}

fn read(path: &Path, limit: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
