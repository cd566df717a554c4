//! The connection is reset and the cable pulled, again and again, while records are appended with an fsync each. No fsync fails
//! (`when-alone = "release"`), every return ends with both nodes the same, without a comparison of all, and no record is missing or damaged.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::files::PEER_LOST;
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::writers::Writers;

const ROUNDS: u32 = 4;
const BOUND: Duration = Duration::from_secs(30);

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    crate::setup::require(&["nft"])?;
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut writers = Writers::start(&mirror.net.a, &data, "log", 3)?;
    for round in 0..ROUNDS {
        writers.wait_for(20, BOUND)?;
        let broken = |on: bool, mirror: &Mirror| {
            if round % 2 == 0 { mirror.net.b.reset_connections(on) } else { mirror.net.b.set_link(!on) }
        };
        broken(true, &mirror)?;
        mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
        writers.wait_for(20, BOUND)?;
        broken(false, &mirror)?;
        mirror.wait_mirrored()?;
        let resync = mirror.primary.wait_for("it answers", START_BOUND, |_| true)?.resync;
        ensure!(resync.resumed, "round {round}: everything was compared: {}", resync.why);
    }
    writers.wait_for(20, BOUND)?;
    writers.end()?;
    mirror.wait_identical()?;
    let found = writers.verify(mirror.copy())?;
    mirror.finish(PEER_LOST)?;
    passed(format!("{ROUNDS} breaks; {} acknowledged records all on the copy", found.acknowledged))
}
