//! `cargo xtask suites`: public POSIX test suites, natively and on the gate.
//!
//! Each suite runs twice with the same arguments: on a plain file system, and on the gate of a running mirror. What passes
//! natively must pass on the gate, test by test, unless [`documented`] says why it cannot. On the gate the suite is
//! halted again and again: each time, and at its end, both trees must become identical.

mod dbench;
mod documented;
mod fio;
mod fsx;
mod ground;
mod install;
mod outcome;
mod pjdfstest;
mod stress_ng;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::lab::image::{Filesystem, LoopImage, MIB};
use crate::lab::mirror::{Kind, Mirror};
use crate::lab::place::Place;
use crate::lab::{interrupt, place, watchdog};
use crate::report::{Report, Row, Verdict};
use crate::setup;

use ground::{Ground, Side};
use outcome::Case;

/// Size of each file system: sparse, so only what is written takes space.
const IMAGE: u64 = 1024 * MIB;
/// Size of the file system that tests of EXDEV cross over to.
const OTHER: u64 = 64 * MIB;
/// No run takes longer, but for what is asked of fsx: it is then cleared away, which frees whoever waits in a gate that hangs.
const BOUND: Duration = Duration::from_secs(2 * 60 * 60);
/// How many operations fsx does in each of its ways if nobody says.
const OPERATIONS: u64 = 20_000;
/// The same in the slice: 20,000 in both ways together, so that the slice takes less than a minute.
const SLICE_OPERATIONS: u64 = 10_000;
/// Words in the logs that the suites explain: calls whose return the gate cannot hold are counted and said.
const EXPECTED: &[&str] = &["nguarded"];

/// Arguments of `cargo xtask suites`.
#[derive(clap::Args)]
pub struct Args {
    /// Which suites; all of them if none is named.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Operations of fsx, in each of its two ways: mappings synced after each store, and not.
    #[arg(long, default_value_t = OPERATIONS)]
    operations: u64,
    /// Seed of fsx.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds fsx runs, from that one on; the trees are compared after each, and all operations are done with each.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Seconds of each dbench run.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only tests whose names contain one of these words (pjdfstest, fio, stress-ng).
    #[arg(long)]
    only: Vec<String>,
    /// The small part that `cargo xtask test` runs.
    #[arg(long, conflicts_with_all = ["suites", "only", "operations"])]
    slice: bool,
    #[command(flatten)]
    kind: Kind,
}

impl Args {
    fn seeds(&self) -> RangeInclusive<u64> {
        self.seed..=self.seed.saturating_add(self.seeds.saturating_sub(1))
    }
}

/// A public suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Suite {
    /// POSIX behaviour of each system call on names and attributes.
    Pjdfstest,
    /// Random reads, writes, mappings, truncations of one file, each read verified.
    Fsx,
    /// Written and verified by each I/O engine.
    Fio,
    /// The stressors of file systems, with verification.
    StressNg,
    /// The file operations of a file server's clients.
    Dbench,
}

/// All suites, the exact ones first.
const ALL: &[Suite] = &[Suite::Pjdfstest, Suite::Fsx, Suite::Fio, Suite::StressNg, Suite::Dbench];
/// Those of the slice: exact, and quick.
const SLICE: &[Suite] = &[Suite::Pjdfstest, Suite::Fsx];

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Pjdfstest => "pjdfstest",
            Suite::Fsx => "fsx",
            Suite::Fio => "fio",
            Suite::StressNg => "stress-ng",
            Suite::Dbench => "dbench",
        }
    }

    /// The directory it works in. Short: a path that a socket is bound to may have 108 bytes (unix(7)), and pjdfstest
    /// makes long ones below it.
    fn directory(self) -> &'static str {
        match self {
            Suite::Pjdfstest => "p",
            Suite::Fsx => "x",
            Suite::Fio => "f",
            Suite::StressNg => "s",
            Suite::Dbench => "d",
        }
    }

    fn install(self) -> Result<()> {
        match self {
            Suite::Pjdfstest => install::pjdfstest().map(drop),
            Suite::Fsx => install::fsx().map(drop),
            Suite::Fio | Suite::StressNg | Suite::Dbench => setup::require(&[self.name()]),
        }
    }

    fn run(self, args: &Args, ground: &mut Ground) -> Result<Vec<Case>> {
        match self {
            Suite::Pjdfstest => pjdfstest::run(ground, &args.only),
            Suite::Fsx if args.slice => fsx::run(ground, SLICE_OPERATIONS, 1..=1),
            Suite::Fsx => fsx::run(ground, args.operations, args.seeds()),
            Suite::Fio => fio::run(ground, &args.only),
            Suite::StressNg => stress_ng::run(ground, &args.only),
            Suite::Dbench => dbench::run(ground, args.seconds),
        }
    }
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    let suites = match (args.slice, args.suites.is_empty()) {
        (true, _) => SLICE,
        (false, true) => ALL,
        (false, false) => &args.suites,
    };
    for suite in suites {
        if let Err(error) = suite.install() {
            if !args.slice {
                return Err(error);
            }
            // The slice is part of the tests, which must run where no registry can be reached.
            println!("not run: {} cannot be installed: {error:#}", suite.name());
            return Ok(());
        }
    }
    place::clear_dead();
    let asked =
        if suites.contains(&Suite::Fsx) { fsx::bound(args.operations, args.seeds) } else { Duration::ZERO };
    let _bound = watchdog::arm("the suites", BOUND.saturating_add(asked));
    let report = compare(&args, suites)?;
    if !report.is_good() {
        bail!("the gate is not what the file system below is");
    }
    let words: Vec<String> = report.rows.iter().filter_map(words).collect();
    println!("passed: {}", words.join("; "));
    Ok(())
}

fn words(row: &Row) -> Option<String> {
    match &row.verdict {
        Verdict::Passed(words) => Some(format!("{}: {}", row.name, words.lines().next()?)),
        _ => None,
    }
}

fn compare(args: &Args, suites: &[Suite]) -> Result<Report> {
    let place = Place::new()?;
    let plain = LoopImage::new(place.path(), "plain", args.kind.surroundings.fs, IMAGE)?;
    let other = LoopImage::new(place.path(), "other", Filesystem::Ext4, OTHER)?;
    let mut mirror = Mirror::start(&args.kind.options(IMAGE))?;
    let mut report = Report::default();
    for suite in suites {
        interrupt::check()?;
        let begin = Instant::now();
        let native = Side::Native(plain.path().to_owned());
        let found = both(*suite, args, (native, Side::Gate(&mut mirror)), (&place, &other));
        let verdict = found.unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")));
        report.add(Row::new(suite.name(), verdict, begin.elapsed()));
    }
    let found = mirror.finish(EXPECTED)?;
    println!(
        "after the stop: {} entries, {} bytes identical, no complaint in a log",
        found.entries, found.bytes
    );
    Ok(report)
}

/// Run one suite on both sides and compare.
fn both(
    suite: Suite,
    args: &Args,
    (native, gate): (Side, Side),
    (place, other): (&Place, &LoopImage),
) -> Result<Verdict> {
    let mut ground = Ground::new(native, suite.directory(), place.path(), other.path())?;
    let natively = suite.run(args, &mut ground)?;
    let mut ground = Ground::new(gate, suite.directory(), place.path(), other.path())?;
    let on_gate = suite.run(args, &mut ground)?;
    let identical = ground.settle()?;
    let found = outcome::compare(&natively, &on_gate, |name| documented::reason(suite.name(), name));
    let words = format!(
        "native {}, gate {}; trees identical {} times in between (after at most {:.1} s) and at the end \
         ({} entries, {} bytes){}",
        outcome::count(&natively),
        outcome::count(&on_gate),
        ground.halts,
        ground.longest.as_secs_f64(),
        identical.entries,
        identical.bytes,
        found.lines()
    );
    Ok(if found.is_good() { Verdict::Passed(words) } else { Verdict::Failed(words) })
}
