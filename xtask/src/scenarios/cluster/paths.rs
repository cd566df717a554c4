//! One of the ways between the nodes breaks, and the others do not: no node is lost, so the application stays where it is.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Situation, wait_alone, wait_answers};
use crate::lab::cluster::{HEARTBEAT, MODULE, Options, SETTLE_BOUND};
use crate::lab::wait;
use crate::scenarios::{Context, Outcome, passed};

/// The mirrors do not reach each other. The secondary yields, as it is heard, and the primary goes on alone.
pub fn run_replication_only(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.namespace(0).block(&["tcp sport 7420"], &["tcp dport 7420"])?;
    wait_alone(cluster, 0)?;
    wait_answers(client, 200)?;
    let status = cluster.wait_for(1, MODULE, "outdated", SETTLE_BOUND, |found| {
        found.here.data.as_deref() == Some("outdated")
    })?;
    ensure!(status.here.active_term.is_none(), "both are active: {status:?}");
    cluster.namespace(0).unblock()?;
    cluster.wait_roles(0)?;
    let answered = situation.end(0)?;
    passed(format!("{answered} answered, 0 lost; the secondary yielded, the application stayed"))
}

/// No heartbeat passes on any network, and the mirrors reach each other.
pub fn run_heartbeat_only(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    let port = format!("udp dport {HEARTBEAT}");
    cluster.namespace(0).block(&[&port], &[&port])?;
    wait::until("the heartbeat to be missed", SETTLE_BOUND, || {
        Ok(cluster.status(1)?.is_some_and(|status| !status.peer_alive).then_some(()))
    })?;
    // Long enough for a node that wanted to take over to have done so.
    wait_answers(client, 1000)?;
    wait::pause(Duration::from_secs(2));
    ensure!(cluster.active()? == [0], "active: {:?}", cluster.active()?);
    cluster.namespace(0).unblock()?;
    cluster.wait_roles(0)?;
    wait_answers(client, 200)?;
    let answered = situation.end(0)?;
    passed(format!("{answered} answered, 0 lost; no failover"))
}

/// The secondary hears the primary and is not heard, on all networks. One of them stays, and none but one is ever active.
pub fn run_one_way(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.namespace(0).block(&["ip saddr { 10.77.0.2, 10.78.0.2 }"], &[])?;
    let active = wait::until("one to go on alone", SETTLE_BOUND, || {
        for node in 0..2 {
            let status = cluster.status(node)?;
            let alone = status
                .is_some_and(|status| status.modules.iter().any(|module| module.here.is_ready("alone")));
            if alone {
                return Ok(Some(node));
            }
        }
        Ok(None)
    })?;
    wait_answers(client, 200)?;
    cluster
        .wait_for(1 - active, MODULE, "not active", SETTLE_BOUND, |found| found.here.active_term.is_none())?;
    cluster.namespace(0).unblock()?;
    cluster.wait_roles(active)?;
    let answered = situation.end(active)?;
    passed(format!("{answered} answered, 0 lost; {} went on", ["a", "b"][active]))
}

/// The cable of one of two networks is out: nothing happens. A network that comes and goes moves the application once at most.
pub fn run_flapping(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    let mut moved = 0;
    let mut last = 0;
    for _ in 0..10 {
        cluster.isolate(0)?;
        wait::pause(Duration::from_millis(500));
        cluster.namespace(0).unblock()?;
        wait::pause(Duration::from_millis(500));
        let active = cluster.active()?;
        ensure!(active.len() <= 1, "both are active");
        if let [active] = active.as_slice()
            && *active != last
        {
            (moved, last) = (moved + 1, *active);
        }
    }
    ensure!(moved <= 1, "the application moved {moved} times");
    cluster.wait_roles(last)?;
    wait_answers(client, 200)?;
    let answered = situation.end(last)?;
    passed(format!("{answered} answered, 0 lost; moved {moved} times in 10 interruptions"))
}
