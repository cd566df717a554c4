//! Whose data both nodes have after they meet: `replicator resync --dry-run` and `--overwrite-peer`.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;

use super::status::ask;
use super::{exit, pretty_json, print};
use crate::config::Role;
use crate::control::{self, Request};
use crate::status::{ReunionStatus, Status};
use crate::volume::RESERVED_NAME;

/// Longest time until a node has done what it was told.
const WITHIN: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Say what a resync would be, and do nothing.
///
/// # Errors
/// No daemon answers.
pub fn dry_run(socket: &Path, json: bool) -> anyhow::Result<u8> {
    let plan = Plan::of(&ask(socket)?);
    print(&if json { pretty_json(&plan)? } else { plan.text() })?;
    Ok(if plan.decision.refused { exit::FAILED } else { exit::OK })
}

/// Order what nobody but an operator may order: the peer's data is replaced although it has what this node lacks.
///
/// # Errors
/// No daemon answers, it refuses, or it does not do it in time.
pub fn overwrite_peer(socket: &Path, reason: &str, json: bool) -> anyhow::Result<u8> {
    if reason.trim().is_empty() {
        bail!("a reason is needed, for the record");
    }
    control::request(socket, &Request::OverwritePeer { reason: reason.to_owned() })?;
    let deadline = Instant::now() + WITHIN;
    while Instant::now() < deadline {
        let status = ask(socket)?;
        if !status.reunion.refused {
            let text = "the peer's data is being replaced; \"replicator status\" shows how far that is\n";
            print(&if json { pretty_json(&status.reunion)? } else { text.to_owned() })?;
            return Ok(exit::OK);
        }
        thread::sleep(LOOK_INTERVAL);
    }
    bail!("it is recorded, and is done as soon as the peer is reached: it was not within {WITHIN:?}")
}

/// What a resync between the two nodes as they are now would be.
#[derive(Serialize, Debug)]
struct Plan {
    /// Whether the peer is connected now; else all is as it was when the nodes met last.
    connected: bool,
    /// Whether they have met since this node was started.
    met: bool,
    decision: ReunionStatus,
    /// How much a session compares or sends that begins now, as far as this node knows: of a comparison, all there is here.
    files: u64,
    bytes: u64,
    /// Files and bytes are those of the whole tree, of which only what differs is sent.
    compares: bool,
}

impl Plan {
    fn of(status: &Status) -> Plan {
        let mut decision = status.reunion.clone();
        let mirrored = matches!(status.phase.as_str(), "Mirrored" | "Following");
        if mirrored && !decision.relation.is_empty() {
            // What was found when the session began has been done since.
            let scope = if status.dirty.files == 0 { "nothing" } else { "marks" };
            decision = ReunionStatus {
                relation: "same".to_owned(),
                source: "primary".to_owned(),
                scope: scope.to_owned(),
                keeps: false,
                text: "both nodes have the same generation".to_owned(),
                ..decision
            };
        }
        let compares = !matches!(decision.scope.as_str(), "nothing" | "marks")
            || status.resync.active && !status.resync.resumed;
        let (files, bytes) = if compares {
            status.volumes.iter().fold((0, 0), |sum, volume| count(Path::new(&volume.path), sum))
        } else if status.role == Role::Primary {
            (status.dirty.files, status.dirty.bytes + status.dirty.in_flight_bytes)
        } else {
            (0, 0)
        };
        Plan {
            connected: status.peer.connected,
            met: !decision.relation.is_empty(),
            decision,
            files,
            bytes,
            compares,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let mut line = |subject: &str, what: &str| {
            let _ = writeln!(text, "{subject:<9} {what}");
        };
        let decision = &self.decision;
        if !self.met {
            line(
                "decision",
                "unknown: the nodes have not met since this one was started, or the peer is of an older version",
            );
            line("own", &decision.generation);
            return text;
        }
        line("decision", &decision.text);
        line(
            "source",
            match decision.source.as_str() {
                "operator" if decision.scope == "nothing" => "none is needed",
                "operator" => "an operator has to say which node",
                node => node,
            },
        );
        let much = match decision.scope.as_str() {
            "nothing" => "nothing: both nodes hold the same".to_owned(),
            _ if self.compares => {
                format!(
                    "both trees are compared ({} files, {} bytes here); what differs is sent",
                    self.files, self.bytes
                )
            }
            _ => format!("what is marked: {} files, {} bytes", self.files, self.bytes),
        };
        line("scope", &much);
        if decision.keeps {
            line("keeps", "what only the other node has is kept aside there before it is overwritten");
        }
        if decision.refused {
            line(
                "refused",
                "no session begins until an operator decides (--overwrite-peer, or the roles exchanged)",
            );
        }
        if !self.connected {
            line("peer", "not connected now: this is what was found when the nodes met last");
        }
        text
    }
}

/// Regular files and their bytes below a directory, on its own file system. What cannot be read counts nothing.
fn count(root: &Path, (mut files, mut bytes): (u64, u64)) -> (u64, u64) {
    let Ok(device) = fs::symlink_metadata(root).map(|found| found.dev()) else { return (files, bytes) };
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else { continue };
            let is_own = directory == root && entry.file_name().as_encoded_bytes() == RESERVED_NAME;
            if found.dev() != device || is_own {
                continue;
            }
            if found.is_dir() {
                directories.push(entry.path());
            } else if found.is_file() {
                files += 1;
                bytes += found.len();
            }
        }
    }
    (files, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str, relation: &str, scope: &str) -> Status {
        let mut status = Status { role: Role::Primary, phase: phase.to_owned(), ..Status::default() };
        status.reunion = ReunionStatus {
            relation: relation.to_owned(),
            source: "primary".to_owned(),
            scope: scope.to_owned(),
            ..ReunionStatus::default()
        };
        (status.dirty.files, status.dirty.bytes) = (2, 10);
        status
    }

    #[test]
    fn the_plan_is_of_the_nodes_as_they_are_now() {
        let plan = Plan::of(&status("Mirrored", "ahead", "everything"));
        assert_eq!(
            (plan.decision.scope.as_str(), plan.files, plan.bytes, plan.compares),
            ("marks", 2, 10, false)
        );
        let mut idle = status("Mirrored", "ahead", "everything");
        idle.dirty.files = 0;
        assert_eq!(Plan::of(&idle).decision.scope, "nothing");
        let plan = Plan::of(&status("Alone", "ahead", "marks"));
        assert_eq!((plan.decision.scope.as_str(), plan.compares, plan.met), ("marks", false, true));
        assert!(!Plan::of(&status("Alone", "", "")).met);
    }

    #[test]
    fn a_comparison_is_of_all_that_is_there_but_replicators_own() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(root.path().join(".replicator/diverged")).expect("mkdir");
        fs::write(root.path().join(".replicator/diverged/x"), [0; 100]).expect("write");
        fs::create_dir(root.path().join("d")).expect("mkdir");
        fs::write(root.path().join("d/f"), [0; 70]).expect("write");
        fs::write(root.path().join("g"), [0; 7]).expect("write");
        let mut status = status("Alone", "diverged", "everything");
        status.volumes = vec![crate::status::VolumeStatus {
            path: root.path().display().to_string(),
            ..Default::default()
        }];
        let plan = Plan::of(&status);
        assert_eq!((plan.files, plan.bytes, plan.compares), (2, 77, true));
        assert!(plan.text().contains("77 bytes"));
    }
}
