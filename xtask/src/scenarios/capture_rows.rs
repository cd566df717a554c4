//! Every row of the capture table that this machine can run holds the same promises: the daemon is told to use the row, says
//! that it does, and the scenarios whose outcome depends on capture are run under it. A row the kernel refuses is refused in words
//! and reported as not run.

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Context, Outcome, direct_and_dsync, fsync_is_on_both, group_commit, mirror_small_files, mmap_store_fsync,
    passed, primary_killed_under_load, rename_storm, truncate_and_holes, xattr_acl_owner_times,
};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;

type Run = fn(&Context) -> Result<Outcome>;

/// Scenarios that run under every row.
const UNDER_EACH: &[(&str, Run)] = &[
    ("mirror_small_files", mirror_small_files::run),
    ("fsync_is_on_both", fsync_is_on_both::run),
    ("group_commit", group_commit::run),
    ("rename_storm", rename_storm::run),
    ("truncate_and_holes", truncate_and_holes::run),
    ("mmap_store_fsync", mmap_store_fsync::run),
    ("direct_and_dsync", direct_and_dsync::run),
    ("xattr_acl_owner_times", xattr_acl_owner_times::run),
    ("primary_killed_under_load", primary_killed_under_load::run),
];

/// Raw tracepoints.
pub fn run_tracepoints(context: &Context) -> Result<Outcome> {
    row(context, "tracepoints")
}

/// The gate handles WRITE itself.
pub fn run_gate(context: &Context) -> Result<Outcome> {
    row(context, "gate")
}

/// fentry and fexit.
pub fn run_fentry(context: &Context) -> Result<Outcome> {
    row(context, "fentry")
}

/// Trace only: nothing is mounted, nobody waits.
pub fn run_trace_only(context: &Context) -> Result<Outcome> {
    let options = context
        .options()
        .with("mirror.mode", "async")
        .with("mirror.gate", false)
        .with("mirror.capture", "fentry");
    let mut mirror = Mirror::build(&options)?;
    if let Some(why) = refusal(&mut mirror)? {
        return Ok(Outcome::NotRun(why));
    }
    mirror.start_nodes()?;
    let data = mirror.data().to_owned();
    super::files::plant(&data, &mut crate::lab::records::Random::new(16), 5, 30, 20_000)?;
    std::fs::rename(data.join("d0"), data.join("d1/inside"))?;
    mirror.wait_identical()?;
    mirror.require_plain().context("trace only mounts nothing")?;
    let found = mirror.finish(&[])?;
    passed(format!("{} entries identical without a gate", found.entries))
}

fn row(context: &Context, name: &'static str) -> Result<Outcome> {
    let context = Context { capture: Some(name.to_owned()), ..context.clone() };
    let mut mirror = Mirror::build(&context.options())?;
    if let Some(why) = refusal(&mut mirror)? {
        return Ok(Outcome::NotRun(why));
    }
    mirror.start_nodes()?;
    let status = mirror.primary.wait_for("it answers", START_BOUND, |_| true)?;
    ensure!(status.capture.row == name, "told to use {name}, uses {}", status.capture.row);
    let attached = status.capture.hooks.iter().filter(|hook| hook.state == "attached");
    let functions = attached.filter(|hook| hook.kind.starts_with('f')).count();
    ensure!(name != "fentry" || functions > 0, "the row is said to be fentry, and no function has a program");
    mirror.finish(&[])?;
    for (scenario, run) in UNDER_EACH {
        match run(&context).with_context(|| format!("{scenario} under {name}"))? {
            Outcome::Passed(_) => (),
            Outcome::NotRun(why) => bail!("{scenario} is not run under {name}: {why}"),
        }
    }
    passed(format!("{} scenarios under {name}", UNDER_EACH.len()))
}

/// Whether the primary refuses to start with its configuration: then its last words. It is not running afterwards.
fn refusal(mirror: &mut Mirror) -> Result<Option<String>> {
    mirror.start_secondary()?;
    match mirror.primary.start(&mirror.net.a) {
        Ok(()) => Ok(None),
        Err(error) => {
            if mirror.primary.is_running() {
                return Err(error);
            }
            let words = crate::lab::log::tail(&mirror.primary.log, 1);
            ensure!(!words.contains("panicked"), "{error:#}");
            Ok(Some(words))
        }
    }
}
