//! What kernel and distribution offer.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::finding::Finding;
use crate::cli::status::bytes;
use crate::idle;

/// Longest file of /proc or /sys that is read whole.
const SMALL_FILE_BYTES: usize = 64 << 10;

/// Kernel, BPF, FUSE and io_uring as far as files of the system tell.
pub fn findings() -> Vec<Finding> {
    let mut findings = vec![kernel(), btf()];
    findings.extend(module_btf());
    findings.extend([
        lockdown(),
        sysctl(
            "bpf-jit",
            "/proc/sys/net/core/bpf_jit_enable",
            |value| value != "0",
            "programs are interpreted",
        ),
        sysctl(
            "no-bpf-for-ordinary-users",
            "/proc/sys/kernel/unprivileged_bpf_disabled",
            |value| value != "0",
            "ordinary users may load programs; set it to 2 on a server (a node does not need it)",
        ),
        tracefs(),
        fuse_device(),
        sysctl(
            "io-uring-enabled",
            "/proc/sys/kernel/io_uring_disabled",
            |value| value == "0",
            "set kernel.io_uring_disabled = 0",
        ),
        initial_user_namespace(),
        cpu_latency(),
    ]);
    findings
}

/// A small file's text without the white space around it.
pub(super) fn small_file(path: impl AsRef<Path>) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(SMALL_FILE_BYTES as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Not needed: without it calls take longer where idle processors sleep deeply.
fn cpu_latency() -> Finding {
    match idle::describe() {
        Ok(answer) => Finding::yes("cpu-latency", answer),
        Err(error) => Finding::unknown("cpu-latency", format!("/dev/cpu_dma_latency: {error}")),
    }
}

fn kernel() -> Finding {
    match nix::sys::utsname::uname() {
        Ok(name) => Finding::yes(
            "kernel",
            format!("Linux {} on {}", name.release().to_string_lossy(), name.machine().to_string_lossy()),
        ),
        Err(errno) => Finding::unknown("kernel", format!("uname: {errno}")),
    }
}

fn btf() -> Finding {
    match fs::metadata("/sys/kernel/btf/vmlinux") {
        Ok(found) => Finding::yes("btf", format!("/sys/kernel/btf/vmlinux, {}", bytes(found.len()))),
        Err(error) => Finding::no(
            "btf",
            format!(
                "/sys/kernel/btf/vmlinux: {error}; without it no kernel program is used (CONFIG_DEBUG_INFO_BTF)"
            ),
        ),
    }
}

/// File systems that are modules have their types apart.
fn module_btf() -> impl Iterator<Item = Finding> {
    ["ext4", "xfs", "btrfs"].into_iter().filter_map(|module| {
        let loaded = Path::new("/sys/module").join(module).join("initstate").exists();
        let path = Path::new("/sys/kernel/btf").join(module);
        loaded.then(|| {
            Finding::of(format!("btf-of-module-{module}"), path.exists(), format!("{}", path.display()))
        })
    })
}

fn lockdown() -> Finding {
    match small_file("/sys/kernel/security/lockdown") {
        Some(text) => {
            let open = text.contains("[none]");
            let remedy = if open {
                ""
            } else {
                "; kernel programs may be refused (lockdown=none, or Secure Boot off)"
            };
            Finding::of("no-lockdown", open, format!("{text}{remedy}"))
        }
        None => Finding::unknown(
            "no-lockdown",
            "/sys/kernel/security/lockdown is not there; most kernels without it have none",
        ),
    }
}

fn sysctl(name: &str, path: &str, wanted: fn(&str) -> bool, otherwise: &str) -> Finding {
    match small_file(path) {
        Some(value) if wanted(&value) => Finding::yes(name, format!("{path} is {value}")),
        Some(value) => Finding::no(name, format!("{path} is {value}: {otherwise}")),
        None => Finding::unknown(name, format!("{path} is not there")),
    }
}

fn tracefs() -> Finding {
    let found = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    match found {
        Some(path) => Finding::yes("tracefs", path),
        None => Finding::unknown("tracefs", "not mounted or not readable; a node does not need it"),
    }
}

/// Whether FUSE's device is there and may be opened.
pub(super) fn fuse_device() -> Finding {
    let name = "fuse-device";
    let path = "/dev/fuse";
    match fs::metadata(path) {
        Err(error) => {
            return Finding::no(
                name,
                format!("{path}: {error}; load the module (modprobe fuse), or give the container the device"),
            );
        }
        Ok(found) if !found.file_type().is_char_device() => {
            return Finding::no(name, format!("{path} is not a device"));
        }
        Ok(_) => {}
    }
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::yes(name, format!("{path} can be opened")),
        Err(error) => {
            Finding::no(name, format!("{path}: {error}; run as root, or allow the device in the container"))
        }
    }
}

fn initial_user_namespace() -> Finding {
    let name = "initial-user-namespace";
    let all = ["0", "0", "4294967295"];
    match small_file("/proc/self/uid_map") {
        Some(map) if map.split_whitespace().eq(all) => Finding::yes(name, "user ids are those of the host"),
        Some(map) => Finding::no(
            name,
            format!(
                "uid_map is {:?}: inside an unprivileged container neither programs nor file handles are to be had",
                map
            ),
        ),
        None => Finding::unknown(name, "/proc/self/uid_map is not readable"),
    }
}
