//! The primary's processes are stopped for longer than the dead time, as a machine that is paused, and go on. The other node has taken over; the one that
//! was paused acknowledges nothing and gives way.

use anyhow::Result;

use super::{LOST, wait_alone, wait_answers};
use crate::lab::cluster::{Cluster, Options};
use crate::scenarios::{Context, Outcome, passed};

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut cluster = Cluster::start(&Options { filesystem: context.fs, ..Options::default() })?;
    let client = cluster.client()?;
    wait_answers(&client, 200)?;
    cluster.namespace(0).pause_all()?;
    wait_alone(&mut cluster, 1)?;
    wait_answers(&client, 200)?;
    cluster.namespace(0).resume_all()?;
    cluster.wait_roles(1)?;
    wait_answers(&client, 200)?;
    let answered = client.stop();
    cluster.check(1, answered)?;
    cluster.finish(LOST)?;
    passed(format!("{answered} answered, 0 lost; the paused node gave way"))
}
