//! Processes that use a directory now: what they have open stays beside the gate that is mounted later.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::directory::listed;
use super::finding::Finding;
use super::host::small_file;
use crate::mounts::{Mount, MountTable};

/// Bounds of the search; a host beyond them gets "unknown".
const PROCESSES_MAX: usize = 20_000;
const DESCRIPTORS_MAX: usize = 500_000;
const MAPS_BYTES_MAX: u64 = 4 << 20;
const NAMESPACES_MAX: usize = 1000;

/// Which processes have files of the directory open, mapped, or as their working directory.
pub fn open_files(directory: &Path) -> Finding {
    let name = "no-open-files";
    let mut budget = DESCRIPTORS_MAX;
    let (mut users, mut hidden) = (Vec::new(), 0_usize);
    for process in processes() {
        match uses(&process, directory, &mut budget) {
            Some(true) => users.push(named(&process)),
            Some(false) => {}
            None => hidden += 1,
        }
        if budget == 0 {
            return Finding::unknown(
                name,
                format!("more than {DESCRIPTORS_MAX} descriptors on this host; not all looked at"),
            );
        }
    }
    if !users.is_empty() {
        return Finding::no(
            name,
            format!(
                "{}: what is open before the gate is mounted passes by it; start the node first, then the application",
                listed(&users)
            ),
        );
    }
    if hidden > 0 {
        return Finding::unknown(
            name,
            format!("{hidden} processes may not be looked at; run doctor as root"),
        );
    }
    Finding::yes(name, "no process has a file of it open")
}

/// In which other mount namespaces (containers) the directory can be reached past a gate mounted here.
pub fn foreign_namespaces(directory: &Path, mounts: &MountTable) -> Finding {
    let name = "no-foreign-namespace";
    let Some(place) = mounts.place(directory) else {
        return Finding::unknown(name, "the directory's mount is not in /proc/self/mountinfo");
    };
    let mut seen: HashSet<PathBuf> = fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    let mut found = Vec::new();
    for process in processes() {
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        if seen.len() > NAMESPACES_MAX {
            return Finding::unknown(
                name,
                format!("more than {NAMESPACES_MAX} mount namespaces; not all looked at"),
            );
        }
        let Some(table) = bounded(&process.join("mountinfo")).map(|text| MountTable::parse(&text)) else {
            continue;
        };
        let shows = |mount: &&Mount| {
            mount.device == place.device
                && (place.path.starts_with(&mount.root) || mount.root.starts_with(&place.path))
        };
        if let Some(mount) = table.mounts().iter().find(shows) {
            found.push(format!("{} (at {})", named(&process), mount.point.display()));
        }
    }
    if found.is_empty() {
        return Finding::yes(name, "no other mount namespace shows it");
    }
    Finding::no(
        name,
        format!(
            "{}: a process there that started before the node may pass by the gate; restart it after the node",
            listed(&found)
        ),
    )
}

/// The directories of all processes but this one.
fn processes() -> impl Iterator<Item = PathBuf> {
    let own = std::process::id().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(move |entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own
        })
        .map(|entry| entry.path())
        .take(PROCESSES_MAX)
}

/// Name and number of a process.
fn named(process: &Path) -> String {
    let number = process.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = small_file(process.join("comm")).unwrap_or_else(|| "?".into());
    format!("{name}[{number}]")
}

/// Whether a process uses the directory; `None` if it may not be looked at. A process that has ended uses nothing.
fn uses(process: &Path, directory: &Path, budget: &mut usize) -> Option<bool> {
    let inside = |link: &str| fs::read_link(process.join(link)).is_ok_and(|path| path.starts_with(directory));
    if inside("cwd") || inside("root") || inside("exe") {
        return Some(true);
    }
    let descriptors = match fs::read_dir(process.join("fd")) {
        Ok(descriptors) => descriptors,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
        Err(_) => return Some(false),
    };
    for descriptor in descriptors.filter_map(Result::ok) {
        *budget = budget.checked_sub(1)?;
        if fs::read_link(descriptor.path()).is_ok_and(|path| path.starts_with(directory)) {
            return Some(true);
        }
    }
    Some(maps_inside(process, directory))
}

/// Whether a process has a file of the directory mapped (its descriptor may be long closed).
fn maps_inside(process: &Path, directory: &Path) -> bool {
    let Some(text) = bounded(&process.join("maps")) else { return false };
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.find('/').and_then(|start| line.get(start..)))
        .any(|path| Path::new(path).starts_with(directory))
}

fn bounded(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(MAPS_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn this_process_is_not_counted_and_another_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(directory.path()).unwrap();
        let _own = fs::File::create(real.join("own")).unwrap();
        assert_ne!(open_files(&real).state, State::No);
        // It reads from a pipe that this test holds: it ends with the test.
        let mut child = std::process::Command::new("cat")
            .current_dir(&real)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let finding = open_files(&real);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(finding.state, State::No);
        assert!(finding.detail.contains(&format!("[{}]", child.id())), "{}", finding.detail);
    }
}
