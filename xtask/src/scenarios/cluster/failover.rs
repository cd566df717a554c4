//! A node dies with its machine under a client's load. The other takes the address and the application; the dead one comes back and holds the copy; a swap
//! moves the service back. Nothing that was answered is lost, and nobody does anything but the swap.

use anyhow::Result;

use super::{LOST, longest_gap, wait_alone, wait_answers};
use crate::lab::cluster::{Cluster, MODULE, Options};
use crate::run::cluster::uptime;
use crate::scenarios::{Context, Outcome, passed};

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    under(context, "normal")
}

/// The same with the heartbeat that notices a dead node after a second.
pub fn run_fast(context: &Context) -> Result<Outcome> {
    under(context, "fast")
}

fn under(context: &Context, heartbeat: &'static str) -> Result<Outcome> {
    let mut cluster = Cluster::start(&Options { filesystem: context.fs, heartbeat, ..Options::default() })?;
    let client = cluster.client()?;
    wait_answers(&client, 200)?;
    let known = client.gaps().len();
    let killed = uptime()?;
    cluster.kill(0)?;
    wait_alone(&mut cluster, 1)?;
    wait_answers(&client, 200)?;
    let begun = cluster.hosts[1].started_at()? - killed;
    let failover = longest_gap(&client, known);
    cluster.revive(0)?;
    cluster.start_daemon(0)?;
    cluster.wait_roles(1)?;
    wait_answers(&client, 200)?;
    let known = client.gaps().len();
    cluster.order(1, &["swap", MODULE])?;
    cluster.wait_roles(0)?;
    wait_answers(&client, 200)?;
    let swap = longest_gap(&client, known);
    let answered = client.stop();
    cluster.check(0, answered)?;
    cluster.finish(LOST)?;
    passed(format!(
        "{answered} answered, 0 lost; start script {begun:.2} s after the kill; without answers: {failover:.2?} at the failover, \
         {swap:.2?} at the swap"
    ))
}
