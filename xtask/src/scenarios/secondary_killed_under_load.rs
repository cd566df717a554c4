//! The secondary's daemon is killed while records are appended with an fsync each. No fsync fails: the primary records that it
//! is alone and goes on. When the secondary returns it is brought up to date under the same load, and holds every record.

use std::time::Duration;

use anyhow::Result;

use super::files::PEER_LOST;
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::writers::Writers;

const ROUNDS: u32 = 3;
const BOUND: Duration = Duration::from_secs(30);

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut writers = Writers::start(&mirror.net.a, &data, "log", 3)?;
    for _ in 0..ROUNDS {
        writers.wait_for(30, BOUND)?;
        mirror.secondary.kill()?;
        mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
        writers.wait_for(30, BOUND)?;
        mirror.start_nodes()?;
        writers.wait_for(30, BOUND)?;
    }
    writers.end()?;
    mirror.wait_identical()?;
    let found = writers.verify(mirror.copy())?;
    mirror.finish(PEER_LOST)?;
    passed(format!("{ROUNDS} kills; {} acknowledged records all on the copy", found.acknowledged))
}
