//! The primary is killed in the middle of all kinds of changes and the other node takes over: when the former primary returns, what both knew to be
//! the same is not looked at again. The same when roles are swapped in order; and what others changed on the copy while no daemon ran there is found.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::failover_by_hand::{build, take_over, wait_mirrored, words};
use super::files::{CRASHED, PEER_LOST, plant, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::{Node, START_BOUND};
use crate::lab::records::Random;
use crate::lab::status::Status;
use crate::lab::wait;
use crate::lab::writers::Writers;

/// What is never touched.
const DIRECTORIES: u64 = 40;
const FILES: u64 = 50;
const LARGE_BYTES: u64 = 4 << 20;
/// Acknowledged records of each writer.
const RECORDS: u64 = 20;
const BOUND: Duration = Duration::from_secs(30);

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = build(context.options().with("mirror.safe-set-idle", "300ms"))?;
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let mut random = Random::new(61);
    plant(&data, &mut random, DIRECTORIES, FILES, 3000)?;
    fs::write(data.join("large"), random.bytes(LARGE_BYTES as usize))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    wait_on(&mut mirror.primary)?;

    let mut first = Writers::start(&mirror.net.a, &data, "first-", 2)?;
    first.wait_for(RECORDS, BOUND)?;
    let open = change(&data, &mut random)?;
    mirror.kill_primary_side()?;
    first.end()?;
    drop(open);
    take_over(&mut mirror)?;
    first.verify(&copy).context("on the node that took over")?;
    let mut second = Writers::start(&mirror.net.b, &copy, "second-", 2)?;
    change_more(&copy, &mut random)?;
    second.wait_for(RECORDS, BOUND)?;
    mirror.primary.arguments = words("--role secondary");
    mirror.primary.start(&mirror.net.a)?;
    wait_mirrored(&mut mirror)?;
    second.wait_for(RECORDS, BOUND)?;
    second.end()?;
    let killed = gone_on(&mut mirror.secondary, "after the kill")?;
    wait_settled(&mut mirror, false)?;
    for writers in [&first, &second] {
        writers.verify(&data).context("on the node that returned")?;
    }

    wait_settled_set(&mut mirror.secondary)?;
    write_synced(&copy.join("d13/f0"), &random.bytes(4000))?;
    let swapped = swap(&mut mirror, true, 3, |_| Ok(()))?;
    // Back again, while others write to the copy that is to be the primary's.
    wait_settled_set(&mut mirror.primary)?;
    let unseen = random.bytes(300);
    swap(&mut mirror, false, 4, |copy| {
        OpenOptions::new().write(true).open(copy.join("d10/f1"))?.write_all_at(&unseen[..8], 3)?;
        Ok(fs::write(copy.join("d11/unseen"), &unseen)?)
    })?;
    ensure!(
        fs::read(data.join("d11/unseen"))? == unseen,
        "what was written to the copy is the primary's now"
    );
    let found = mirror.finish(&[PEER_LOST, CRASHED, &["later primacy", "read-only mount"]].concat())?;
    passed(format!(
        "compared of {} bytes: {killed} after a kill, {swapped} after a swap; {} entries identical",
        LARGE_BYTES, found.entries
    ))
}

fn wait_on(node: &mut Node) -> Result<Status> {
    node.wait_for("the safe set is at work", wait::SHORT, |status| status.safe_set.on)
}

/// Everything that was changed is durable on both nodes and out of the set.
fn wait_settled_set(node: &mut Node) -> Result<Status> {
    node.wait_for("the safe set is empty", wait::SHORT, |status| {
        status.safe_set.on && status.safe_set.files == 0
    })
}

/// All kinds of changes, some of which nobody has synced.
fn change(at: &Path, random: &mut Random) -> Result<File> {
    write_synced(&at.join("d0/f0"), &random.bytes(9000))?;
    let mut open = OpenOptions::new().append(true).open(at.join("d0/f1"))?;
    open.write_all(&random.bytes(5000))?;
    fs::write(at.join("d1/new"), random.bytes(2000))?;
    fs::create_dir_all(at.join("d1/deep/er"))?;
    fs::write(at.join("d1/deep/er/file"), random.bytes(700))?;
    fs::rename(at.join("d2/f2"), at.join("d3/f2-moved"))?;
    fs::rename(at.join("d4"), at.join("d5/d4"))?;
    fs::remove_file(at.join("d6/f6"))?;
    fs::hard_link(at.join("d8/f8"), at.join("d9/linked"))?;
    Ok(open)
}

/// On the other node, before the first one returns.
fn change_more(at: &Path, random: &mut Random) -> Result<()> {
    fs::rename(at.join("d20"), at.join("d21/d20"))?;
    fs::remove_file(at.join("d22/f6"))?;
    fs::write(at.join("d22/f6-again"), random.bytes(100))?;
    fs::rename(at.join("d23/f3"), at.join("d24/f3"))?;
    fs::create_dir(at.join("d25/made"))?;
    fs::write(at.join("d25/made/file"), random.bytes(5000))?;
    OpenOptions::new().write(true).open(at.join("large"))?.write_all_at(&random.bytes(4096), 1 << 20)?;
    write_synced(&at.join("d0/f0"), &random.bytes(3000))
}

/// The session goes on from before the change of roles, and little was compared. Returns the bytes.
fn gone_on(primary: &mut Node, when: &str) -> Result<u64> {
    let status = primary.fresh_status()?;
    let resync = &status.resync;
    ensure!(resync.resumed && resync.why.contains("gone on"), "{when}: {}", resync.why);
    ensure!(resync.bytes_compared < LARGE_BYTES / 4, "{when}: too much was compared: {resync:?}");
    Ok(resync.bytes_compared)
}

fn wait_settled(mirror: &mut Mirror, is_a: bool) -> Result<()> {
    mirror.wait_same_trees(BOUND)?;
    let primary = if is_a { &mut mirror.primary } else { &mut mirror.secondary };
    primary.wait_for("nothing is dirty", BOUND, Status::is_settled).map(drop)
}

/// Roles change in order. `to_a`: `a` becomes the primary. `between` is done to the next primary's directory while no daemon runs. Returns how many bytes were compared.
fn swap(
    mirror: &mut Mirror,
    to_a: bool,
    term: u64,
    between: impl FnOnce(&Path) -> Result<()>,
) -> Result<u64> {
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let (a, b) = ((&mut mirror.primary, &mirror.net.a, data), (&mut mirror.secondary, &mirror.net.b, copy));
    let (next, former) = if to_a { (a, b) } else { (b, a) };
    for node in [&mut *former.0, &mut *next.0] {
        node.request(&json!({"command": "hand-over"}))?;
        node.wait_end(START_BOUND)?;
        node.arguments = words("--role secondary");
    }
    between(&next.2)?;
    next.0.arguments = words(&format!("--role primary --term {term}"));
    former.0.launch(former.1)?;
    next.0.start(next.1)?;
    next.0.wait_for("Mirrored", BOUND, |status| status.phase == "Mirrored")?;
    let compared = gone_on(next.0, "after a swap")?;
    wait_settled(mirror, to_a)?;
    Ok(compared)
}
