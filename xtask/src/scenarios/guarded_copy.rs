//! The secondary's copy is the node's alone: with `protect-secondary` nobody else can write into it by its path, over a crash
//! and until the node stops; without, what somebody else changes is found, reported, and set right by the next comparison.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::files::{CRASHED, PEER_LOST, plant, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::{compare, exec, place, wait};

/// Make the situations and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options().with("mirror.protect-secondary", true))?;
    let data = mirror.data().to_owned();
    let copy = mirror.copy().to_owned();
    let mut random = Random::new(41);
    plant(&data, &mut random, 3, 20, 20_000)?;
    mirror.wait_identical()?;
    refused(&copy)?;
    let status = mirror.secondary.status()?.context("the secondary answers")?;
    ensure!(status.volumes.first().is_some_and(|volume| volume.protected), "the status shows no protection");
    ensure!(status.counters.local_changes == 0, "own changes were taken for a stranger's");

    // Killed: still protected. Started again: taken away, and put there again; the mirror goes on.
    mirror.secondary.kill()?;
    refused(&copy)?;
    write_synced(&data.join("alone"), &random.bytes(5000))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    refused(&copy)?;
    write_synced(&data.join("after"), &random.bytes(5000))?;
    require_copied(&mirror, "after", "after a crash of the secondary")?;

    // Stopped: plain. Without the key, others can write, and are found.
    mirror.secondary.stop()?;
    let mounts = place::mounts_below(&copy)?;
    ensure!(mounts.is_empty(), "still mounted after the stop: {mounts:?}");
    mirror.secondary.config.set("mirror.protect-secondary", false);
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    strangers(&mut mirror, &copy)?;
    mirror.secondary.stop()?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    let expected = ["somebody else changed the copy", "taken away"];
    let found = mirror.finish(&[PEER_LOST, CRASHED, &expected].concat())?;
    passed(format!("protected over a crash, 4 changes by others found; {} entries identical", found.entries))
}

/// Nobody can make, change or remove anything by the path.
fn refused(copy: &Path) -> Result<()> {
    let is_refused = |what: &str, result: io::Result<()>| -> Result<()> {
        let errno = result.err().and_then(|error| error.raw_os_error());
        ensure!(errno == Some(libc::EROFS), "{what}: {errno:?}");
        Ok(())
    };
    is_refused("a new file", fs::write(copy.join("stranger"), "x"))?;
    is_refused("a write", fs::OpenOptions::new().write(true).open(copy.join("d0/f0")).map(drop))?;
    is_refused("a removal", fs::remove_file(copy.join("d0/f0")))?;
    is_refused("a rename", fs::rename(copy.join("d0"), copy.join("d9")))?;
    fs::read(copy.join("d0/f0")).context("reading is possible").map(drop)
}

/// Change the copy behind the node's back, one way after the other.
fn strangers(mirror: &mut Mirror, copy: &Path) -> Result<()> {
    let scripts =
        ["echo x > \"$1/stranger\"", "echo x >> \"$1/d0/f0\"", "chmod 600 \"$1/d0/f1\"", "rm \"$1/d0/f2\""];
    let mut counted = 0;
    for script in scripts {
        exec::run(Command::new("sh").args(["-ec", script, "sh"]).arg(copy)).context(script)?;
        let status = mirror.secondary.wait_for("the change is counted", wait::SHORT, |status| {
            status.counters.local_changes > counted
        })?;
        counted = status.counters.local_changes;
    }
    let found = compare::trees(mirror.data(), copy)?;
    ensure!(!found.is_identical(), "nothing was changed");
    Ok(())
}
