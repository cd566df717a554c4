//! `cargo xtask run --smoke`: real applications write, the trees are compared, the primary is killed, and every
//! acknowledged record is looked for on the other node. No person is needed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::applications::{Postgres, copy_sources, sqlite};
use super::live;
use crate::lab::mirror::{Mirror, Options};
use crate::lab::{interrupt, place, wait, watchdog};
use crate::report::{Report, Row, Verdict};
use crate::scenarios::files::{CRASHED, PEER_LOST};
use crate::scenarios::primary_killed_under_load;

const BOUND: Duration = Duration::from_secs(15 * 60);
/// Bound for a whole source tree to be on both sides.
const TREE_BOUND: Duration = Duration::from_secs(180);
const SECONDS_OF_PGBENCH: u32 = 10;
const TRANSACTIONS: u32 = 200;
const ROUNDS: u32 = 4;

/// Check every promise under each of the modes.
///
/// # Errors
/// One of them did not hold.
pub fn run(options: &Options, modes: &[&str]) -> Result<()> {
    let cluster = crate::lab::cluster::Options { filesystem: options.filesystem, ..Default::default() };
    let _bound = watchdog::arm("the smoke test", BOUND);
    place::clear_dead();
    let mut report = Report::default();
    for mode in modes {
        let good = report.is_good();
        // A step that failed has its own line already.
        if let Err(error) = under(&mut report, options, mode)
            && report.is_good() == good
        {
            report.add(Row::new(mode, Verdict::Failed(format!("{error:#}")), Duration::ZERO));
        }
        interrupt::check()?;
    }
    // A failure has its line in the report.
    let _ = super::cluster::smoke(&mut report, &cluster);
    println!("{}", report.summary());
    if !report.is_good() {
        bail!("the smoke test failed");
    }
    Ok(())
}

fn under(report: &mut Report, options: &Options, mode: &str) -> Result<()> {
    let mut steps = Steps { report, mode };
    let options = options.clone().with("mirror.mode", mode);
    let mut mirror = steps.take("both nodes mirrored", || {
        let mut mirror = Mirror::start(&options)?;
        let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
        let words = format!("capture: {} ({})", status.capture.row, status.capture.why);
        Ok((mirror, Some(words)))
    })?;
    let mirror = &mut mirror;
    steps.take("source tree", || source_tree(mirror))?;
    for journal in ["wal", "delete"] {
        steps.take(&format!("SQLite, {journal}"), || {
            // Only `sync` promises that it is in the copy's files when the commit returns.
            let words = sqlite(mirror, journal, TRANSACTIONS, |mirror| {
                if mode == "sync" { Ok(()) } else { mirror.wait_identical().map(drop) }
            })?;
            mirror.wait_identical()?;
            Ok(((), Some(words)))
        })?;
    }
    steps.take("PostgreSQL, pgbench", || postgres(mirror))?;
    // Before the daemon, and its counters with it, is killed.
    steps.take("nothing lost unnoticed", || counters(mirror))?;
    steps.take("kill -9 of the primary", || {
        let found = primary_killed_under_load::rounds(mirror, ROUNDS, 4)?;
        let words = format!(
            "{ROUNDS} kills, {} acknowledged records, all on the copy ({} found)",
            found.acknowledged, found.records
        );
        Ok(((), Some(words)))
    })?;
    steps.take("stopped, plain and identical", || {
        mirror.primary.stop()?;
        mirror.secondary.stop()?;
        let found = mirror.compare()?;
        ensure!(found.is_identical(), "{} differences:\n{}", found.count, found.differences.join("\n"));
        mirror.require_plain()?;
        mirror.check_logs(&[PEER_LOST, CRASHED].concat())?;
        Ok(((), Some(format!("{} entries, {}", found.entries, live::bytes(found.bytes as f64)))))
    })
}

/// Rows of the table, one per step.
struct Steps<'a> {
    report: &'a mut Report,
    mode: &'a str,
}

impl Steps<'_> {
    /// Take one step; its words are its figures, no words mean that it could not be run here.
    fn take<T>(&mut self, name: &str, step: impl FnOnce() -> Result<(T, Option<String>)>) -> Result<T> {
        let begin = Instant::now();
        let (verdict, value) = match step() {
            Ok((value, Some(words))) => (Verdict::Passed(words), Ok(value)),
            Ok((value, None)) => (Verdict::NotRun("PostgreSQL is not installed".to_owned()), Ok(value)),
            Err(error) => (
                Verdict::Failed(format!("{error:#}")),
                Err(anyhow!("`{name}` failed; the rest was not tried")),
            ),
        };
        self.report.add(Row::new(&format!("{}: {name}", self.mode), verdict, begin.elapsed()));
        value
    }
}

type Step = Result<((), Option<String>)>;

fn source_tree(mirror: &mut Mirror) -> Step {
    let target = mirror.data().join("sources");
    fs::create_dir(&target)?;
    copy_sources(&target)?;
    let begin = Instant::now();
    let mut files = 0;
    sync_tree(&target, &mut files).context("fsync of a file of the tree")?;
    let synced = begin.elapsed();
    let found = mirror.wait_identical_within(TREE_BOUND)?;
    let words = format!(
        "{} entries, {} identical; {files} fsyncs in {:.1} s",
        found.entries,
        live::bytes(found.bytes as f64),
        synced.as_secs_f64()
    );
    Ok(((), Some(words)))
}

/// fsync every hundredth file and every directory.
fn sync_tree(directory: &Path, files: &mut u64) -> Result<()> {
    for (number, entry) in fs::read_dir(directory)?.enumerate() {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path(), files)?;
        } else if kind.is_file() && number % 100 == 0 {
            fs::File::open(entry.path())?.sync_all()?;
            *files += 1;
        }
    }
    fs::File::open(directory)?.sync_all()?;
    *files += 1;
    Ok(())
}

fn postgres(mirror: &mut Mirror) -> Step {
    let Some(postgres) = Postgres::start(mirror)? else { return Ok(((), None)) };
    let words = postgres.bench(mirror, SECONDS_OF_PGBENCH);
    let stopped = postgres.stop(mirror);
    let words = words?;
    stopped?;
    let found = mirror.wait_identical()?;
    Ok(((), Some(format!("{words}; {} identical", live::bytes(found.bytes as f64)))))
}

fn counters(mirror: &mut Mirror) -> Step {
    let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
    let counters = status.counters;
    ensure!(
        counters.events_lost == 0 || counters.widened > 0,
        "{} events were lost and nothing was widened",
        counters.events_lost
    );
    let words = format!(
        "{} events, {} lost, {} widened; {} unguarded syncs; {} frames refused",
        counters.events,
        counters.events_lost,
        counters.widened,
        counters.unguarded_syncs,
        counters.frames_refused
    );
    Ok(((), Some(words)))
}
