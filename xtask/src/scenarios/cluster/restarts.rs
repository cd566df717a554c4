//! Both nodes lose their machines and start again, in any order, with any state: the newest data goes on, and stale data never.

use anyhow::{Result, ensure};

use super::{LOST, Situation, wait_alone, wait_answers};
use crate::lab::cluster::{Cluster, MODULE, Options, SETTLE_BOUND};
use crate::scenarios::{Context, Outcome, passed};

/// Both die at once, and start at once; then in each order, the first alone for a while.
pub fn run_both(context: &Context) -> Result<Outcome> {
    let mut cluster = Cluster::start(&Options { filesystem: context.fs, ..Options::default() })?;
    let mut answered = 0;
    for order in [[0, 1], [1, 0]] {
        let client = cluster.client()?;
        wait_answers(&client, 100)?;
        answered = client.stop().max(answered);
        let active = cluster.active()?;
        ensure!(active.len() == 1, "active: {active:?}");
        cluster.kill(0)?;
        cluster.kill(1)?;
        for node in order {
            cluster.revive(node)?;
        }
        for node in order {
            cluster.start_daemon(node)?;
        }
        // Who was the primary last may hold more than was answered: it is the one to go on.
        cluster.wait_roles(active[0])?;
        cluster.wait_identical()?;
    }
    let active = cluster.active()?;
    cluster.check(active[0], answered)?;
    cluster.finish(LOST)?;
    passed("both died at once, twice: the last primary went on")
}

/// The secondary went on alone and died. The old primary starts first: it must wait. Then the survivor comes.
pub fn run_stale_first(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.kill(0)?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 100)?;
    cluster.kill(1)?;
    cluster.revive(0)?;
    cluster.start_daemon(0)?;
    let stale =
        cluster.wait_for(0, MODULE, "refused", SETTLE_BOUND, |found| found.here.readiness == "not ready")?;
    ensure!(
        stale.here.active_term.is_none() && stale.here.state == "waiting",
        "the stale node says {stale:?}"
    );
    cluster.revive(1)?;
    cluster.start_daemon(1)?;
    cluster.wait_roles(1)?;
    wait_answers(client, 100)?;
    let answered = situation.end(1)?;
    passed(format!("{answered} answered, 0 lost; the stale node waited: {}", stale.here.cause))
}

/// The survivor dies and starts again while the other is away: it goes on by its own record.
pub fn run_survivor(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.kill(0)?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 100)?;
    cluster.kill(1)?;
    // Its word is on its own disk: it needs nobody for it.
    cluster.stop_witness();
    cluster.revive(1)?;
    cluster.start_daemon(1)?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 100)?;
    cluster.come_back(0)?;
    let answered = situation.end(1)?;
    passed(format!("{answered} answered, 0 lost; the survivor went on by its own record"))
}

/// The daemons are stopped in order: the active one leaves the application to the other, and comes back as the secondary.
pub fn run_orderly(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.hosts[0].stop()?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 100)?;
    cluster.start_daemon(0)?;
    cluster.wait_roles(1)?;
    // The secondary's: nothing stands still for longer than the two need to agree.
    cluster.hosts[0].stop()?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 100)?;
    cluster.start_daemon(0)?;
    cluster.wait_roles(1)?;
    let answered = situation.end(1)?;
    passed(format!("{answered} answered, 0 lost"))
}
