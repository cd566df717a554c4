//! The cable is out for a while, and what changed meanwhile is all that travels when it is back: 1,000 ranges in a tree of
//! thousands of files, and some names. No other file is listed, compared or sent. When one of the daemons was killed nobody
//! knows what the other has, and everything is compared.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::files::{
    CRASHED, PEER_LOST, kill_secondary_without_a_record, kill_without_a_record, plant, require_all_compared,
    require_copied, write_synced,
};
use super::{Context, Outcome, passed};
use crate::lab::image::MIB;
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;
use crate::lab::status::Status;
use crate::lab::wait;

/// Files that are never touched.
const DIRECTORIES: u64 = 50;
const FILES: u64 = 100;
/// Files that are written to while the cable is out: their number, length, and ranges in each.
const WRITTEN: u64 = 100;
const WRITTEN_BYTES: u64 = 256 << 10;
const RANGES: u64 = 10;
const RANGE_BYTES: u64 = 4096;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(31);
    plant(&data, &mut random, DIRECTORIES, FILES, 3000)?;
    fs::create_dir(data.join("written"))?;
    for file in 0..WRITTEN {
        fs::write(data.join(format!("written/f{file}")), random.bytes(WRITTEN_BYTES as usize))?;
    }
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    let (sent, took) = absence(&mut mirror, &mut random)?;
    // Nothing at all changed, and once more everything did that can change without a byte being written.
    nothing_changed(&mut mirror)?;
    let after_kill = killed(&mut mirror)?;
    let found = mirror.finish(&[PEER_LOST, CRASHED].concat())?;
    passed(format!(
        "{} ranges of {RANGE_BYTES} bytes in {} files: {sent} bytes on the wire, mirrored {took:?} after the peer was reached; {after_kill} \
         bytes compared after a kill; {} entries identical",
        WRITTEN * RANGES,
        WRITTEN,
        found.entries
    ))
}

fn status(mirror: &mut Mirror) -> Result<Status> {
    mirror.primary.wait_for("it answers", wait::SHORT, |_| true)
}

fn pull_cable(mirror: &mut Mirror) -> Result<()> {
    mirror.net.b.set_link(false)?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    mirror.secondary.wait_for("Waiting", START_BOUND, |status| status.phase == "Waiting")?;
    Ok(())
}

/// Put the cable back and wait for both; how long it took from the first sign of a session.
fn put_back(mirror: &mut Mirror) -> Result<Duration> {
    mirror.net.b.set_link(true)?;
    mirror.primary.wait_for("a session", START_BOUND, |status| status.phase != "Alone")?;
    let begun = Instant::now();
    mirror.wait_mirrored()?;
    Ok(begun.elapsed())
}

/// Change ranges of files and some names while the cable is out. Returns the bytes on the wire after it.
fn absence(mirror: &mut Mirror, random: &mut Random) -> Result<(u64, Duration)> {
    let data = mirror.data().to_owned();
    let before = status(mirror)?;
    pull_cable(mirror)?;
    for file in 0..WRITTEN {
        let file = OpenOptions::new().write(true).open(data.join(format!("written/f{file}")))?;
        for range in 0..RANGES {
            let bytes = random.bytes(RANGE_BYTES as usize);
            file.write_all_at(&bytes, range * (WRITTEN_BYTES / RANGES) / RANGE_BYTES * RANGE_BYTES)?;
        }
    }
    write_synced(&data.join("d3/new"), &random.bytes(5000))?;
    fs::rename(data.join("d3/f1"), data.join("d4/moved"))?;
    fs::remove_file(data.join("d4/f2"))?;
    fs::hard_link(data.join("d5/f1"), data.join("d3/linked"))?;
    let took = put_back(mirror)?;
    mirror.wait_identical()?;
    require_copied(mirror, "d3/new", "after the return")?;
    let after = status(mirror)?;
    ensure!(after.resync.resumed, "everything was compared: {}", after.resync.why);
    let follower = mirror.secondary.wait_for("it answers", wait::SHORT, |_| true)?;
    ensure!(follower.resync.resumed, "the secondary says: {}", follower.resync.why);
    let changed = WRITTEN * RANGES * RANGE_BYTES;
    let sent = after.counters.bytes_sent - before.counters.bytes_sent;
    ensure!(sent >= changed, "{sent} bytes cannot have been all: {changed} changed");
    ensure!(sent <= changed * 12 / 10 + MIB, "{sent} bytes were sent, {changed} changed");
    // The file with one more name is compared, and nothing else: what is new is sent.
    ensure!(after.resync.bytes_compared <= 3000, "{:?}", after.resync);
    ensure!(after.resync.files <= 1, "files were found that were known: {:?}", after.resync);
    Ok((sent, took))
}

fn nothing_changed(mirror: &mut Mirror) -> Result<()> {
    let before = status(mirror)?;
    pull_cable(mirror)?;
    put_back(mirror)?;
    mirror.wait_identical()?;
    let after = status(mirror)?;
    ensure!(after.resync.resumed, "everything was compared: {}", after.resync.why);
    ensure!(after.resync.bytes_compared == 0 && after.resync.files == 0, "{:?}", after.resync);
    // Signs of life are of 64 bytes.
    let sent = after.counters.bytes_sent - before.counters.bytes_sent;
    ensure!(sent < 100_000, "{sent} bytes for nothing");
    Ok(())
}

/// Returns the bytes compared after the secondary, and then the primary, was killed.
fn killed(mirror: &mut Mirror) -> Result<u64> {
    let data = mirror.data().to_owned();
    kill_secondary_without_a_record(mirror)?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    rewrite(&data.join("written/f0"))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    let compared = require_compared(mirror, "the secondary was killed")?;
    kill_without_a_record(mirror)?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    require_compared(mirror, "the primary was killed")?;
    Ok(compared)
}

fn rewrite(path: &Path) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&[7; 4096], 8192)?;
    Ok(file.sync_all()?)
}

fn require_compared(mirror: &mut Mirror, when: &str) -> Result<u64> {
    require_all_compared(mirror, WRITTEN * WRITTEN_BYTES, when)
}
