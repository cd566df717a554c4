//! The primary's processes are stopped for longer than the dead time, as a machine that is paused, and go on. The other node has taken over; the one that
//! was paused acknowledges nothing and gives way.

use anyhow::Result;

use super::{Situation, wait_alone, wait_answers};
use crate::lab::cluster::Options;
use crate::scenarios::{Context, Outcome, passed};

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.namespace(0).pause_all()?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 200)?;
    cluster.namespace(0).resume_all()?;
    cluster.wait_roles(1)?;
    wait_answers(client, 200)?;
    let answered = situation.end(1)?;
    passed(format!("{answered} answered, 0 lost; the paused node gave way"))
}
