//! `replicator resync`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::progress::{extent_of, resync_line, watch};
use super::status::{ask, bytes};
use super::verify::order;
use super::{NodeArguments, exit, pretty_json, print, reunion};
use crate::control::{Order, ResyncScope};
use crate::status::{Resync, Status};

/// Arguments of `resync`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    #[command(flatten)]
    what: What,
    /// Why the peer's data is replaced, for the record
    #[arg(long, value_name = "TEXT", requires = "overwrite_peer")]
    reason: Option<String>,
    /// Wait for the end (the default)
    #[arg(long, conflicts_with = "detach")]
    wait: bool,
    /// Begin and return; "replicator status" shows how far it is
    #[arg(long)]
    detach: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What is brought up to date.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct What {
    /// Compare everything by digests and send what differs
    #[arg(long)]
    full: bool,
    /// The same for a copy that was filled from a backup, or from a disk carried by hand: tells how much of it was there
    #[arg(long)]
    seeded: bool,
    /// Send what is known to differ now, and connect now if there is no session
    #[arg(long)]
    changed: bool,
    /// Compare one file, or a directory and all below it
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Say whose data both nodes will have and how much would be compared and sent, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the peer's data although it has what this node lacks; the peer keeps that aside
    #[arg(long, requires = "reason")]
    overwrite_peer: bool,
}

/// Bring the peer up to date.
///
/// # Errors
/// No daemon answers, it does not take the order, or it cannot be carried out.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let socket = arguments.node.socket()?;
    if arguments.what.dry_run {
        return reunion::dry_run(&socket, arguments.json);
    }
    if arguments.what.overwrite_peer {
        return reunion::overwrite_peer(
            &socket,
            arguments.reason.as_deref().unwrap_or_default(),
            arguments.json,
        );
    }
    let status = ask(&socket)?;
    let (what, cost) = scope(&arguments.what, &status)?;
    let talks = !arguments.json;
    if talks {
        print(&cost)?;
    }
    let number = order(&socket, Order::Resync { what })?;
    if arguments.detach {
        print(&format!("resync {number} is under way\n"))?;
        return Ok(exit::OK);
    }
    if talks && !status.peer.connected {
        print("no session with the peer yet: waiting for it\n")?;
    }
    let show = |status: &Status| {
        let resync = &status.resync;
        let files = resync.files_examined + resync.files_left;
        (resync.files_examined, files, resync_line(resync))
    };
    let over = |status: &Status| {
        let resync = &status.resync;
        resync.asked > number
            || resync.asked == number && (resync.asked_done || !resync.asked_failed.is_empty())
    };
    let after = watch(&socket, !talks, show, over)?.resync;
    if after.asked != number {
        bail!("another resync was begun meanwhile");
    }
    if !after.asked_failed.is_empty() {
        bail!("{}", after.asked_failed);
    }
    let text = if arguments.json { pretty_json(&after)? } else { end(&arguments.what, &after) };
    print(&text)?;
    Ok(exit::OK)
}

/// What is asked for, and what it will cost.
fn scope(what: &What, status: &Status) -> anyhow::Result<(ResyncScope, String)> {
    let waits = "an fsync waits until its own file is compared";
    if let Some(path) = &what.file {
        let path = real_path(path)?;
        let found = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        let cost = if found.is_dir() {
            format!("compares {} and all below it by digests on both nodes; {waits}\n", path.display())
        } else {
            format!(
                "compares {} ({}) by digests on both nodes; {waits}\n",
                path.display(),
                bytes(found.len())
            )
        };
        return Ok((ResyncScope::File { path }, cost));
    }
    if what.changed {
        let cost = format!("sends {} in {} files\n", bytes(status.dirty.bytes), status.dirty.files);
        return Ok((ResyncScope::Changed, cost));
    }
    let cost = format!(
        "compares {} by digests on both nodes; only blocks that differ travel; the application goes on, {waits}\n",
        extent_of(status)
    );
    Ok((ResyncScope::Full, cost))
}

/// The absolute path without symlinks in the directories that lead there; the file itself may be one.
fn real_path(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Ok(absolute) };
    Ok(fs::canonicalize(parent).with_context(|| parent.display().to_string())?.join(name))
}

fn end(what: &What, resync: &Resync) -> String {
    let mut text = format!("done: {}\n", resync_line(resync));
    if what.seeded {
        let all = resync.bytes_found.max(resync.bytes_compared).max(1);
        let there = all.saturating_sub(resync.bytes_sent);
        let percent = there as f64 * 100.0 / all as f64;
        text += &format!("{percent:.1} % of {} was there already\n", bytes(all));
    }
    text
}
