//! `cargo xtask test`: everything this machine can prove, and what it cannot.
//!
//! Ends with a table and one line, `N passed, N failed, N skipped`. Each test of `cargo test` and each scenario counts
//! as one; what was not run is counted as skipped and named with its reason.

pub mod libtest;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::lab::image::Filesystem;
use crate::lab::{interrupt, place};
use crate::report::{Report, Row, Verdict};
use crate::scenarios::{self, Context, Scenario};
use crate::{product, setup, worker};

/// How long the slice of the soak writes.
const SOAK_SECONDS: &str = "20";
/// How many kills and power cuts a mirror goes through.
const CYCLES: &str = "6";
/// How many seeds of the simulation are run.
const SIM_SEEDS: &str = "5000";
/// The same of worlds in which nodes take turns, which take longer.
const ROLES_SEEDS: &str = "2000";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Which part: all of it, or one step by name.
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Part {
    /// Every step below.
    All,
    /// Formatting, boundaries and lints.
    Check,
    /// The product's program builds.
    Build,
    /// `cargo test` of all packages.
    Unit,
    /// A slice of `cargo xtask sim`.
    Sim,
    /// The Debian package is built, installed and taken away again; and used on systems with a systemd that runs.
    Package,
    /// Two nodes in one situation after another.
    Scenarios,
    /// The committed kernel programs are those of the source.
    Ebpf,
    /// Scenarios under distribution kernels in an emulated machine.
    Kernels,
    /// `cargo xtask run --smoke`.
    Smoke,
    /// A slice of `cargo xtask suites`.
    Suites,
    /// A slice of `cargo xtask model`.
    Model,
    /// A slice of `cargo xtask cycles`.
    Cycles,
    /// A slice of `cargo xtask powercut`, on each file system.
    Powercut,
    /// A slice of `cargo xtask soak`.
    Soak,
}

type Step = fn(&mut Report) -> Result<()>;

/// The steps in their order: what is quick and fails often comes first.
const STEPS: &[(Part, Step)] = &[
    (Part::Check, check),
    (Part::Build, build),
    (Part::Unit, unit),
    (Part::Sim, |report| own(report, "sim", &["sim", "--seeds", SIM_SEEDS])),
    (Part::Sim, |report| own(report, "sim --roles", &["sim", "--roles", "--seeds", ROLES_SEEDS])),
    (Part::Sim, |report| own(report, "sim --cluster", &["sim", "--cluster", "--seeds", SIM_SEEDS])),
    (Part::Ebpf, |report| own(report, "build-ebpf --check", &["build-ebpf", "--check"])),
    (Part::Package, |report| own(report, "package --check", &["package", "--check"])),
    (Part::Package, |report| own(report, "package --live", &["package", "--built", "--live"])),
    (Part::Scenarios, two_nodes),
    (Part::Smoke, |report| own(report, "run --smoke", &["run", "--smoke"])),
    (Part::Suites, suites),
    (Part::Model, model),
    (Part::Cycles, |report| own(report, "cycles", &["cycles", "--cycles", CYCLES])),
    (Part::Powercut, power_cuts),
    (Part::Soak, |report| own(report, "soak", &["soak", "--seconds", SOAK_SECONDS])),
    (Part::Kernels, |report| own(report, "kernels", &["kernels"])),
];

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    let begin = Instant::now();
    install()?;
    place::clear_dead();
    let mut report = Report::default();
    for (part, step) in STEPS {
        if args.part == Part::All || args.part == *part {
            if let Err(error) = step(&mut report) {
                report.add(Row::new(
                    &format!("{part:?}"),
                    Verdict::Failed(format!("{error:#}")),
                    Duration::ZERO,
                ));
            }
            interrupt::check()?;
        }
    }
    println!("\nAll of it, what needs attention last ({:.0} s):\n", begin.elapsed().as_secs_f64());
    report.print();
    println!("\n{}", report.summary());
    if !report.is_good() {
        bail!("tests failed");
    }
    Ok(())
}

/// What the steps use beside the two-node lab's own needs. Without root nothing is installed, and the steps that need
/// root are reported as not run.
fn install() -> Result<()> {
    let programs = [
        "etcd",
        "ip",
        "mount",
        "umount",
        "losetup",
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        "nft",
        "setfacl",
        "getfacl",
        "setfattr",
        "getfattr",
        "fusermount3",
        "sqlite3",
        "fio",
        "setpriv",
        "unshare",
    ];
    match setup::require(&programs) {
        Err(error) if !nix::unistd::geteuid().is_root() => {
            eprintln!("{error:#}");
            Ok(())
        }
        other => other,
    }
}

fn check(report: &mut Report) -> Result<()> {
    let warnings = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    for (name, component, arguments) in [
        ("cargo fmt --check", "fmt", &["fmt", "--all", "--check"][..]),
        ("cargo clippy", "clippy", &warnings),
    ] {
        let begin = Instant::now();
        let here = product::cargo()
            .args([component, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let verdict = if here.is_ok_and(|status| status.success()) {
            verdict(product::cargo().args(arguments))?
        } else {
            Verdict::NotRun(format!("rustup component add {component}"))
        };
        report.add(Row::new(name, verdict, begin.elapsed()));
    }
    own(report, "check", &["check"])
}

fn build(report: &mut Report) -> Result<()> {
    let begin = Instant::now();
    let program = product::build()?;
    let words = format!("{} bytes", std::fs::metadata(&program)?.len());
    report.add(Row::new("cargo build --release", Verdict::Passed(words), begin.elapsed()));
    Ok(())
}

fn unit(report: &mut Report) -> Result<()> {
    let begin = Instant::now();
    let mut command = product::cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    let (status, counts) = libtest::run(command)?;
    let verdict = if status.success() && counts.failed == 0 {
        Verdict::Passed(format!("{} tests", counts.passed))
    } else {
        Verdict::Failed(format!(
            "{status}; {} of {} tests failed",
            counts.failed,
            counts.failed + counts.passed
        ))
    };
    let row = Row::new("cargo test --workspace", verdict, begin.elapsed());
    // A build that failed has no tests that failed, and is no success.
    let failed = row.failed.max(counts.failed);
    report.add(Row { passed: counts.passed, failed, skipped: 0, ..row });
    for (name, why) in counts.not_run {
        report.add(Row::new(&name, Verdict::NotRun(why), Duration::ZERO));
    }
    Ok(())
}

/// Whether two nodes can be run here; if not, `name` is reported as not run.
fn can_run_nodes(report: &mut Report, name: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let why = "two nodes on one machine need root".to_owned();
        report.add(Row::new(name, Verdict::NotRun(why), Duration::ZERO));
    }
    root
}

fn suites(report: &mut Report) -> Result<()> {
    if can_run_nodes(report, "suites") { own(report, "suites", &["suites", "--slice"]) } else { Ok(()) }
}

fn model(report: &mut Report) -> Result<()> {
    if !can_run_nodes(report, "model") {
        return Ok(());
    }
    own(report, "model", &["model", "--slice"])?;
    own(report, "model, pinned, on xfs", &["model", "--pinned", "--fs", "xfs"])?;
    own(report, "model, pinned, on btrfs", &["model", "--pinned", "--fs", "btrfs"])
}

fn power_cuts(report: &mut Report) -> Result<()> {
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs] {
        let name = format!("powercut on {}", filesystem.name());
        own(report, &name, &["powercut", "--cycles", CYCLES, "--fs", filesystem.name()])?;
    }
    Ok(())
}

fn two_nodes(report: &mut Report) -> Result<()> {
    if !can_run_nodes(report, "scenarios") {
        return Ok(());
    }
    let all: Vec<_> = scenarios::ALL.iter().collect();
    let plain = Context { capture: None, fs: Filesystem::Ext4, encrypted: false };
    report.rows.extend(scenarios::run_all(&all, &plain)?.rows);
    let mut again = |which: fn(&Scenario) -> bool, context: &Context, how: &str| -> Result<()> {
        let some: Vec<_> = all.iter().copied().filter(|scenario| which(scenario)).collect();
        let found = scenarios::run_all(&some, context)?.rows.into_iter();
        report.rows.extend(found.map(|row| Row { name: format!("{} {how}", row.name), ..row }));
        Ok(())
    };
    for filesystem in [Filesystem::Xfs, Filesystem::Btrfs] {
        let context = Context { fs: filesystem, ..plain.clone() };
        again(Scenario::on_each_filesystem, &context, &format!("on {}", filesystem.name()))?;
    }
    again(Scenario::also_encrypted, &Context { encrypted: true, ..plain.clone() }, "encrypted")
}

/// Run one of this program's own commands, its output shown as it comes.
fn own(report: &mut Report, name: &str, arguments: &[&str]) -> Result<()> {
    let begin = Instant::now();
    let program = product::build()?;
    let mut command = Command::new(worker::program()?);
    command.args(arguments).env(product::PROGRAM_VARIABLE, program).current_dir(product::repository());
    let verdict = verdict(&mut command)?;
    report.add(Row::new(name, verdict, begin.elapsed()));
    Ok(())
}

/// Run a command, show its output, and take its last `passed:` or `not run:` line for its words.
fn verdict(command: &mut Command) -> Result<Verdict> {
    let mut last = None;
    let status = libtest::lines(command, |line| {
        if line.starts_with("not run:") || line.starts_with("passed:") {
            last = Some(line.to_owned());
        }
        Some(line.to_owned())
    })
    .with_context(|| format!("run {:?}", command.get_program()))?;
    let last = last.unwrap_or_default();
    Ok(match last.strip_prefix("not run:") {
        _ if !status.success() => Verdict::Failed(format!("{status}; its words are above")),
        Some(why) => Verdict::NotRun(why.trim().to_owned()),
        None => Verdict::Passed(last.trim_start_matches("passed:").trim().to_owned()),
    })
}
