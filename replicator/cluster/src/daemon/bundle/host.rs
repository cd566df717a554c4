//! What a node runs on.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::PIECE_BYTES_MAX;
use crate::supervisor;

/// The unit whose journal is asked for.
const UNIT: &str = "replicator-cluster.service";
/// Lines of it.
const LINES: &str = "2000";
/// Longest time the journal may take; shorter than the other node waits for an answer.
const JOURNAL_LIMIT: Duration = Duration::from_secs(4);

/// What of the kernel decides what a node can do.
const KERNEL: &[&str] = &[
    "/proc/version",
    "/proc/cmdline",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/sys/kernel/security/lsm",
    "/sys/kernel/security/lockdown",
    "/sys/module/fuse/parameters/enable_uring",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/kernel/io_uring_disabled",
    "/proc/sys/fs/fanotify/max_queued_events",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource",
];
/// Whether these are there.
const THERE: &[&str] =
    &["/dev/fuse", "/sys/kernel/btf/vmlinux", "/run/systemd/system", "/sys/fs/cgroup/cgroup.controllers"];

/// A piece of a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// This program's version and the system's.
    Versions,
    /// uname(2).
    Uname,
    /// What is mounted.
    Mounts,
    /// What the kernel has and allows.
    Kernel,
    /// Networks and how much went through them.
    Networks,
    /// What the daemon logged last.
    Journal,
}

impl Piece {
    /// All of them.
    pub const ALL: [Piece; 6] =
        [Piece::Versions, Piece::Uname, Piece::Mounts, Piece::Kernel, Piece::Networks, Piece::Journal];

    /// Its name in a bundle.
    pub fn name(self) -> &'static str {
        match self {
            Piece::Versions => "versions",
            Piece::Uname => "uname",
            Piece::Mounts => "mounts",
            Piece::Kernel => "kernel",
            Piece::Networks => "networks",
            Piece::Journal => super::JOURNAL,
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// The system does not say. The journal is asked for by [`journal`].
    pub fn read(self) -> io::Result<String> {
        match self {
            Piece::Versions => {
                let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
                Ok(format!("replicator {}\n{system}", env!("CARGO_PKG_VERSION")))
            }
            Piece::Uname => uname(),
            Piece::Mounts => fs::read_to_string("/proc/self/mountinfo"),
            Piece::Kernel => Ok(kernel()),
            Piece::Networks => {
                Ok(files(&["/proc/net/dev", "/proc/net/route", "/proc/net/if_inet6", "/proc/net/fib_trie"]))
            }
            Piece::Journal => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn uname() -> io::Result<String> {
    let name = nix::sys::utsname::uname()?;
    let parts = [name.sysname(), name.nodename(), name.release(), name.version(), name.machine()];
    Ok(parts.map(|part| part.to_string_lossy().into_owned()).join(" ") + "\n")
}

fn kernel() -> String {
    let mut text = files(KERNEL);
    for path in THERE {
        text += &format!("{path}: {}\n", if Path::new(path).exists() { "there" } else { "not there" });
    }
    text
}

/// Several small files, each under its name; those that are not there are left out.
fn files(paths: &[&str]) -> String {
    let read = |path: &&str| Some(format!("==> {path} <==\n{}\n", fs::read_to_string(path).ok()?.trim_end()));
    paths.iter().filter_map(read).collect()
}

/// What the daemon logged last, where systemd keeps it.
pub async fn journal() -> String {
    let mut command = tokio::process::Command::new("journalctl");
    command.args([
        "--unit",
        UNIT,
        "--lines",
        LINES,
        "--no-pager",
        "--output",
        "short-iso-precise",
        "--quiet",
    ]);
    for name in supervisor::VARIABLES {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(JOURNAL_LIMIT, command.output()).await {
        Ok(Ok(output)) => {
            let from = output.stdout.len().saturating_sub(PIECE_BYTES_MAX as usize);
            String::from_utf8_lossy(output.stdout.get(from..).unwrap_or_default()).into_owned()
        }
        Ok(Err(error)) => format!("journalctl cannot be run: {error}\n"),
        Err(_) => format!("journalctl did not end within {JOURNAL_LIMIT:?}\n"),
    }
}
