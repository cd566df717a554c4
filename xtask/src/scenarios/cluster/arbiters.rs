//! The witness is gone: that changes nothing while the nodes see each other, and nobody goes on without it when they do not.

use anyhow::{Result, ensure};

use super::{Situation, wait_alone, wait_answers};
use crate::lab::cluster::{MODULE, Options, SETTLE_BOUND};
use crate::scenarios::{Context, Outcome, passed};

/// Make the situation and check.
pub fn run_gone(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.stop_witness();
    wait_answers(client, 500)?;
    ensure!(cluster.active()? == [0], "active: {:?}", cluster.active()?);
    cluster.kill(0)?;
    cluster.wait_for(1, MODULE, "waits for the arbiter", SETTLE_BOUND, |found| {
        found.here.cause.contains("arbiter does not answer")
    })?;
    ensure!(cluster.active()?.is_empty(), "a node went on without the arbiter");
    cluster.start_witness()?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 100)?;
    cluster.come_back(0)?;
    let answered = situation.end(1)?;
    passed(format!("{answered} answered, 0 lost; nobody went on before the witness was back"))
}
