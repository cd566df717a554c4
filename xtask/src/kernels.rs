//! `cargo xtask kernels`: the tracer's tests under distribution kernels, in an emulated machine.
//!
//! The machine this runs on may be hardened: programs at function entries and exits are then refused, and only an emulated
//! machine with an ordinary kernel shows that the function row works. No part of this needs root or virtualisation by hardware.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

mod archive;
mod guest;
mod package;

use guest::{Guest, Outcome};
use package::Kernel;

/// Arguments of `cargo xtask kernels`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel series to boot, e.g. 6.12 or 6.1 (Debian's cloud kernels).
    #[arg(long = "series", default_values_t = ["6.12".to_owned()])]
    series: Vec<String>,
    /// Rows of hooks to test.
    #[arg(long = "row", default_values_t = ["fentry".to_owned(), "tracepoints".to_owned()])]
    rows: Vec<String>,
    /// Only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Print what the guest says.
    #[arg(long)]
    verbose: bool,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(why) = missing() {
        println!("not run: {why}");
        return Ok(());
    }
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository's root")?;
    let tests = test_binary(root)?;
    let cache = root.join("target/kernels");
    let busybox = package::busybox(&cache)?;
    let mut failed = false;
    for series in &args.series {
        let kernel = match Kernel::fetch(&cache, series) {
            Ok(kernel) => kernel,
            Err(error) => {
                println!("not run: Linux {series}: {error:#}");
                continue;
            }
        };
        let guest = Guest {
            kernel: &kernel,
            busybox: &busybox,
            tests: &tests,
            rows: &args.rows,
            filter: args.filter.as_deref(),
        };
        let outcomes = guest.run(&cache, args.verbose)?;
        for Outcome { row, passed, failures, not_run } in outcomes {
            let verdict = if failures.is_empty() && passed > 0 { "ok" } else { "FAILED" };
            println!(
                "{:<28} {row:<12} {verdict}: {passed} passed, {} failed",
                kernel.release,
                failures.len()
            );
            for failure in &failures {
                println!("    failed: {failure}");
            }
            for reason in &not_run {
                println!("    {reason}");
            }
            failed |= verdict != "ok";
        }
    }
    if failed {
        bail!("tests failed in an emulated machine (see above; --verbose shows the guest's console)");
    }
    Ok(())
}

/// Why nothing can be run here.
fn missing() -> Option<String> {
    let needed = [
        (guest::EMULATOR, "qemu-system-x86"),
        ("apt-get", "apt"),
        ("dpkg", "dpkg"),
        ("xz", "xz-utils"),
        ("ldd", "libc-bin"),
    ];
    needed.iter().find_map(|(program, package)| {
        let started =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        started.is_err().then(|| format!("no {program} (Debian package {package})"))
    })
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Build the tracer's tests.
fn test_binary(root: &Path) -> Result<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--quiet", "--no-run", "--package", "replicator", "--test", "tracer"])
        .args(["--message-format", "json"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("the tracer's tests do not compile");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.target.as_ref().is_some_and(|target| target.name == "tracer"))
        .find_map(|message| message.executable)
        .context("cargo named no test binary")
}
