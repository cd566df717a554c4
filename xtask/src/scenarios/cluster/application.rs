//! The application does not do what it should: it ends, does not start, does not stop; nor does one of its checkers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{LOST, Situation, wait_answers};
use crate::lab::cluster::{MODULE, Options, SETTLE_BOUND};
use crate::lab::{exec, wait};
use crate::scenarios::{Context, Outcome, passed};
use crate::setup;

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

/// It does not stop, not by force either: it is not given to the other node, so that there are never two of it. Once it can be stopped it is.
pub fn run_does_not_stop(context: &Context) -> Result<Outcome> {
    let Situation { mut cluster, client } =
        Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let stop = cluster.hosts[0].modules().join(MODULE).join("stop");
    let works = fs::read_to_string(&stop)?;
    fs::write(&stop, "#!/bin/sh\necho it stays >&2\nexit 1\n")?;
    cluster.order(0, &["swap", MODULE])?;
    wait::until("two attempts to stop it", SETTLE_BOUND, || {
        let tried = cluster.order(0, &["events", MODULE])?.matches("cannot stop the application").count();
        Ok((tried >= 2).then_some(()))
    })?;
    ensure!(!cluster.hosts[1].file("started").exists(), "there are two of it");
    let pid = fs::read_to_string(cluster.hosts[0].file("run/ledger.pid"))?;
    ensure!(Path::new(&format!("/proc/{}", pid.trim())).exists(), "it has ended all the same");
    fs::write(&stop, works)?;
    cluster.wait_roles(1)?;
    wait_answers(&client, 100)?;
    let answered = client.stop();
    cluster.check(1, answered)?;
    cluster.finish(&[LOST, &["stop-primary", "cannot stop", "failed"]].concat())?;
    passed(format!(
        "{answered} answered, 0 lost; given to the other node when it had stopped, and not before"
    ))
}

/// One of its checkers never ends: that is a failure of this one, and holds up nothing else. Nothing of it is left behind.
pub fn run_checker_hangs(context: &Context) -> Result<Outcome> {
    let module = "[[checker]]\nname = \"hangs\"\ntype = \"script\"\nrun = [\"sleep\", \"86399\"]\n\
                  interval = \"200ms\"\ntimeout = \"300ms\"\nfailures = 2\naction = \"none\"";
    let Situation { mut cluster, client } =
        Situation::begin(&Options { filesystem: context.fs, module, ..Options::default() })?;
    for active in [0, 1] {
        cluster.wait_for(active, MODULE, "that the checker hangs", SETTLE_BOUND, |found| {
            found.checkers.iter().any(|checker| checker.checker == "hangs" && checker.verdict == "down")
        })?;
        wait_answers(&client, 100)?;
        if active == 0 {
            cluster.order(0, &["swap", MODULE])?;
            cluster.wait_roles(1)?;
        }
    }
    let answered = client.stop();
    cluster.check(1, answered)?;
    cluster.finish(&[LOST, &["checker"]].concat())?;
    let left = exec::output(Command::new(setup::program("pgrep")).args(["-c", "-f", "^sleep 86399$"]));
    ensure!(left.is_err(), "looks that never ended are left behind: {left:?}");
    passed(format!("{answered} answered, 0 lost; shown as down on both nodes, swapped beside it"))
}
