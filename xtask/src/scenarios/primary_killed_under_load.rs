//! The primary's daemon and everything in its namespace is killed -9 in the middle of fsynced writes. Every record that was
//! acknowledged is in the secondary's own plain files, whole and in order. This is the promise the product is made for.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::files::{CRASHED, PEER_LOST};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::wait;
use crate::lab::writers::{Found, Writers};

const BOUND: Duration = Duration::from_secs(30);
/// Acknowledged records of each writer before the kill.
const RECORDS: u64 = 40;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let found = rounds(&mut mirror, 4, 4)?;
    mirror.finish(&[PEER_LOST, CRASHED].concat())?;
    passed(format!("4 rounds: {} acknowledged, {} found", found.acknowledged, found.records))
}

/// Kill the primary's side `rounds` times under up to `writers` writers, hold the copy against what was acknowledged,
/// bring the primary back and require that both trees end the same.
///
/// # Errors
/// An acknowledged record is missing, or a node does not come back.
pub fn rounds(mirror: &mut Mirror, rounds: u32, writers: u32) -> Result<Found> {
    let mut all = Found::default();
    let data = mirror.data().to_owned();
    for round in 0..rounds {
        let count = 1 + round % writers.max(1);
        let mut writers = Writers::start(&mirror.net.a, &data, &format!("round{round}-"), count)?;
        writers.wait_for(RECORDS + u64::from(round) * 7, BOUND)?;
        mirror.kill_primary_side()?;
        writers.end()?;
        // What was received is applied without the primary; the copy is then looked at as plain files.
        mirror.secondary.wait_for("all that was received is applied", wait::SHORT, |status| {
            status.phase == "Waiting" && status.positions.applied >= status.positions.received
        })?;
        let found = writers.verify(mirror.copy()).with_context(|| format!("round {round}"))?;
        all.acknowledged += found.acknowledged;
        all.records += found.records;
        mirror.start_nodes()?;
        mirror.wait_identical()?;
    }
    Ok(all)
}
