//! The primary's node is cut off from everybody, client and witness included, on all its networks; then it is back.
//!
//! What must hold differs with policy and arbiter ([docs/cluster.md]). In each case: at no moment both nodes answer, but where the policy says
//! so; nothing that was answered is lost; both trees end the same without a person.

use anyhow::{Result, ensure};

use super::{LOST, Situation, longest_gap, wait_alone, wait_answers};
use crate::lab::cluster::{MODULE, Options, SETTLE_BOUND};
use crate::lab::wait;
use crate::scenarios::{Context, Outcome, passed};

/// With a witness: the other node goes on, this one stops and returns as the secondary.
pub fn run_with_witness(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    let known = client.gaps().len();
    cluster.isolate(0)?;
    wait_alone(cluster, 1)?;
    wait_answers(client, 200)?;
    let gap = longest_gap(client, known);
    // Cut off, it can ask nobody: it holds what runs, and has no right to it any more.
    let status =
        cluster.wait_for(0, MODULE, "not ready", SETTLE_BOUND, |found| !found.here.is_ready("alone"))?;
    ensure!(status.here.readiness != "ready", "the node that is cut off says {:?}", status.here);
    cluster.namespace(0).unblock()?;
    cluster.wait_roles(1)?;
    wait_answers(client, 200)?;
    let answered = situation.end(1)?;
    passed(format!("{answered} answered, 0 lost; without answers: {gap:.2?}"))
}

/// Without an arbiter nobody goes on: the primary holds its callers, the secondary waits, and all goes on where it was.
pub fn run_without_arbiter(context: &Context) -> Result<Outcome> {
    let options = Options { filesystem: context.fs, witness: false, ..Options::default() };
    let mut situation = Situation::begin(&options)?;
    let Situation { cluster, client } = &mut situation;
    cluster.isolate(0)?;
    cluster.wait_for(0, MODULE, "holds", SETTLE_BOUND, |found| {
        found.here.cause.contains("none is configured")
    })?;
    cluster.wait_for(1, MODULE, "waits", SETTLE_BOUND, |found| {
        found.here.cause.contains("none is configured")
    })?;
    let held = client.answered();
    cluster.namespace(0).unblock()?;
    cluster.wait_roles(0)?;
    wait_answers(client, 200)?;
    let answered = situation.end(0)?;
    passed(format!("{answered} answered, 0 lost; held after {held}; the roles stayed"))
}

/// `availability-first` without an arbiter: both go on, one stays when they meet again, and nobody has to do anything.
pub fn run_availability_first(context: &Context) -> Result<Outcome> {
    let options = Options {
        filesystem: context.fs,
        witness: false,
        policy: "availability-first",
        ..Options::default()
    };
    let Situation { mut cluster, client } = Situation::begin(&options)?;
    cluster.isolate(0)?;
    wait_alone(&mut cluster, 0)?;
    wait_alone(&mut cluster, 1)?;
    wait_answers(&client, 200)?;
    drop(client);
    cluster.namespace(0).unblock()?;
    let active = wait::until("one to stay", SETTLE_BOUND, || {
        let active = cluster.active()?;
        Ok(<[usize; 1]>::try_from(active).ok().map(|[node]| node))
    })?;
    cluster.wait_roles(active)?;
    cluster.wait_identical()?;
    cluster.finish(LOST)?;
    passed(format!("both went on; node {} stayed", ["a", "b"][active]))
}

/// `manual`: the primary goes on alone, the secondary is not promoted.
pub fn run_manual(context: &Context) -> Result<Outcome> {
    let options = Options { filesystem: context.fs, witness: false, policy: "manual", ..Options::default() };
    let Situation { mut cluster, client } = Situation::begin(&options)?;
    cluster.kill(1)?;
    wait_alone(&mut cluster, 0)?;
    wait_answers(&client, 200)?;
    cluster.come_back(1)?;
    cluster.kill(0)?;
    cluster.wait_for(1, MODULE, "waits for an operator", SETTLE_BOUND, |found| {
        found.here.cause.contains("for an operator to say")
    })?;
    cluster.order(1, &["promote", "--force", "--reason", "the other node is gone", MODULE])?;
    wait_alone(&mut cluster, 1)?;
    wait_answers(&client, 200)?;
    let answered = client.stop();
    cluster.come_back(0)?;
    cluster.check(1, answered)?;
    cluster.finish(LOST)?;
    passed(format!("{answered} answered, 0 lost; promoted by an operator only"))
}
