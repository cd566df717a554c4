//! `replicator doctor`: everything this host offers to a node, and which capture row and mode follow.

mod directory;
mod edges;
mod finding;
mod host;
mod process;
mod users;
mod verdict;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{load, pretty_json, print};
use crate::config::{Config, Role};
pub use finding::{Finding, State};
pub use verdict::Verdict;

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Look at the directories of this configuration too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Everything that was found.
#[derive(Serialize)]
struct Report {
    verdict: Verdict,
    host: Vec<Finding>,
    process: Vec<Finding>,
    edges: Vec<Finding>,
    configuration: Vec<Finding>,
    directories: Vec<DirectoryReport>,
}

#[derive(Serialize)]
struct DirectoryReport {
    path: PathBuf,
    findings: Vec<Finding>,
}

/// Look at this host. Changes nothing but what a probe makes and removes again.
///
/// # Errors
/// The configuration cannot be read or parsed, or the report cannot be printed.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let report = examine(arguments.config.as_deref())?;
    let text = if arguments.json { pretty_json(&report)? } else { render(&report) };
    print(&text)?;
    Ok(report.verdict.code())
}

/// What would let a node with this configuration fail on this host, in one sentence; `None` if nothing is known to. Looks
/// only at what every part would stumble over; the edges find out the rest when they start.
pub(super) fn obstacle(config: &Config) -> Option<String> {
    let missing = process::vital_missing();
    if !missing.is_empty() {
        return Some(format!("a node runs as root: this process lacks {}", missing.join(", ")));
    }
    if config.mirror.gate && config.node.role == Role::Primary {
        let fuse = host::fuse_device();
        if fuse.state == State::No {
            return Some(format!("the gate cannot be mounted: {}", fuse.detail));
        }
    }
    None
}

fn examine(config: Option<&Path>) -> anyhow::Result<Report> {
    let config = config.map(load).transpose()?;
    let (host, process, edges) = (host::findings(), process::findings(), edges::findings());
    let configuration = config.as_ref().map_or_else(Vec::new, |config| match config.validate_system() {
        Ok(warnings) if warnings.is_empty() => vec![Finding::yes("configuration", "valid on this machine")],
        Ok(warnings) => {
            let warnings = warnings.iter().map(|warning| Finding::no("warning", warning.to_string()));
            std::iter::once(Finding::yes("configuration", "valid on this machine, with warnings"))
                .chain(warnings)
                .collect()
        }
        Err(error) => vec![Finding::no("configuration", error.to_string())],
    });
    let directories: Vec<DirectoryReport> = config
        .iter()
        .flat_map(|config| config.mirror.directories.iter().map(|path| (path, config.mirror.nested_mounts)))
        .map(|(path, nested)| DirectoryReport {
            path: path.clone(),
            findings: directory::findings(path, nested),
        })
        .collect();
    let of_host: Vec<Finding> = [&host, &process, &edges].into_iter().flatten().cloned().collect();
    let of_directories: Vec<Finding> = configuration
        .iter()
        .chain(directories.iter().flat_map(|directory| &directory.findings))
        .cloned()
        .collect();
    let verdict = verdict::verdict(&of_host, &of_directories);
    Ok(Report { verdict, host, process, edges, configuration, directories })
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    section(&mut text, "Host", &report.host);
    section(&mut text, "Process", &report.process);
    section(&mut text, "Kernel interfaces, by trying them", &report.edges);
    section(&mut text, "Configuration", &report.configuration);
    for directory in &report.directories {
        section(&mut text, &directory.path.display().to_string(), &directory.findings);
    }
    let verdict = &report.verdict;
    let can = if verdict.can_run { "a node can run here" } else { "a node cannot run here" };
    let held = if verdict.fsync_held { "fsyncs are held" } else { "no fsync is held" };
    // Writing to a string does not fail.
    let _ = writeln!(text, "Verdict: {can}, capture row {}, {held}", verdict.row);
    for reason in &verdict.why {
        let _ = writeln!(text, "  {reason}");
    }
    text
}

fn section(text: &mut String, title: &str, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let _ = writeln!(text, "{title}");
    for finding in findings {
        let mark = match finding.state {
            State::Yes => "yes",
            State::No => "NO",
            State::Unknown => "?",
        };
        let _ = writeln!(text, "  {mark:<4}{:<width$}  {}", finding.name, finding.detail);
    }
    text.push('\n');
}
