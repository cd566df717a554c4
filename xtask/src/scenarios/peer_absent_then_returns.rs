//! `when-alone = "release"`: a primary without a peer records that it is alone and goes on; what was written meanwhile reaches
//! the peer when it comes, the first time and after an absence, and both trees are the same.

use std::fs;

use anyhow::Result;

use super::files::{PEER_LOST, plant, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(12);
    // Before the mirror ever ran: neither node saw how these files came to be.
    plant(&data, &mut random, 2, 20, 20_000)?;
    fs::write(mirror.copy().join("stray"), "only on the secondary")?;
    mirror.start_primary()?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    plant(&data.join("d0"), &mut random, 2, 20, 20_000)?;
    write_synced(&data.join("alone"), &random.bytes(100_000))?;

    mirror.start_nodes()?;
    mirror.wait_identical()?;
    for round in 0..3 {
        mirror.secondary.stop()?;
        mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
        write_synced(&data.join("alone"), &random.bytes(100_000))?;
        write_synced(&data.join(format!("new{round}")), &random.bytes(10_000))?;
        fs::remove_file(data.join(format!("d1/f{round}")))?;
        fs::rename(data.join(format!("d1/f{}", round + 10)), data.join(format!("moved{round}")))?;
        mirror.start_nodes()?;
        mirror.wait_identical()?;
        write_synced(&data.join("alone"), &random.bytes(50_000))?;
        require_copied(&mirror, "alone", "after the return")?;
    }
    let found = mirror.finish(PEER_LOST)?;
    passed(format!("absent at start and 3 times later; {} entries identical", found.entries))
}
