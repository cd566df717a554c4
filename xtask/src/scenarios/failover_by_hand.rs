//! Nodes take turns, told by hand what a cluster's controller tells them. The primary's side is killed -9 in the middle of fsynced
//! writes; the other node is started as the primary, with a higher term and the word that it may go on alone: every acknowledged record is there, and
//! the application goes on. The old primary returns as the secondary. A secondary that was told that the primary may go on without it does
//! not become the primary. At last roles are swapped back in order.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::files::{CRASHED, PEER_LOST};
use super::{Context, Outcome, passed};
use crate::lab::mirror::{MIRRORED_BOUND, Mirror, Options, PORT};
use crate::lab::node::{Node, START_BOUND};
use crate::lab::status::Status;
use crate::lab::writers::Writers;
use crate::lab::{place, wait};

const BOUND: Duration = Duration::from_secs(30);
/// Acknowledged records of each writer.
const RECORDS: u64 = 40;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = build(context.options())?;
    mirror.start_nodes()?;
    require_state(&mut mirror.primary, 1, "up-to-date")?;

    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let mut first = Writers::start(&mirror.net.a, &data, "first-", 3)?;
    first.wait_for(RECORDS, BOUND)?;
    mirror.kill_primary_side()?;
    first.end()?;
    let taken = take_over(&mut mirror)?;
    let found = first.verify(&copy).context("on the node that took over")?;

    let mut second = Writers::start(&mirror.net.b, &copy, "second-", 3)?;
    second.wait_for(RECORDS, BOUND)?;
    mirror.primary.arguments = words("--role secondary");
    mirror.primary.start(&mirror.net.a)?;
    second.wait_for(RECORDS, BOUND)?;
    wait_mirrored(&mut mirror)?;
    second.wait_for(RECORDS, BOUND)?;
    yield_and_return(&mut mirror, &mut second)?;
    second.end()?;
    wait_settled(&mut mirror)?;
    first.verify(&data).context("on the node that returned")?;
    second.verify(&data).context("on the node that returned")?;

    swap_back(&mut mirror)?;
    let mut third = Writers::start(&mirror.net.a, &data, "third-", 2)?;
    third.wait_for(RECORDS, BOUND)?;
    third.end()?;
    mirror.wait_identical()?;
    for writers in [&first, &second, &third] {
        writers.verify(&copy).context("after the swap")?;
    }
    let expected = [PEER_LOST, CRASHED, &["later primacy", "without this copy", "read-only mount"]].concat();
    let entries = mirror.finish(&expected)?.entries;
    passed(format!(
        "{} acknowledged, {} found; {entries} entries identical; {taken}",
        found.acknowledged, found.records
    ))
}

/// A mirror of which both nodes can be the primary. `a` is the lab's primary, `b` its secondary: what each is at the moment it is told at its start.
pub fn build(options: Options) -> Result<Mirror> {
    let mut mirror = Mirror::build(&options.with("mirror.when-alone", "ask"))?;
    for (node, own, other) in [
        (&mut mirror.primary, &mirror.net.a, &mirror.net.b),
        (&mut mirror.secondary, &mirror.net.b, &mirror.net.a),
    ] {
        node.config.set("link.listen", own.socket(PORT).to_string());
        node.config.set("link.peer", other.socket(PORT).to_string());
    }
    mirror.primary.arguments = words("--role primary --term 1");
    Ok(mirror)
}

pub fn words(arguments: &str) -> Vec<String> {
    arguments.split(' ').map(str::to_owned).collect()
}

fn require_state(node: &mut Node, term: u64, data: &str) -> Result<Status> {
    let status = node.fresh_status()?;
    let state = &status.state;
    ensure!(state.term == term && state.data == data, "term {term} and {data}: {state:?}");
    Ok(status)
}

/// `b` becomes the primary. Says how long that took.
pub fn take_over(mirror: &mut Mirror) -> Result<String> {
    let began = Instant::now();
    mirror.secondary.request(&json!({"command": "hand-over"}))?;
    mirror.secondary.wait_end(START_BOUND)?;
    let stopped = began.elapsed();
    mirror.secondary.arguments = words("--role primary --term 2 --go-alone");
    let began = Instant::now();
    mirror.secondary.launch(&mirror.net.b)?;
    wait_for_gate(mirror.copy())?;
    let mounted = began.elapsed();
    mirror.secondary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    let status = require_state(&mut mirror.secondary, 2, "up-to-date")?;
    ensure!(status.state.alone && status.state.asks == 0, "{:?}", status.state);
    ensure!(
        !status.state.shared.is_empty() && status.state.shared != status.state.generation,
        "{:?}",
        status.state
    );
    let log = std::fs::read_to_string(&mirror.secondary.log)?;
    let running = log.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let fields = line.get("fields").unwrap_or(&line);
        fields.get("took").filter(|_| fields.get("term").is_some())?.as_str().map(str::to_owned)
    });
    let parts = running.context("the daemon says how long its start took")?;
    Ok(format!("secondary stopped in {stopped:.0?}, gate mounted {mounted:.0?} after exec ({parts})"))
}

/// Looked for often, because it is measured.
fn wait_for_gate(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + START_BOUND;
    while Instant::now() < deadline {
        if !place::gates_below(directory)?.is_empty() {
            return Ok(());
        }
        // Between two looks at the mount table; the bound is above.
        thread::sleep(Duration::from_millis(1));
    }
    bail!("no gate over {} within {START_BOUND:?}", directory.display())
}

/// As [`Mirror::wait_mirrored`], with `b` as the primary.
pub fn wait_mirrored(mirror: &mut Mirror) -> Result<()> {
    mirror.secondary.wait_for("Mirrored", MIRRORED_BOUND, |status| status.phase == "Mirrored")?;
    mirror.primary.wait_for("Following", MIRRORED_BOUND, |status| status.phase == "Following")?;
    Ok(())
}

fn wait_settled(mirror: &mut Mirror) -> Result<()> {
    mirror.wait_same_trees(BOUND)?;
    mirror.secondary.wait_for("nothing is dirty", BOUND, Status::is_settled)?;
    Ok(())
}

/// `a` is told that `b` may go on without it, and `b` that it may; `a` does not become the primary, and is brought up to date again.
fn yield_and_return(mirror: &mut Mirror, writers: &mut Writers) -> Result<()> {
    let late = mirror.secondary.request(&json!({"command": "go-alone", "term": 3}))?;
    ensure!(late["answer"] == "refused", "both hold the same: {late}");
    let outdated = mirror.primary.request(&json!({"command": "outdate", "term": 3}))?;
    ensure!(outdated["answer"] == "recorded", "{outdated}");
    require_state(&mut mirror.primary, 3, "outdated")?;
    // Before it can be brought up to date again, which a primary of a lower term cannot do.
    mirror.primary.stop()?;
    mirror.primary.arguments = words("--role primary --term 9 --go-alone");
    mirror.primary.refused(&mirror.net.a)?.naming(&["must not become the primary", "--force-promote"])?;
    let status = mirror.secondary.wait_for("it asks", wait::SHORT, |status| status.state.asks > 0)?;
    ensure!(status.phase == "Holding" && !status.state.alone, "{}", status.summary());
    let absence = status.state.asks;
    let stale =
        mirror.secondary.request(&json!({"command": "go-alone", "term": 3, "absence": absence + 1}))?;
    ensure!(stale["answer"] == "refused", "another absence: {stale}");
    let alone = mirror.secondary.request(&json!({"command": "go-alone", "term": 3, "absence": absence}))?;
    ensure!(alone["answer"] == "recorded", "{alone}");
    require_state(&mut mirror.secondary, 3, "up-to-date")?;
    writers.wait_for(RECORDS, BOUND)?;

    mirror.primary.arguments = words("--role secondary");
    mirror.primary.start(&mirror.net.a)?;
    wait_mirrored(mirror)?;
    require_state(&mut mirror.primary, 3, "up-to-date").map(drop)
}

/// In order: nothing is lost, and nobody goes on alone.
fn swap_back(mirror: &mut Mirror) -> Result<()> {
    mirror.secondary.stop()?;
    mirror.primary.stop()?;
    let found = mirror.compare()?;
    ensure!(found.is_identical(), "after an orderly stop: {:?}", found.differences);
    mirror.secondary.arguments = words("--role secondary");
    mirror.primary.arguments = words("--role primary --term 4");
    mirror.start_nodes()?;
    require_state(&mut mirror.primary, 4, "up-to-date")?;
    require_state(&mut mirror.secondary, 4, "up-to-date")?;
    mirror.wait_identical().map(drop)
}
