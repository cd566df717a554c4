//! The witness is gone: that changes nothing while the nodes see each other, and nobody goes on without it when they do not.

use anyhow::{Result, ensure};

use super::{LOST, wait_alone, wait_answers};
use crate::lab::cluster::{Cluster, MODULE, Options, SETTLE_BOUND};
use crate::scenarios::{Context, Outcome, passed};

/// Make the situation and check.
pub fn run_gone(context: &Context) -> Result<Outcome> {
    let mut cluster = Cluster::start(&Options { filesystem: context.fs, ..Options::default() })?;
    let client = cluster.client()?;
    wait_answers(&client, 100)?;
    cluster.stop_witness();
    wait_answers(&client, 500)?;
    ensure!(cluster.active()? == [0], "active: {:?}", cluster.active()?);
    cluster.kill(0)?;
    cluster.wait_for(1, MODULE, "waits for the arbiter", SETTLE_BOUND, |found| {
        found.here.cause.contains("arbiter does not answer")
    })?;
    ensure!(cluster.active()?.is_empty(), "a node went on without the arbiter");
    cluster.start_witness()?;
    wait_alone(&mut cluster, 1)?;
    wait_answers(&client, 100)?;
    cluster.revive(0)?;
    cluster.start_daemon(0)?;
    cluster.wait_roles(1)?;
    let answered = client.stop();
    cluster.check(1, answered)?;
    cluster.finish(LOST)?;
    passed(format!("{answered} answered, 0 lost; nobody went on before the witness was back"))
}
