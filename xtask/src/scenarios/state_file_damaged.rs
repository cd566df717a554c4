//! The state file of either node is cut off, has a flipped bit, is deleted, or is an older copy of itself, while the other node is up.
//! Then everything is compared, or no session begins until an operator decides; never is anything taken for equal, and never does a
//! node replace what it does not know of.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::files::{CRASHED, PEER_LOST, plant, write_synced};
use super::reunion::{REFUSED, contents, overwrite_peer, wait_refused};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::{Node, START_BOUND};
use crate::lab::records::Random;
use crate::lab::wait;

/// What happens to a state file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Truncated,
    Flipped,
    Deleted,
    Older,
}

/// The older copy first: it is one of a history that the next ones give up.
const ALL: [Damage; 4] = [Damage::Older, Damage::Truncated, Damage::Flipped, Damage::Deleted];

/// Make the situations and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options())?;
    let mut random = Random::new(72);
    plant(mirror.data(), &mut random, 4, 20, 20_000)?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    let older = [keep_state(&mirror.primary)?, keep_state(&mirror.secondary)?];
    // Both go on to other generations.
    for round in 0..2 {
        mirror.secondary.stop()?;
        mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
        write_synced(&mirror.data().join(format!("alone-{round}")), &random.bytes(3000))?;
        mirror.start_nodes()?;
        mirror.wait_identical()?;
    }
    let mut refused = 0;
    for damage in ALL {
        of_secondary(&mut mirror, damage, &older[1], &mut random)
            .with_context(|| format!("b: {damage:?}"))?;
        refused += of_primary(&mut mirror, damage, &older[0], &mut random)
            .with_context(|| format!("a: {damage:?}"))?;
    }
    ensure!(refused == ALL.len(), "{refused} sessions were refused");
    let complaints = ["state cannot be used"];
    let found = mirror.finish(&[PEER_LOST, CRASHED, REFUSED, &complaints].concat())?;
    passed(format!("4 compared, {refused} refused; {} entries identical", found.entries))
}

fn state_file(node: &Node) -> PathBuf {
    node.state_directory.join("state")
}

fn keep_state(node: &Node) -> Result<Vec<u8>> {
    fs::read(state_file(node)).context("the node has a state file")
}

fn damage(node: &Node, damage: Damage, older: &[u8]) -> Result<()> {
    let path = state_file(node);
    let bytes = fs::read(&path)?;
    match damage {
        Damage::Truncated => fs::write(&path, &bytes[..bytes.len() / 2])?,
        Damage::Flipped => {
            let mut flipped = bytes;
            // In the number of the generation.
            flipped[56] ^= 1;
            fs::write(&path, flipped)?;
        }
        Damage::Deleted => fs::remove_file(&path)?,
        Damage::Older => {
            ensure!(bytes != older, "the state is the older one still");
            fs::write(&path, older)?;
        }
    }
    Ok(())
}

/// The secondary does not know what it has: everything is compared.
fn of_secondary(mirror: &mut Mirror, kind: Damage, older: &[u8], random: &mut Random) -> Result<()> {
    mirror.secondary.stop()?;
    damage(&mirror.secondary, kind, older)?;
    // What no node tells of.
    fs::write(mirror.copy().join("d0/f0"), b"changed on the copy")?;
    write_synced(&mirror.data().join("d0/f1"), &random.bytes(5000))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
    ensure!(!status.resync.resumed, "not everything was compared: {:?}", status.resync);
    Ok(())
}

/// The primary does not know what the secondary has: it leaves that alone until an operator decides. Returns how many sessions were
/// refused.
fn of_primary(mirror: &mut Mirror, kind: Damage, older: &[u8], random: &mut Random) -> Result<usize> {
    mirror.primary.stop()?;
    damage(&mirror.primary, kind, older)?;
    fs::write(mirror.data().join("d1/f1"), random.bytes(5000))?;
    let before = contents(mirror.copy())?;
    mirror.start_primary()?;
    wait_refused(&mut mirror.primary)?;
    ensure!(contents(mirror.copy())? == before, "the copy was changed");
    overwrite_peer(&mut mirror.primary, &mut mirror.secondary, "the state file was damaged by a test")?;
    mirror.wait_identical()?;
    Ok(1)
}
