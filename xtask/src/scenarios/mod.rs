//! `cargo xtask scenario`: two real nodes in one situation after another.
//!
//! One file per situation, named after it; its header says what must hold and why. Every scenario runs in a process of
//! its own with a bound, fails on a complaint in a log that it did not provoke, and leaves nothing behind.

mod async_mode;
mod bad_input;
mod bad_peer;
mod behind_the_gate;
mod capture_rows;
pub mod cluster;
mod commands;
mod crash_compares_the_safe_set;
mod crash_of_the_secondary;
mod daemon_crash_mount_replaced;
mod database_killed;
mod direct_and_dsync;
mod diverged_copy_is_kept;
mod excluded_names;
mod failover_by_hand;
pub mod files;
mod fsync_is_on_both;
mod full_disk_on_b;
mod group_commit;
mod guarded_copy;
mod hardlinks_symlinks_specials;
mod inode_flags;
mod link_is_encrypted;
mod link_reset;
mod mirror_small_files;
mod mmap_store_fsync;
mod mmap_store_unsynced;
mod msync_is_on_both;
mod odd_names;
mod peer_absent_hold;
mod peer_absent_then_returns;
pub mod primary_killed_under_load;
mod rename_storm;
mod restart_resumes;
mod resume_after_link_loss;
mod reunion;
mod ring_overflow;
mod roles_change_compares_little;
mod secondary_killed_under_load;
mod seeded_copy;
mod semi_sync;
mod stalled_disk_on_b;
mod state_file_damaged;
mod tmpfile_link;
mod tree_bounds;
mod truncate_and_holes;
mod two_directories;
mod unmount_leaves_plain_files;
mod verify_finds_and_repairs;
mod xattr_acl_owner_times;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use crate::lab::mirror::Surroundings as Context;
use crate::lab::{interrupt, place, wait};
use crate::report::{Report, Row, Verdict};
use crate::{product, worker};

/// Arguments of `cargo xtask scenario`.
#[derive(clap::Args)]
pub struct Args {
    /// Names of scenarios, `all`, or `list`.
    #[arg(default_value = "all")]
    names: Vec<String>,
    #[command(flatten)]
    surroundings: Context,
    /// Run the one named scenario in this process.
    #[arg(long, hide = true)]
    inside: bool,
}

/// How a scenario that did not fail ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All that must hold did; with figures.
    Passed(String),
    /// This machine cannot make the situation; with the reason.
    NotRun(String),
}

/// Shorthand for a passed scenario.
///
/// # Errors
/// Never; the type is what scenarios return.
pub fn passed(figures: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Passed(figures.into()))
}

/// A situation.
pub struct Scenario {
    /// Its name, which is that of its file.
    pub name: &'static str,
    /// Longest time it may take.
    pub bound: Duration,
    /// Make the situation and check what must hold.
    pub run: fn(&Context) -> Result<Outcome>,
}

/// Scenarios whose outcome depends on the file system below.
const ON_EACH_FILESYSTEM: &[&str] = &[
    "mirror_small_files",
    "fsync_is_on_both",
    "truncate_and_holes",
    "mmap_store_fsync",
    "mmap_store_unsynced",
    "msync_is_on_both",
    "direct_and_dsync",
    "xattr_acl_owner_times",
    "inode_flags",
    "behind_the_gate",
    "primary_killed_under_load",
];

/// Scenarios in which much, or nonsense, goes over the link, or in which it breaks.
const ENCRYPTED: &[&str] = &[
    "fsync_is_on_both",
    "primary_killed_under_load",
    "resume_after_link_loss",
    "link_reset",
    "bad_peer",
    "damaged_frames",
];

impl Scenario {
    /// Whether it is worth the time to run it with the link encrypted, too.
    #[must_use]
    pub fn also_encrypted(&self) -> bool {
        ENCRYPTED.contains(&self.name)
    }

    /// Whether it is worth the time to run it on every file system.
    #[must_use]
    pub fn on_each_filesystem(&self) -> bool {
        ON_EACH_FILESYSTEM.contains(&self.name)
    }
}

const fn scenario(name: &'static str, seconds: u64, run: fn(&Context) -> Result<Outcome>) -> Scenario {
    Scenario { name, bound: Duration::from_secs(seconds), run }
}

/// All scenarios, the plain ones first.
pub const ALL: &[Scenario] = &[
    scenario("mirror_small_files", 120, mirror_small_files::run),
    scenario("fsync_is_on_both", 120, fsync_is_on_both::run),
    scenario("group_commit", 120, group_commit::run),
    scenario("rename_storm", 120, rename_storm::run),
    scenario("truncate_and_holes", 120, truncate_and_holes::run),
    scenario("mmap_store_fsync", 120, mmap_store_fsync::run),
    scenario("mmap_store_unsynced", 180, mmap_store_unsynced::run),
    scenario("msync_is_on_both", 180, msync_is_on_both::run),
    scenario("direct_and_dsync", 120, direct_and_dsync::run),
    scenario("tmpfile_link", 120, tmpfile_link::run),
    scenario("xattr_acl_owner_times", 120, xattr_acl_owner_times::run),
    scenario("inode_flags", 180, inode_flags::run),
    scenario("hardlinks_symlinks_specials", 120, hardlinks_symlinks_specials::run),
    scenario("odd_names", 120, odd_names::run),
    scenario("two_directories", 120, two_directories::run),
    scenario("filesystem_root", 120, two_directories::run_root),
    scenario("semi_sync", 180, semi_sync::run),
    scenario("async_mode", 120, async_mode::run),
    scenario("unmount_leaves_plain_files", 120, unmount_leaves_plain_files::run),
    scenario("peer_absent_then_returns", 180, peer_absent_then_returns::run),
    scenario("peer_absent_hold", 180, peer_absent_hold::run),
    scenario("secondary_killed_under_load", 180, secondary_killed_under_load::run),
    scenario("primary_killed_under_load", 240, primary_killed_under_load::run),
    scenario("failover_by_hand", 240, failover_by_hand::run),
    scenario("roles_change_compares_little", 240, roles_change_compares_little::run),
    scenario("mariadb_killed", 300, database_killed::run_mariadb),
    scenario("postgresql_killed", 300, database_killed::run_postgresql),
    scenario("sqlite_killed", 180, database_killed::run_sqlite),
    scenario("cluster_postgresql", 400, cluster::postgresql::run),
    scenario("daemon_crash_mount_replaced", 120, daemon_crash_mount_replaced::run),
    scenario("link_reset", 240, link_reset::run),
    scenario("seeded_copy", 240, seeded_copy::run),
    scenario("verify_finds_and_repairs", 300, verify_finds_and_repairs::run),
    scenario("resume_after_link_loss", 240, resume_after_link_loss::run),
    scenario("diverged_copy_is_kept", 240, diverged_copy_is_kept::run),
    scenario("state_file_damaged", 400, state_file_damaged::run),
    scenario("restart_resumes", 300, restart_resumes::run),
    scenario("crash_compares_the_safe_set", 300, crash_compares_the_safe_set::run),
    scenario("crash_of_the_secondary", 300, crash_of_the_secondary::run),
    scenario("ring_overflow", 120, ring_overflow::run),
    scenario("behind_the_gate", 180, behind_the_gate::run),
    scenario("behind_overflow", 180, behind_the_gate::run_overflow),
    scenario("full_disk_on_b", 180, full_disk_on_b::run),
    scenario("stalled_disk_on_b", 180, stalled_disk_on_b::run),
    scenario("tree_bounds", 180, tree_bounds::run),
    scenario("guarded_copy", 180, guarded_copy::run),
    scenario("excluded_names", 180, excluded_names::run),
    scenario("cluster_failover", 240, cluster::failover::run),
    scenario("cluster_failover_fast", 240, cluster::failover::run_fast),
    scenario("cluster_forty_modules", 400, cluster::many_modules::run),
    scenario("cluster_isolated_with_witness", 240, cluster::isolation::run_with_witness),
    scenario("cluster_isolated_without_arbiter", 240, cluster::isolation::run_without_arbiter),
    scenario("cluster_availability_first", 240, cluster::isolation::run_availability_first),
    scenario("cluster_both_written", 300, cluster::both_written::run),
    scenario("cluster_busy_processors", 240, cluster::busy::run),
    scenario("cluster_manual", 240, cluster::isolation::run_manual),
    scenario("cluster_replication_path_lost", 240, cluster::paths::run_replication_only),
    scenario("cluster_heartbeat_path_lost", 240, cluster::paths::run_heartbeat_only),
    scenario("cluster_one_way", 240, cluster::paths::run_one_way),
    scenario("cluster_flapping", 240, cluster::paths::run_flapping),
    scenario("cluster_paused_primary", 240, cluster::paused::run),
    scenario("cluster_both_restart", 240, cluster::restarts::run_both),
    scenario("cluster_stale_first", 240, cluster::restarts::run_stale_first),
    scenario("cluster_survivor_restarts", 240, cluster::restarts::run_survivor),
    scenario("cluster_orderly_stop", 240, cluster::restarts::run_orderly),
    scenario("cluster_standby", 240, cluster::standby::run),
    scenario("cluster_changes", 300, cluster::changes::run),
    scenario("cluster_application_ends", 240, cluster::application::run_ends),
    scenario("cluster_application_does_not_start", 240, cluster::application::run_does_not_start),
    scenario("cluster_application_does_not_stop", 240, cluster::application::run_does_not_stop),
    scenario("cluster_checker_hangs", 240, cluster::application::run_checker_hangs),
    scenario("cluster_witness_gone", 240, cluster::arbiters::run_gone),
    scenario("commands", 120, commands::run),
    scenario("bad_input", 180, bad_input::run),
    scenario("bad_peer", 180, bad_peer::run),
    scenario("link_is_encrypted", 180, link_is_encrypted::run),
    scenario("damaged_frames", 180, bad_peer::run_damaged),
    scenario("capture_tracepoints", 300, capture_rows::run_tracepoints),
    scenario("capture_gate", 300, capture_rows::run_gate),
    scenario("capture_fentry", 300, capture_rows::run_fentry),
    scenario("capture_trace_only", 120, capture_rows::run_trace_only),
];

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    if args.names == ["list"] {
        ALL.iter().for_each(|scenario| println!("{}", scenario.name));
        return Ok(());
    }
    let chosen = choose(&args.names)?;
    let context = args.surroundings;
    if args.inside {
        return chosen.iter().try_for_each(|scenario| inside(scenario, &context));
    }
    let report = run_all(&chosen, &context)?;
    println!("{}", report.summary());
    if !report.is_good() {
        bail!("scenarios failed");
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names == ["all"] {
        return Ok(ALL.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            ALL.iter()
                .find(|scenario| scenario.name == name)
                .with_context(|| format!("no scenario `{name}`; `cargo xtask scenario list` names them"))
        })
        .collect()
}

/// Run scenarios one after another, each in a process of its own.
///
/// # Errors
/// The product cannot be built, or the person asked to stop. A failed scenario is in the report.
pub fn run_all(chosen: &[&Scenario], context: &Context) -> Result<Report> {
    let program = product::build()?;
    place::clear_dead();
    let mut report = Report::default();
    for scenario in chosen {
        interrupt::check()?;
        let begin = Instant::now();
        let mut command = Command::new(worker::program()?);
        command.args(["scenario", scenario.name, "--inside"]).env(product::PROGRAM_VARIABLE, &program);
        if let Some(row) = &context.capture {
            command.args(["--capture", row]);
        }
        command.args(["--fs", context.fs.name()]);
        if context.encrypted {
            command.arg("--encrypted");
        }
        let verdict = apart(command, scenario.bound)?;
        report.add(Row::new(scenario.name, verdict, begin.elapsed()));
    }
    Ok(report)
}

/// Run one scenario here; the last line printed says how it ended.
fn inside(scenario: &Scenario, context: &Context) -> Result<()> {
    match (scenario.run)(context)? {
        Outcome::Passed(figures) => println!("passed: {figures}"),
        Outcome::NotRun(why) => println!("not run: {why}"),
    }
    Ok(())
}

fn apart(mut command: Command, bound: Duration) -> Result<Verdict> {
    let output = tempfile::NamedTempFile::new()?;
    // Not in the terminal's group: Ctrl-C reaches it through this process, after its own clearing away is prepared.
    command.process_group(0).stdin(Stdio::null());
    // Both write to the end of one file.
    let append = std::fs::OpenOptions::new().append(true).open(output.path())?;
    command.stdout(append.try_clone()?).stderr(append);
    let mut child = command.spawn().context("start a scenario")?;
    let ended = wait::until("the scenario to end", bound, || Ok(child.try_wait()?));
    let status = match ended {
        Ok(status) => Some(status),
        Err(_) => {
            end(&mut child);
            None
        }
    };
    let words = std::fs::read_to_string(output.path())?;
    let last = words.lines().last().unwrap_or_default();
    Ok(match status {
        Some(status) if status.success() => {
            match (last.strip_prefix("passed: "), last.strip_prefix("not run: ")) {
                (Some(figures), _) => Verdict::Passed(figures.to_owned()),
                (_, Some(why)) => Verdict::NotRun(why.to_owned()),
                _ => Verdict::Failed(format!("ended without a word of how: {words}")),
            }
        }
        Some(status) => Verdict::Failed(format!("{status}\n{words}")),
        None => Verdict::Failed(format!("not ended after {bound:?}; it said: {words}")),
    })
}

/// End a scenario that hangs: ask, then take its nodes away (which frees whoever waits in a gate), then kill.
fn end(child: &mut Child) {
    let pid = Pid::from_raw(child.id() as i32);
    let _ = kill(pid, Signal::SIGTERM);
    let gone = |child: &mut Child, seconds| {
        wait::until_uninterrupted("end", Duration::from_secs(seconds), || Ok(child.try_wait()?)).is_ok()
    };
    if gone(child, 15) {
        return;
    }
    place::clear_of(child.id());
    if gone(child, 5) {
        return;
    }
    let _ = child.kill();
    gone(child, 10);
    place::clear_of(child.id());
}
