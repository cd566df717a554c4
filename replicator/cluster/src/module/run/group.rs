//! Processes as the kernel shows them in /proc, and the groups they form; see proc_pid_stat(5).
//!
//! A number of a process may be given again to another one. So a process is known by its number and the time it was started, and
//! a group is only signalled while its leader, alive or dead, has not been waited for: until then nobody else gets the number.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgrp};
use tokio::time::{Instant, sleep};

/// Pause between two looks whether a group has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A process at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name, at most 15 bytes.
    pub command: String,
    /// Its state, one letter; `Z` and `X` are dead.
    pub state: char,
    /// Its group.
    pub group: i32,
    /// When it was started, in ticks since the machine was.
    pub started: u64,
}

impl Process {
    /// The process of this number, if there is one.
    pub(in super::super) fn look(pid: i32) -> Option<Process> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Process::parse(pid, &String::from_utf8_lossy(&stat))
    }

    /// From the content of /proc/<pid>/stat. The name is in brackets and may itself hold any characters, brackets too.
    fn parse(pid: i32, stat: &str) -> Option<Process> {
        let (front, rest) = stat.rsplit_once(')')?;
        let (_, command) = front.split_once('(')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Process {
            pid,
            command: command.to_owned(),
            state: fields.first()?.chars().next()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it still runs.
    pub(in super::super) fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Every process that runs now.
pub(in super::super) fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::look)
        .filter(Process::alive)
}

/// Whether anything of the group runs.
pub(super) fn runs(group: i32) -> bool {
    processes().any(|process| process.group == group)
}

/// Tell each process of the group. One that has none is no error: it has ended meanwhile.
pub(super) fn signal(group: i32, signal: Signal) {
    // Zero and one would be this node's own group and every process there is.
    if group > 1 && group != getpgrp().as_raw() {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

/// Ask the group to end, and end it after `grace`; whether it was asked in vain.
pub(super) async fn end(group: i32, grace: Duration) -> bool {
    signal(group, Signal::SIGTERM);
    // What is stopped could not hear it.
    signal(group, Signal::SIGCONT);
    if ends(group, grace).await {
        return false;
    }
    signal(group, Signal::SIGKILL);
    true
}

/// Wait at most `limit` for everything of the group to end.
pub(super) async fn ends(group: i32, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while runs(group) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_INTERVAL).await;
    }
    true
}

/// The group of a child that has not been waited for yet; ended at once if this is dropped before.
pub(super) struct GroupGuard {
    group: i32,
    waited_for: bool,
}

impl GroupGuard {
    /// Of the child `group`, which leads a group of its own.
    pub(super) fn new(group: i32) -> GroupGuard {
        GroupGuard { group, waited_for: false }
    }

    /// Its number.
    pub(super) fn group(&self) -> i32 {
        self.group
    }

    /// The child was waited for.
    pub(super) fn waited_for(&mut self) {
        self.waited_for = true;
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if !self.waited_for {
            signal(self.group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_is_read() {
        let stat = "42 (a) b (c) S 1 40 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000 20 0";
        let process = Process::parse(42, stat);
        let expected =
            Process { pid: 42, command: "a) b (c".into(), state: 'S', group: 40, started: 123_456 };
        assert_eq!(process, Some(expected));
    }

    #[test]
    fn what_is_no_stat_is_nothing() {
        for stat in [
            "",
            "42",
            "42 (x",
            "42 (x) ",
            "42 (x) S 1",
            "42 (x) S 1 y 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 1",
        ] {
            assert_eq!(Process::parse(42, stat), None, "{stat:?}");
        }
    }

    #[test]
    fn this_process_is_there() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(processes().any(|process| process.pid == own));
    }
}
