//! Which part may know which: the edges do not know each other, and each foreign library has one keeper.

use super::{Finding, Text, source};

/// Modules of `replicator` that do not know each other, and what each may know of the crate beside itself.
const EDGES: &[&str] = &["gate", "link", "notify", "storage", "tracer", "control"];
/// What every edge may know.
const GROUND: &[&str] =
    &["boot", "volume", "uring", "config", "status", "mounts", "idle", "patterns", "telemetry"];
/// What the ground itself may know: nothing above it.
const ABOVE: &[&str] = &["gate", "link", "notify", "storage", "tracer", "control", "daemon", "cli"];

/// A library, and the only module that may name it.
const KEEPERS: &[(&str, &str)] =
    &[("aya", "tracer"), ("aya_obj", "tracer"), ("aya_log", "tracer"), ("io_uring", "uring")];

const REPLICATOR: &str = "replicator/src/";
const CORE: &str = "replicator/core/src/";
/// The simulation: the same in each run of a seed, so nothing in it may ask the machine it runs on.
const SIMULATION: &str = "replicator/sim/src/";
/// Its program and the threads on which worlds are run; each world is in one.
const AROUND_THE_WORLD: &[&str] = &["replicator/sim/src/main.rs", "replicator/sim/src/seeds.rs"];
/// The edges around the mirror: each is a directory there.
const CLUSTER: &str = "replicator/cluster/src/";
/// What one of them may know of another: the service speaks the arbiters' language.
const CLUSTER_KNOWS: &[(&str, &str)] = &[("witness", "arbiter")];
/// What lies beneath all of them.
const CLUSTER_GROUND: &[&str] = &["held", "icmp", "nearest", "tls"];

/// Check one source file.
pub fn rules(text: &Text) -> Vec<Finding> {
    if text.path == "replicator/core/src/lib.rs" {
        return core_attributes(text);
    }
    if text.path.starts_with(SIMULATION) {
        return world_names(text);
    }
    if let Some(edge) = text.path.strip_prefix(CLUSTER) {
        return cluster_names(text, edge.split('/').next().unwrap_or(edge));
    }
    let Some(module) = module(&text.path) else { return core_names(text) };
    let mut findings = Vec::new();
    for (number, line) in source::code(&text.content) {
        for other in names_after(&line, "crate::") {
            if !may_know(module, &other) {
                let what = format!("`{module}` knows `{other}`: only the daemon joins the edges");
                findings.push(Finding::new(&text.path, number, what));
            }
        }
        for (library, keeper) in KEEPERS {
            if module != *keeper && names(&line, library) {
                let what = format!("`{library}` belongs to `{keeper}` alone");
                findings.push(Finding::new(&text.path, number, what));
            }
        }
        if module != "notify" && line.contains("fanotify_") && line.contains("libc::") {
            findings.push(Finding::new(&text.path, number, "fanotify belongs to `notify` alone"));
        }
        if module != "gate" && line.contains("fuse_") && line.contains("repr(C") {
            findings.push(Finding::new(&text.path, number, "FUSE's structures belong to `gate` alone"));
        }
    }
    findings
}

/// The top module of `replicator` a file belongs to; `None` outside that package.
fn module(path: &str) -> Option<&str> {
    let below = path.strip_prefix(REPLICATOR)?;
    Some(below.split('/').next().unwrap_or(below).trim_end_matches(".rs"))
}

fn may_know(module: &str, other: &str) -> bool {
    if module == other || ["daemon", "cluster", "cli", "main", "lib"].contains(&module) {
        return true;
    }
    if EDGES.contains(&module) {
        // What is no module of the table (a constant, a macro at the root) is no edge.
        return GROUND.contains(&other) || !ABOVE.contains(&other);
    }
    !ABOVE.contains(&other)
}

/// The core has neither the standard library nor unsafe code.
fn core_attributes(text: &Text) -> Vec<Finding> {
    ["#![no_std]", "#![forbid(unsafe_code)]"]
        .iter()
        .filter(|attribute| !source::code(&text.content).any(|(_, line)| line.contains(*attribute)))
        .map(|attribute| Finding::new(&text.path, 0, format!("the core says {attribute}")))
        .collect()
}

fn core_names(text: &Text) -> Vec<Finding> {
    if !text.path.starts_with(CORE) {
        return Vec::new();
    }
    source::code(&text.content)
        .filter(|(_, line)| {
            line.contains("std::time::") || line.contains("std::fs::") || line.contains("std::net::")
        })
        .map(|(number, _)| Finding::new(&text.path, number, "the core has no clock and no I/O"))
        .collect()
}

/// A world has its seed and nothing else: no clock, no files, no threads, no order of a hash table.
/// The edges around the mirror do not know each other; their daemon joins them.
fn cluster_names(text: &Text, edge: &str) -> Vec<Finding> {
    if matches!(edge, "daemon" | "lib.rs") {
        return Vec::new();
    }
    let edge = edge.trim_end_matches(".rs");
    let mut findings = Vec::new();
    for (number, line) in source::code(&text.content) {
        for other in names_after(&line, "crate::") {
            let free = CLUSTER_GROUND.contains(&other.as_str());
            if other != edge && !free && !CLUSTER_KNOWS.contains(&(edge, other.as_str())) {
                let what = format!("`{edge}` knows `{other}`: only the daemon joins the edges");
                findings.push(Finding::new(&text.path, number, what));
            }
        }
    }
    findings
}

fn world_names(text: &Text) -> Vec<Finding> {
    if AROUND_THE_WORLD.contains(&text.path.as_str()) {
        return Vec::new();
    }
    let outside =
        ["std::time::", "std::fs::", "std::net::", "std::env::", "std::thread::", "HashMap", "HashSet"];
    source::code(&text.content)
        .filter(|(_, line)| outside.iter().any(|name| line.contains(name)))
        .map(|(number, _)| Finding::new(&text.path, number, "a world is made of its seed alone"))
        .collect()
}

/// The identifiers that follow `prefix` in a line, those of a brace list included.
fn names_after(line: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let rest = &line[at + prefix.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for character in list.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    _ if depth == 0 => name.push(character),
                    _ => (),
                }
            }
            found.push(name);
        } else {
            found.push(rest.to_owned());
        }
    }
    found.iter().map(|name| identifier(name.trim())).filter(|name| !name.is_empty()).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// Whether the line names the library as the beginning of a path.
fn names(line: &str, library: &str) -> bool {
    let path = format!("{library}::");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::text;
    use super::*;

    fn findings(path: &str, content: &str) -> Vec<String> {
        rules(&text(path, content)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn an_edge_that_knows_another_is_found_however_it_is_written() {
        for line in [
            "use crate::link::Frame;",
            "use crate::{volume::Volume, link::Frame};",
            "use crate::{volume::{Volume, X}, link};",
            "fn f(frame: &crate::link::Frame) {}",
            "use crate::daemon::Daemon;",
        ] {
            assert_eq!(findings("replicator/src/gate/mod.rs", line).len(), 1, "{line}");
        }
    }

    #[test]
    fn the_edges_around_the_mirror_are_joined_by_their_daemon_alone() {
        let line = "use crate::heartbeat::Event;";
        assert_eq!(findings("replicator/cluster/src/address/mod.rs", line).len(), 1);
        assert_eq!(findings("replicator/cluster/src/heartbeat/pulse.rs", line).len(), 0);
        assert_eq!(findings("replicator/cluster/src/daemon/node.rs", line).len(), 0);
        assert_eq!(findings("replicator/cluster/src/icmp.rs", line).len(), 1);
        assert_eq!(findings("replicator/cluster/src/address/mod.rs", "use crate::held::lock;").len(), 0);
        assert_eq!(findings("replicator/cluster/src/witness/mod.rs", "use crate::arbiter::Value;").len(), 0);
    }

    #[test]
    fn the_ground_itself_the_daemon_and_comments_are_free() {
        for (path, line) in [
            ("replicator/src/gate/mod.rs", "use crate::volume::Volume;"),
            ("replicator/src/gate/table.rs", "use crate::gate::sink::Sink;"),
            ("replicator/src/gate/mod.rs", "//! Not known here: crate::link::Frame"),
            ("replicator/src/daemon/mod.rs", "use crate::{gate::Gate, link::Link};"),
            ("replicator/src/tracer/mod.rs", "use aya::Ebpf;"),
            ("replicator/src/uring/mod.rs", "use io_uring::IoUring;"),
        ] {
            assert_eq!(findings(path, line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn a_library_outside_its_keeper_is_found() {
        assert_eq!(findings("replicator/src/link/mod.rs", "use io_uring::IoUring;").len(), 1);
        assert_eq!(findings("replicator/src/daemon/mod.rs", "use aya::Ebpf;").len(), 1);
        assert_eq!(findings("replicator/src/uring/mod.rs", "use crate::gate::Gate;").len(), 1);
        assert_eq!(findings("replicator/src/link/mod.rs", "use my_io_uring::X;").len(), 0);
    }

    #[test]
    fn a_world_that_asks_the_machine_is_found() {
        let line = "let now = std::time::Instant::now();";
        assert_eq!(findings("replicator/sim/src/world.rs", line).len(), 1);
        assert_eq!(findings("replicator/sim/src/world.rs", "let map = HashMap::new();").len(), 1);
        assert_eq!(findings("replicator/sim/src/seeds.rs", "std::thread::scope(|scope| ());").len(), 0);
    }

    #[test]
    fn the_core_without_its_attributes_is_found() {
        assert_eq!(findings("replicator/core/src/lib.rs", "#![no_std]\n").len(), 1);
        assert_eq!(findings("replicator/core/src/lib.rs", "#![no_std]\n#![forbid(unsafe_code)]\n").len(), 0);
        assert_eq!(findings("replicator/core/src/node.rs", "let now = std::time::Instant::now();").len(), 1);
    }
}
