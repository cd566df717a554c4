//! A node dies with its machine under a client's load. The other takes the address and the application; the dead one comes back and holds the copy; a swap
//! moves the service back. Nothing that was answered is lost, and nobody does anything but the swap.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Situation, longest_gap, wait_alone, wait_answers};
use crate::lab::cluster::{Cluster, MODULE, Options, SETTLE_BOUND};
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
    let found = measure(&Options { filesystem: context.fs, heartbeat, ..Options::default() })?;
    passed(format!(
        "{} answered, 0 lost; start script {:.2} s after the kill; without answers: {:.2?} at the failover, {:.2?} at the swap",
        found.answered, found.begun, found.failover, found.swap
    ))
}

/// What was found.
pub struct Found {
    /// Records that were answered; none is lost.
    pub answered: u64,
    /// Seconds from the kill to the start of the application on the other node.
    pub begun: f64,
    /// How long the client was without answers.
    pub failover: Duration,
    /// From the return of the node until both held the same.
    pub back: Duration,
    /// How long the client was without answers at the swap.
    pub swap: Duration,
}

/// Kill, failover, return, swap.
///
/// # Errors
/// A promise did not hold.
pub fn measure(options: &Options) -> Result<Found> {
    let mut situation = Situation::begin(options)?;
    let Situation { cluster, client } = &mut situation;
    cluster.wait_mirror(0, "the safe set is at work", |status| status.safe_set.on)?;
    let known = client.gaps().len();
    let killed = uptime()?;
    cluster.kill(0)?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 200)?;
    let begun = cluster.hosts[1].started_at()? - killed;
    let failover = longest_gap(client, known);
    let returns = Instant::now();
    cluster.come_back(0)?;
    let back = returns.elapsed();
    goes_on(cluster, 1)?;
    wait_answers(client, 200)?;
    let known = client.gaps().len();
    cluster.order(1, &["swap", MODULE])?;
    cluster.wait_roles(0)?;
    wait_answers(client, 200)?;
    goes_on(cluster, 0)?;
    let swap = longest_gap(client, known);
    let answered = situation.end(0)?;
    ensure!(begun < SETTLE_BOUND.as_secs_f64(), "the application was not started after the kill");
    Ok(Found { answered, begun, failover, back, swap })
}

/// Nothing was compared that both nodes knew to be the same before they changed roles.
fn goes_on(cluster: &Cluster, primary: usize) -> Result<()> {
    let status = cluster.wait_mirror(primary, "the primary's status", |status| status.phase == "Mirrored")?;
    ensure!(status.resync.why.contains("gone on"), "everything was compared: {}", status.resync.why);
    cluster.wait_mirror(primary, "the safe set is at work", |status| status.safe_set.on).map(drop)
}

/// Seconds since the machine started, as the start script notes them.
fn uptime() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}
