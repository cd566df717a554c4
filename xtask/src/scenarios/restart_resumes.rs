//! Nodes are stopped in order and started again, one of them or both. What was changed meanwhile, seen by the other node or by
//! nobody, is compared, and nothing else. Where a node cannot know what was changed everything is compared: after a kill, when the
//! copy was changed, when the checkpoint is damaged.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};

use super::files::{CRASHED, PEER_LOST, kill_without_a_record, plant, require_all_compared, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;
use crate::lab::status::Status;
use crate::lab::wait;

/// What is never touched.
const DIRECTORIES: u64 = 40;
const FILES: u64 = 50;
const LARGE_BYTES: u64 = 4 << 20;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(47);
    plant(&data, &mut random, DIRECTORIES, FILES, 3000)?;
    fs::write(data.join("large"), random.bytes(LARGE_BYTES as usize))?;
    fs::hard_link(data.join("d7/f7"), data.join("d8/linked"))?;
    symlink("f1", data.join("d9/symlink"))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;

    restart_both(&mut mirror)?;
    nothing_compared(&mut mirror, "nothing was changed")?;
    let compared = changed_while_stopped(&mut mirror, &mut random)?;
    secondary_away(&mut mirror, &mut random)?;
    primary_away(&mut mirror, &mut random)?;
    let complaints = doubtful(&mut mirror, &mut random)?;
    let found = mirror.finish(&[PEER_LOST, CRASHED, complaints].concat())?;
    passed(format!("{compared} bytes compared for what nobody saw; {} entries identical", found.entries))
}

fn stop_both(mirror: &mut Mirror) -> Result<()> {
    mirror.primary.stop()?;
    mirror.secondary.stop()
}

fn restart_both(mirror: &mut Mirror) -> Result<()> {
    stop_both(mirror)?;
    start_both(mirror)
}

fn start_both(mirror: &mut Mirror) -> Result<()> {
    mirror.start_nodes()?;
    mirror.wait_identical().map(drop)
}

fn status(mirror: &mut Mirror) -> Result<Status> {
    mirror.primary.wait_for("it answers", wait::SHORT, |_| true)
}

fn resumed(mirror: &mut Mirror, when: &str) -> Result<Status> {
    let status = status(mirror)?;
    ensure!(status.resync.resumed, "{when}: everything was compared: {}", status.resync.why);
    let follower = mirror.secondary.wait_for("it answers", wait::SHORT, |_| true)?;
    ensure!(follower.resync.resumed, "{when}: the secondary says: {}", follower.resync.why);
    Ok(status)
}

fn nothing_compared(mirror: &mut Mirror, when: &str) -> Result<()> {
    let found = resumed(mirror, when)?;
    ensure!(found.resync.bytes_compared == 0 && found.resync.files == 0, "{when}: {:?}", found.resync);
    Ok(())
}

fn compared(mirror: &mut Mirror, when: &str) -> Result<()> {
    require_all_compared(mirror, LARGE_BYTES, when).map(drop)
}

/// Whatever can be done to a tree, on the bare file system. Returns the bytes that were compared.
fn changed_while_stopped(mirror: &mut Mirror, random: &mut Random) -> Result<u64> {
    stop_both(mirror)?;
    let data = mirror.data().to_owned();
    let at = |name: &str| data.join(name);
    // Bytes within the old length, with the old modification time put back: only the kernel's own time tells.
    let modified = fs::metadata(at("d0/f0"))?.modified()?;
    overwrite(&at("d0/f0"), &random.bytes(8), modified)?;
    overwrite(&at("d8/linked"), &random.bytes(8), fs::metadata(at("d8/linked"))?.modified()?)?;
    OpenOptions::new().append(true).open(at("d0/f1"))?.write_all_at(&random.bytes(9000), 100)?;
    fs::set_permissions(at("d0/f2"), fs::Permissions::from_mode(0o600))?;
    fs::remove_file(at("d1/f0"))?;
    // Its number is given to a new file, where the file system does that.
    fs::write(at("d1/new"), random.bytes(2000))?;
    fs::rename(at("d2"), at("d3/moved"))?;
    fs::write(at("d3/moved/f3"), random.bytes(10))?;
    fs::rename(at("d4/f4"), at("d5/f4-moved"))?;
    fs::remove_dir_all(at("d6"))?;
    fs::create_dir(at("d6"))?;
    fs::write(at("d6/f0"), b"another")?;
    fs::remove_file(at("d9/symlink"))?;
    symlink("f2", at("d9/symlink"))?;
    start_both(mirror)?;
    let found = resumed(mirror, "changed while stopped")?;
    ensure!(found.resync.bytes_compared < LARGE_BYTES / 8, "too much was compared: {:?}", found.resync);
    Ok(found.resync.bytes_compared)
}

fn overwrite(path: &Path, bytes: &[u8], modified: SystemTime) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_modified(modified)?;
    Ok(())
}

/// The primary goes on alone; the other one comes back knowing what it had.
fn secondary_away(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    mirror.secondary.stop()?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    write_synced(&mirror.data().join("d10/alone"), &random.bytes(3000))?;
    let large = File::options().write(true).open(mirror.data().join("large"))?;
    large.write_all_at(&random.bytes(4096), 1 << 20)?;
    large.sync_all()?;
    start_both(mirror)?;
    let found = resumed(mirror, "the secondary was away")?;
    ensure!(found.resync.bytes_compared < LARGE_BYTES / 8, "too much was compared: {:?}", found.resync);
    Ok(())
}

/// The secondary waits. The application is at work again before the primary has looked at all files.
fn primary_away(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    mirror.primary.stop()?;
    fs::write(mirror.data().join("d11/unseen"), random.bytes(500))?;
    mirror.start_primary()?;
    for number in 0..20 {
        fs::write(mirror.data().join(format!("d12/at-once-{number}")), random.bytes(500))?;
    }
    fs::rename(mirror.data().join("d13"), mirror.data().join("d14/d13"))?;
    mirror.wait_mirrored()?;
    mirror.wait_identical()?;
    resumed(mirror, "the primary was away").map(drop)
}

/// What must not be gone on from. Returns the complaints it leads to.
fn doubtful(mirror: &mut Mirror, random: &mut Random) -> Result<&'static [&'static str]> {
    kill_without_a_record(mirror)?;
    start_both(mirror)?;
    compared(mirror, "the primary was killed")?;

    stop_both(mirror)?;
    fs::write(mirror.copy().join("d15/f0"), b"changed on the copy")?;
    start_both(mirror)?;
    compared(mirror, "the copy was changed")?;

    stop_both(mirror)?;
    let checkpoint = mirror.primary.state_directory.join("checkpoint");
    let mut bytes = fs::read(&checkpoint).context("an orderly stop leaves a checkpoint")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&checkpoint, bytes)?;
    start_both(mirror)?;
    compared(mirror, "the checkpoint is damaged")?;
    ensure!(!checkpoint.exists(), "a node that runs has no checkpoint");

    // A checkpoint that was used is not there for a second time.
    restart_both(mirror)?;
    nothing_compared(mirror, "nothing was changed, once more")?;
    write_synced(&mirror.data().join("d16/f0"), &random.bytes(100))?;
    kill_without_a_record(mirror)?;
    start_both(mirror)?;
    compared(mirror, "the primary was killed after it had gone on")?;
    Ok(&["checkpoint"])
}
