//! What this process may do.

use nix::sys::resource::{Resource, getrlimit};

use super::finding::Finding;
use super::host::small_file;
use crate::cli::status::bytes;

/// Name and number of each capability (linux/capability.h), and what a node needs it for; empty: it does not.
const CAPABILITIES: [(&str, &str); 41] = [
    ("CAP_CHOWN", "give files the owner they have on the primary"),
    ("CAP_DAC_OVERRIDE", "read and write files of every owner"),
    ("CAP_DAC_READ_SEARCH", "open files by handle"),
    ("CAP_FOWNER", "set mode, times and extended attributes of files of every owner"),
    ("CAP_FSETID", "keep setuid and setgid bits"),
    ("CAP_KILL", ""),
    ("CAP_SETGID", "create files under the caller's group"),
    ("CAP_SETUID", "create files under the caller's user"),
    ("CAP_SETPCAP", ""),
    ("CAP_LINUX_IMMUTABLE", "set and take off the immutable and append-only flags"),
    ("CAP_NET_BIND_SERVICE", ""),
    ("CAP_NET_BROADCAST", ""),
    ("CAP_NET_ADMIN", ""),
    ("CAP_NET_RAW", ""),
    ("CAP_IPC_LOCK", ""),
    ("CAP_IPC_OWNER", ""),
    ("CAP_SYS_MODULE", ""),
    ("CAP_SYS_RAWIO", ""),
    ("CAP_SYS_CHROOT", ""),
    ("CAP_SYS_PTRACE", ""),
    ("CAP_SYS_PACCT", ""),
    ("CAP_SYS_ADMIN", "mount the gate, register passthrough files, trusted extended attributes"),
    ("CAP_SYS_BOOT", ""),
    ("CAP_SYS_NICE", ""),
    ("CAP_SYS_RESOURCE", ""),
    ("CAP_SYS_TIME", ""),
    ("CAP_SYS_TTY_CONFIG", ""),
    ("CAP_MKNOD", "make device files"),
    ("CAP_LEASE", ""),
    ("CAP_AUDIT_WRITE", ""),
    ("CAP_AUDIT_CONTROL", ""),
    ("CAP_SETFCAP", "set file capabilities"),
    ("CAP_MAC_OVERRIDE", ""),
    ("CAP_MAC_ADMIN", ""),
    ("CAP_SYSLOG", ""),
    ("CAP_WAKE_ALARM", ""),
    ("CAP_BLOCK_SUSPEND", ""),
    ("CAP_AUDIT_READ", ""),
    ("CAP_PERFMON", "attach kernel programs"),
    ("CAP_BPF", "load kernel programs"),
    ("CAP_CHECKPOINT_RESTORE", ""),
];

/// Capabilities without which no tree can be kept identical, or no file be opened at all.
pub(super) const VITAL: [&str; 8] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
];

/// Descriptors below which a node is short of them under many open files.
const FILES_WANTED: u64 = 65_536;
/// Locked memory that rings need on kernels that account it so.
const LOCKED_WANTED: u64 = 64 << 20;

/// User, capabilities, limits, seccomp.
pub fn findings() -> Vec<Finding> {
    let status = small_file("/proc/self/status").unwrap_or_default();
    let mut findings = vec![user(), capabilities(&status)];
    findings.extend(missing_capabilities(&status));
    findings
        .push(limit("limit-open-files", Resource::RLIMIT_NOFILE, FILES_WANTED, |value| value.to_string()));
    findings.push(limit("limit-locked-memory", Resource::RLIMIT_MEMLOCK, LOCKED_WANTED, bytes));
    findings.push(seccomp(&status));
    findings
}

fn user() -> Finding {
    let user = nix::unistd::geteuid();
    let detail =
        if user.is_root() { "root".to_owned() } else { format!("user id {user}; a node runs as root") };
    Finding::of("root", user.is_root(), detail)
}

/// A field of /proc/self/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The effective capabilities as a bit set.
fn effective(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapEff")?, 16).ok()
}

/// The names in a bit set of capabilities.
pub(super) fn names(set: u64) -> Vec<String> {
    (0..64_usize)
        .filter(|bit| set & (1 << bit) != 0)
        .map(|bit| {
            CAPABILITIES.get(bit).map_or_else(|| format!("capability {bit}"), |(name, _)| (*name).to_owned())
        })
        .collect()
}

fn capabilities(status: &str) -> Finding {
    let name = "capabilities";
    match effective(status) {
        None => Finding::unknown(name, "no CapEff in /proc/self/status"),
        Some(0) => Finding::no(name, "none; run as root"),
        Some(set) => {
            let held = names(set);
            let detail = if CAPABILITIES.len() == held.len() { "all".to_owned() } else { held.join(" ") };
            Finding::yes(name, detail)
        }
    }
}

fn missing_capabilities(status: &str) -> Vec<Finding> {
    let set = effective(status).unwrap_or(0);
    let missing =
        CAPABILITIES.iter().enumerate().filter(|(bit, (_, need))| !need.is_empty() && set & (1 << bit) == 0);
    missing
        .map(|(_, (name, need))| Finding::no(*name, format!("missing; a node needs it to {need}")))
        .collect()
}

/// The capabilities without which a node cannot run, and which this process lacks. Empty if it cannot be found out.
pub fn vital_missing() -> Vec<&'static str> {
    let Some(set) = effective(&small_file("/proc/self/status").unwrap_or_default()) else {
        return Vec::new();
    };
    let missing = CAPABILITIES.iter().enumerate().filter(|(bit, _)| set & (1 << bit) == 0);
    missing.map(|(_, (name, _))| *name).filter(|name| VITAL.contains(name)).collect()
}

fn limit(name: &str, resource: Resource, wanted: u64, show: fn(u64) -> String) -> Finding {
    let shown = |value| if value == libc::RLIM_INFINITY { "unlimited".to_owned() } else { show(value) };
    match getrlimit(resource) {
        Ok((soft, hard)) => {
            let detail = format!("soft {}, hard {}", shown(soft), shown(hard));
            let enough = hard >= wanted;
            let remedy =
                if enough { String::new() } else { format!("; raise the hard limit to {}", show(wanted)) };
            Finding::of(name, enough, detail + &remedy)
        }
        Err(errno) => Finding::unknown(name, format!("getrlimit: {errno}")),
    }
}

fn seccomp(status: &str) -> Finding {
    let name = "no-system-call-filter";
    match field(status, "Seccomp") {
        Some("0") => Finding::yes(name, "seccomp is off"),
        Some(mode) => Finding::no(
            name,
            format!(
                "seccomp mode {mode}: bpf, mount, io_uring or file handle calls may be refused; see the findings about them"
            ),
        ),
        None => Finding::unknown(name, "no Seccomp in /proc/self/status"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_kernel_s_numbers() {
        assert_eq!(names(1 << 21), ["CAP_SYS_ADMIN"]);
        assert_eq!(names((1 << 39) | (1 << 38)), ["CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(names(1 << 63), ["capability 63"]);
    }

    #[test]
    fn a_process_without_capabilities_lacks_those_a_node_needs() {
        let missing = missing_capabilities("Name:\tx\nCapEff:\t0000000000000000\n");
        assert!(missing.iter().any(|finding| finding.name == "CAP_DAC_READ_SEARCH"));
        assert!(missing.iter().all(|finding| finding.state == super::super::finding::State::No));
        assert!(
            VITAL
                .iter()
                .all(|name| CAPABILITIES.iter().any(|(known, need)| known == name && !need.is_empty()))
        );
        assert!(missing_capabilities("CapEff:\t000001ffffffffff").is_empty());
    }
}
