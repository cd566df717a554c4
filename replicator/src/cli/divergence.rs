//! `replicator divergence`

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{DEFAULT_CONFIG, exit, load, pretty_json, print};
use crate::config::Config;
use crate::control::{self, ControlError, Request};
use crate::storage::divergence::{self, Entry, Kept, Restored, Set, restore};

/// Arguments of `divergence`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG, global = true)]
    config: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// What is kept aside in each mirrored directory
    List,
    /// The files of which something is kept, with their numbers
    Show {
        /// The name of the set
        id: String,
    },
    /// Write a file as it was to a path where nothing is
    Restore {
        /// The name of the set
        id: String,
        /// The number of the file
        number: u64,
        /// Where to
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
        /// The mirrored directory, if more than one has a set of that name
        #[arg(long, value_name = "PATH")]
        directory: Option<PathBuf>,
        /// Only the bytes that were overwritten, with holes between: nothing from the file as it is now
        #[arg(long)]
        ranges_only: bool,
    },
    /// Delete a set: what it holds is gone for good
    Discard {
        /// The name of the set
        id: String,
    },
}

#[derive(Serialize)]
struct SetLine {
    directory: String,
    id: String,
    changed: String,
    files: usize,
    removed: usize,
    bytes: u64,
    incomplete: bool,
}

#[derive(Serialize)]
struct FileLine {
    directory: String,
    number: u64,
    path: String,
    what: &'static str,
    size: u64,
    /// Offset and length of what was overwritten.
    ranges: Vec<(u64, u64)>,
}

/// List, show, restore or delete what was kept aside on this node.
///
/// # Errors
/// There is no such set or file, or the system refuses.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let config = load(&arguments.config)?;
    let text = match &arguments.what {
        What::List => sets(&config, arguments.json)?,
        What::Show { id } => files(&config, id, arguments.json)?,
        What::Restore { id, number, to, directory, ranges_only } => {
            write_back(&config, id, *number, to, directory.as_deref(), *ranges_only)?
        }
        What::Discard { id } => discard(&config, id)?,
    };
    print(&text)?;
    Ok(exit::OK)
}

fn all(config: &Config) -> anyhow::Result<Vec<(&Path, Set)>> {
    let mut all = Vec::new();
    for directory in &config.mirror.directories {
        let sets = divergence::list(directory)
            .with_context(|| format!("cannot read what is kept aside in {}", directory.display()))?;
        all.extend(sets.into_iter().map(|set| (directory.as_path(), set)));
    }
    Ok(all)
}

fn named<'a>(config: &'a Config, id: &str) -> anyhow::Result<Vec<(&'a Path, Set)>> {
    let found: Vec<_> = all(config)?.into_iter().filter(|(_, set)| set.id == id).collect();
    if found.is_empty() {
        bail!("nothing is kept aside here under the name {id}; \"replicator divergence list\" shows what is");
    }
    Ok(found)
}

fn sets(config: &Config, json: bool) -> anyhow::Result<String> {
    let all = all(config)?;
    let line = |(directory, set): &(&Path, Set)| {
        let removed = set.entries.iter().filter(|entry| entry.kept == Kept::Removed).count();
        SetLine {
            directory: directory.display().to_string(),
            id: set.id.clone(),
            changed: humantime::format_rfc3339_seconds(set.changed.max(SystemTime::UNIX_EPOCH)).to_string(),
            files: set.entries.len() - removed,
            removed,
            bytes: set.bytes(),
            incomplete: set.incomplete,
        }
    };
    let lines: Vec<SetLine> = all.iter().map(line).collect();
    if json {
        return pretty_json(&lines);
    }
    if lines.is_empty() {
        return Ok("nothing is kept aside\n".to_owned());
    }
    Ok(lines.iter().fold(String::new(), |mut text, set| {
        let incomplete = if set.incomplete { ", INCOMPLETE" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{}  {}  {} files overwritten in part, {} removed, {} bytes{incomplete}  ({})",
            set.id, set.changed, set.files, set.removed, set.bytes, set.directory
        );
        text
    }))
}

fn files(config: &Config, id: &str, json: bool) -> anyhow::Result<String> {
    let line = |directory: &Path, entry: &Entry| FileLine {
        directory: directory.display().to_string(),
        number: entry.number,
        path: entry.file.path.clone(),
        what: if entry.kept == Kept::Removed { "removed" } else { "overwritten" },
        size: entry.file.size,
        ranges: match &entry.kept {
            Kept::Ranges(ranges) => ranges.iter().map(|range| (range.start, range.length())).collect(),
            Kept::Removed => Vec::new(),
        },
    };
    let found = named(config, id)?;
    let lines: Vec<FileLine> = found
        .iter()
        .flat_map(|(directory, set)| set.entries.iter().map(|entry| line(directory, entry)))
        .collect();
    if json {
        return pretty_json(&lines);
    }
    Ok(lines.iter().fold(String::new(), |mut text, file| {
        let kept: u64 = file.ranges.iter().map(|(_, length)| length).sum();
        let much = match file.what {
            "removed" => format!("{} bytes", file.size),
            _ => format!("{kept} of {} bytes in {} ranges", file.size, file.ranges.len()),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:>6}  {:<11}  {much}  {}", file.number, file.what, file.path);
        text
    }))
}

fn write_back(
    config: &Config,
    id: &str,
    number: u64,
    to: &Path,
    directory: Option<&Path>,
    ranges_only: bool,
) -> anyhow::Result<String> {
    let found = named(config, id)?;
    let mut matching = found.iter().filter(|(at, _)| directory.is_none_or(|wanted| wanted == *at));
    let (Some((root, set)), None) = (matching.next(), matching.next()) else {
        bail!("name one of the mirrored directories with --directory");
    };
    let entry = set.entries.iter().find(|entry| entry.number == number);
    let entry = entry.with_context(|| format!("{id} has no file {number}"))?;
    let how = restore(root, set, entry, to, ranges_only)
        .with_context(|| format!("cannot write {} to {}", entry.file.path, to.display()))?;
    Ok(match how {
        Restored::Whole => format!("{} restored\n", to.display()),
        Restored::Overlaid => {
            format!(
                "{} restored: what was overwritten as it was, the rest as it is in the mirror now\n",
                to.display()
            )
        }
        Restored::Ranges => format!("{} has what was overwritten, the rest is holes\n", to.display()),
    })
}

/// By the daemon, if one runs: a read-only mount may lie over the directory.
fn discard(config: &Config, id: &str) -> anyhow::Result<String> {
    let found = named(config, id)?;
    match control::request(&config.node.control_socket, &Request::DiscardDivergence { id: id.to_owned() }) {
        Ok(_) => return Ok("the node deletes it\n".to_owned()),
        Err(ControlError::NoDaemon { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    for (directory, set) in found {
        divergence::discard(directory, &set.id)
            .with_context(|| format!("cannot delete all of {}", set.directory.display()))?;
    }
    Ok("deleted\n".to_owned())
}
