//! The secondary's daemon is killed, at rest and in the middle of all kinds of changes, and comes back while the application goes on: what was confirmed to
//! the primary is not looked at again, and after an orderly end without a look at all files nothing is. Where others changed the copy meanwhile, or what is on record of it is damaged or of no use, everything is
//! compared.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::files::{CRASHED, PEER_LOST, kill_without_a_record, plant, require_all_compared, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;
use crate::lab::status::Resync;
use crate::lab::wait;
use crate::lab::writers::Writers;

/// What is never touched.
const DIRECTORIES: u64 = 40;
const FILES: u64 = 50;
const LARGE_BYTES: u64 = 4 << 20;
/// Files that are compared by a return that does not compare everything.
const MOST_FILES: u64 = 64;
/// Acknowledged records of each writer.
const RECORDS: u64 = 20;
const BOUND: Duration = Duration::from_secs(30);

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(83);
    plant(&data, &mut random, DIRECTORIES, FILES, 3000)?;
    fs::write(data.join("large"), random.bytes(LARGE_BYTES as usize))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;

    kill_and_return(&mut mirror)?;
    let rest = gone_on(&mut mirror, "nothing was changed")?;
    ensure!(rest.bytes_compared == 0 && rest.files == 0, "nothing was changed: {rest:?}");
    let compared = at_work(&mut mirror, &mut random)?;
    alone_meanwhile(&mut mirror, &mut random)?;
    handed_over(&mut mirror)?;
    let both = both_at_work(&mut mirror, &mut random)?;
    doubtful(&mut mirror)?;
    let found = mirror.finish(&[PEER_LOST, CRASHED, &["on record", "last run knew"]].concat())?;
    passed(format!(
        "compared of {LARGE_BYTES} bytes and more: 0 at rest, {compared} at work, {both} with the primary; {} entries identical",
        found.entries
    ))
}

/// Wait until what is on record of the copy is of use.
fn wait_on_record(mirror: &mut Mirror) -> Result<()> {
    mirror.secondary.wait_for("its register", wait::SHORT, |status| status.register.on).map(drop)
}

fn kill(mirror: &mut Mirror) -> Result<()> {
    wait_on_record(mirror)?;
    mirror.secondary.kill()
}

fn kill_and_return(mirror: &mut Mirror) -> Result<()> {
    kill(mirror)?;
    come_back(mirror)
}

fn come_back(mirror: &mut Mirror) -> Result<()> {
    mirror.start_nodes()?;
    mirror.wait_identical().map(drop)
}

fn gone_on(mirror: &mut Mirror, when: &str) -> Result<Resync> {
    let status = mirror.primary.fresh_status()?;
    let resync = status.resync;
    ensure!(resync.resumed && resync.why.contains("durably"), "{when}: {}", resync.why);
    ensure!(resync.files_compared < MOST_FILES, "{when}: too much was compared: {resync:?}");
    Ok(resync)
}

fn compared(mirror: &mut Mirror, when: &str) -> Result<()> {
    require_all_compared(mirror, LARGE_BYTES, when).map(drop)
}

/// Killed in the middle of all kinds of changes, a few times. Returns the most bytes that were compared.
fn at_work(mirror: &mut Mirror, random: &mut Random) -> Result<u64> {
    let data = mirror.data().to_owned();
    let mut most = 0;
    for round in 0..3 {
        let mut writers = Writers::start(&mirror.net.a, &data, &format!("log{round}-"), 2)?;
        writers.wait_for(RECORDS, BOUND)?;
        wait_on_record(mirror)?;
        let place = data.join(format!("d{round}"));
        change(&place, random)?;
        write_synced(&place.join("synced"), &random.bytes(9000))?;
        change_more(&data, round, random)?;
        mirror.secondary.kill()?;
        mirror.start_nodes()?;
        mirror.wait_mirrored()?;
        writers.wait_for(RECORDS, BOUND)?;
        writers.end()?;
        let resync = gone_on(mirror, "at work")?;
        ensure!(resync.bytes_compared < LARGE_BYTES / 4, "at work: too much was compared: {resync:?}");
        most = most.max(resync.bytes_compared);
        mirror.wait_identical()?;
        writers.verify(mirror.copy())?;
    }
    Ok(most)
}

/// Some of which nobody has synced.
fn change(at: &Path, random: &mut Random) -> Result<()> {
    fs::write(at.join("new"), random.bytes(2000))?;
    fs::create_dir_all(at.join("deep/er"))?;
    fs::write(at.join("deep/er/file"), random.bytes(700))?;
    fs::remove_file(at.join("f6"))?;
    fs::hard_link(at.join("f8"), at.join("linked"))?;
    Ok(())
}

fn change_more(data: &Path, round: u64, random: &mut Random) -> Result<()> {
    let at = |directory: u64, name: &str| -> PathBuf { data.join(format!("d{directory}")).join(name) };
    fs::rename(at(10 + round, "f2"), at(20 + round, "f2-moved"))?;
    fs::rename(data.join(format!("d{}", 25 + round)), at(33, &format!("moved{round}")))?;
    fs::remove_file(at(34, &format!("f{round}")))?;
    // Its number is given to a new file, where the file system does that.
    fs::write(at(35, &format!("again{round}")), random.bytes(300))?;
    let large = OpenOptions::new().write(true).open(data.join("large"))?;
    Ok(large.write_all_at(&random.bytes(4096), (round % 4) << 20)?)
}

/// The primary goes on alone before it comes back.
fn alone_meanwhile(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    let data = mirror.data().to_owned();
    kill(mirror)?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    write_synced(&data.join("d36/alone"), &random.bytes(3000))?;
    fs::rename(data.join("d37"), data.join("d36/d37"))?;
    come_back(mirror)?;
    gone_on(mirror, "the primary was alone").map(drop)
}

/// It was stopped to be promoted, and is not; what it left for that is of another boot.
fn handed_over(mirror: &mut Mirror) -> Result<()> {
    wait_on_record(mirror)?;
    mirror.secondary.request(&json!({"command": "hand-over"}))?;
    mirror.secondary.wait_end(START_BOUND)?;
    fs::remove_file(mirror.secondary.state_directory.join("succession"))?;
    come_back(mirror)?;
    let resync = gone_on(mirror, "stopped to be promoted")?;
    ensure!(resync.bytes_compared == 0 && resync.files == 0, "stopped to be promoted: {resync:?}");
    Ok(())
}

/// Both are killed in the middle of it. Returns the bytes that were compared.
fn both_at_work(mirror: &mut Mirror, random: &mut Random) -> Result<u64> {
    let data = mirror.data().to_owned();
    mirror.primary.wait_for("the safe set is at work", wait::SHORT, |status| status.safe_set.on)?;
    wait_on_record(mirror)?;
    let mut writers = Writers::start(&mirror.net.a, &data, "both-", 2)?;
    writers.wait_for(RECORDS, BOUND)?;
    change(&data.join("d4"), random)?;
    write_synced(&data.join("d4/synced"), &random.bytes(9000))?;
    change_more(&data, 4, random)?;
    mirror.secondary.kill()?;
    mirror.kill_primary_side()?;
    writers.end()?;
    come_back(mirror)?;
    // The large file is in doubt as a whole.
    let resync = gone_on(mirror, "both crashed")?;
    writers.verify(mirror.copy())?;
    Ok(resync.bytes_compared)
}

/// What must not be gone on from.
fn doubtful(mirror: &mut Mirror) -> Result<()> {
    kill(mirror)?;
    fs::write(mirror.copy().join("d38/f0"), b"changed on the copy")?;
    come_back(mirror)?;
    compared(mirror, "the copy was changed")?;

    kill(mirror)?;
    fs::remove_file(mirror.copy().join("d38/f1"))?;
    come_back(mirror)?;
    compared(mirror, "a file of the copy was removed")?;

    kill(mirror)?;
    let base = mirror.secondary.state_directory.join("register.base");
    let mut bytes = fs::read(&base).context("a secondary has its copy on record")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&base, bytes)?;
    come_back(mirror)?;
    compared(mirror, "what is on record is damaged")?;

    // Both crash, and what may differ is not on record.
    wait_on_record(mirror)?;
    kill_without_a_record(mirror)?;
    mirror.secondary.kill()?;
    come_back(mirror)?;
    compared(mirror, "both crashed, the primary without a record")
}
