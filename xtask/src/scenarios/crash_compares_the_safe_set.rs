//! The primary's daemon is killed, and what it was about to change was on record before it did: after its return these files are
//! compared and nothing else. What was settled is not; what others changed while the node was dead is found; what was recorded and is
//! damaged is not made use of.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::files::{CRASHED, PEER_LOST, plant, write_synced};
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
    let mut mirror = Mirror::build(&context.options().with("mirror.safe-set-idle", "300ms"))?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(48);
    plant(&data, &mut random, DIRECTORIES, FILES, 3000)?;
    fs::write(data.join("large"), random.bytes(LARGE_BYTES as usize))?;
    fs::write(data.join("quiet"), random.bytes(LARGE_BYTES as usize))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;

    let compared = killed_at_work(&mut mirror, &mut random)?;
    killed_at_rest(&mut mirror, &mut random)?;
    killed_again_at_once(&mut mirror, &mut random)?;
    let sent = killed_alone(&mut mirror, &mut random)?;
    damaged(&mut mirror, &mut random)?;
    let found = mirror.finish(&[PEER_LOST, CRASHED, &["recorded before the crash"]].concat())?;
    passed(format!(
        "at work {compared} bytes compared, alone {sent} bytes sent of {LARGE_BYTES} twice; {} entries identical",
        found.entries
    ))
}

fn wait_on(mirror: &mut Mirror) -> Result<Status> {
    mirror.primary.wait_for("the safe set is at work", wait::SHORT, |status| status.safe_set.on)
}

/// Everything that was changed is durable on both nodes and out of the set.
fn wait_settled(mirror: &mut Mirror) -> Result<Status> {
    mirror.primary.wait_for("the safe set is empty", wait::SHORT, |status| {
        status.safe_set.on && status.safe_set.files == 0
    })
}

fn kill_and_return(mirror: &mut Mirror) -> Result<Status> {
    mirror.kill_primary_side()?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    mirror.primary.fresh_status()
}

fn resumed(status: &Status, when: &str) -> Result<()> {
    ensure!(status.resync.resumed, "{when}: everything was compared: {}", status.resync.why);
    ensure!(
        status.resync.bytes_compared < LARGE_BYTES / 4,
        "{when}: too much was compared: {:?}",
        status.resync
    );
    Ok(())
}

/// In the middle of all kinds of changes, some of which nobody has synced. Returns the bytes that were compared.
fn killed_at_work(mirror: &mut Mirror, random: &mut Random) -> Result<u64> {
    wait_on(mirror)?;
    let data = mirror.data().to_owned();
    let at = |name: &str| data.join(name);
    write_synced(&at("d0/f0"), &random.bytes(9000))?;
    let mut open = OpenOptions::new().append(true).open(at("d0/f1"))?;
    open.write_all(&random.bytes(5000))?;
    fs::write(at("d1/new"), random.bytes(2000))?;
    fs::create_dir_all(at("d1/deep/er"))?;
    fs::write(at("d1/deep/er/file"), random.bytes(700))?;
    fs::rename(at("d2/f2"), at("d3/f2-moved"))?;
    fs::rename(at("d4"), at("d5/d4"))?;
    fs::remove_file(at("d6/f6"))?;
    fs::write(at("d6/f6-again"), random.bytes(100))?;
    fs::set_permissions(at("d7/f7"), fs::Permissions::from_mode(0o600))?;
    fs::hard_link(at("d8/f8"), at("d9/linked"))?;
    File::open(at("d1"))?.sync_all()?;
    let status = kill_and_return(mirror)?;
    drop(open);
    resumed(&status, "killed at work")?;
    ensure!(status.resync.files > 0, "nothing was looked at: {:?}", status.resync);
    Ok(status.resync.bytes_compared)
}

/// Nothing is in doubt, but somebody changes a file while the node is dead.
fn killed_at_rest(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    wait_settled(mirror)?;
    let status = kill_and_return(mirror)?;
    resumed(&status, "killed at rest")?;
    ensure!(status.resync.bytes_compared == 0, "killed at rest: {:?}", status.resync);

    wait_settled(mirror)?;
    mirror.kill_primary_side()?;
    let plain = below_the_dead_gate(mirror)?;
    OpenOptions::new().write(true).open(plain.join("d10/f1"))?.write_all_at(&random.bytes(8), 3)?;
    fs::write(plain.join("d11/unseen"), random.bytes(300))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    resumed(&mirror.primary.fresh_status()?, "changed while the node was dead")
}

/// The primary's directory as it is beneath what a killed daemon left mounted over it.
fn below_the_dead_gate(mirror: &Mirror) -> Result<PathBuf> {
    let data = mirror.data();
    let gone = nix::mount::umount2(data, nix::mount::MntFlags::MNT_DETACH);
    gone.with_context(|| format!("take away what is mounted over {}", data.display()))?;
    Ok(data.to_owned())
}

/// Twice in a row, the second time before anything of the first was made good.
fn killed_again_at_once(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    wait_on(mirror)?;
    write_synced(&mirror.data().join("d12/f0"), &random.bytes(4000))?;
    mirror.secondary.stop()?;
    mirror.kill_primary_side()?;
    mirror.start_primary()?;
    write_synced(&mirror.data().join("d13/f0"), &random.bytes(4000))?;
    let status = kill_and_return(mirror)?;
    resumed(&status, "killed twice")
}

/// Without a peer what is changed of a file that nobody writes to any more is known to the extent. Returns the bytes that were sent.
fn killed_alone(mirror: &mut Mirror, random: &mut Random) -> Result<u64> {
    wait_settled(mirror)?;
    mirror.secondary.stop()?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    change_within(&mirror.data().join("large"), random)?;
    mirror.primary.wait_for("what is in doubt is known in parts", wait::SHORT, |status| {
        status.safe_set.on && status.safe_set.narrowed == status.safe_set.files && status.safe_set.files > 0
    })?;
    let status = kill_and_return(mirror)?;
    resumed(&status, "killed alone")?;
    ensure!(status.resync.bytes_compared == 0, "killed alone: {:?}", status.resync);
    let sent = status.resync.bytes_sent;
    ensure!(sent < 3 * 8192, "killed alone: {:?}", status.resync);
    Ok(sent)
}

fn change_within(path: &Path, random: &mut Random) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&random.bytes(4096), 1 << 20)?;
    file.write_all_at(&random.bytes(4096), 3 << 20)?;
    Ok(file.sync_all()?)
}

/// A flipped bit in the log, a base that is gone: everything is compared.
fn damaged(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    for part in ["activity.0", "activity.base"] {
        wait_on(mirror)?;
        write_synced(&mirror.data().join("d14/f0"), &random.bytes(100))?;
        mirror.kill_primary_side()?;
        let file = fs::read_dir(&mirror.primary.state_directory)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(part)))
            .with_context(|| format!("a node that runs has its {part}"))?;
        let mut bytes = fs::read(&file)?;
        bytes[600] ^= 4;
        fs::write(&file, &bytes)?;
        mirror.start_nodes()?;
        mirror.wait_identical()?;
        let status = mirror.primary.fresh_status()?;
        ensure!(!status.resync.resumed, "{part} is damaged: resumed");
        ensure!(status.resync.bytes_compared >= 2 * LARGE_BYTES, "{part} is damaged: {:?}", status.resync);
    }
    Ok(())
}
