//! The application does not do what it should: it ends, does not start, does not stop.

use std::fs;

use anyhow::{Context as _, Result};

use super::{LOST, Situation, wait_answers};
use crate::lab::cluster::{MODULE, Options, SETTLE_BOUND};
use crate::scenarios::{Context, Outcome, passed};

/// It ends by itself: its checker finds that, and it is started again.
pub fn run_ends(context: &Context) -> Result<Outcome> {
    let Situation { mut cluster, client } =
        Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let pid: i32 =
        fs::read_to_string(cluster.hosts[0].file("run/ledger.pid"))?.trim().parse().context("a pid")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    wait_answers(&client, 100)?;
    cluster.wait_roles(0)?;
    let answered = client.stop();
    cluster.check(0, answered)?;
    cluster.finish(&[LOST, &["checker"]].concat())?;
    passed(format!("{answered} answered, 0 lost; started again where it was"))
}

/// It does not start any more on one node: after its restarts are spent the other node takes over.
pub fn run_does_not_start(context: &Context) -> Result<Outcome> {
    let module = "restart-budget = { count = 2, period = \"1h\" }";
    let Situation { mut cluster, client } =
        Situation::begin(&Options { filesystem: context.fs, module, ..Options::default() })?;
    fs::write(cluster.hosts[0].modules().join(MODULE).join("start"), "#!/bin/sh\necho broken >&2\nexit 1\n")?;
    cluster.order(0, &["restart", MODULE])?;
    cluster.wait_for(1, MODULE, "active", SETTLE_BOUND, |found| found.here.is_ready("alone"))?;
    wait_answers(&client, 100)?;
    let status = cluster.wait_for(0, MODULE, "given up", SETTLE_BOUND, |found| {
        found.here.cause.contains("too many restarts")
    })?;
    let answered = client.stop();
    cluster.check_answered(1, answered)?;
    cluster.finish(&[LOST, &["start-primary", "cannot start", "failed"]].concat())?;
    passed(format!("{answered} answered, 0 lost; the broken node: {}", status.here.cause))
}
