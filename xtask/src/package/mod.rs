//! `cargo xtask package`: a Debian package of the product, and the proof that it installs, upgrades and goes away as it should.
//!
//! What is in it lies in `packaging/`, beside what the program says of itself (manual pages, completions). It is built by dpkg-deb alone.

mod control;
mod libraries;
mod live;
mod tree;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::exec;
use crate::{product, setup};

/// Who answers for the package if nobody is named: nobody who could be written to.
const MAINTAINER: &str = "The replicator authors <maintainers@replicator.invalid>";
/// The revision of what is around the program.
const REVISION: &str = "1";

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub struct Args {
    /// Where the package is put [default: package/ in the build directory]
    #[arg(long, value_name = "DIRECTORY")]
    into: Option<PathBuf>,
    /// Who answers for the package, "Name <address>"
    #[arg(long, value_name = "MAINTAINER", default_value = MAINTAINER)]
    maintainer: String,
    /// Install it below a directory of its own, upgrade, remove and purge it there, and look at what is left each time
    #[arg(long)]
    check: bool,
    /// Install it on small Debian systems with a systemd that runs, and have its units started, watched, stopped and removed there
    #[arg(long)]
    live: bool,
    /// Take the package that was built last, instead of building one
    #[arg(long, conflicts_with_all = ["maintainer", "check"])]
    built: bool,
}

/// A package that was built.
struct Package {
    /// The file.
    file: PathBuf,
    /// What it was made from: a tree as it is to be below `/`.
    root: PathBuf,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    if (args.check || args.live) && setup::find("dpkg-deb").is_none() && setup::find("apt-get").is_none() {
        println!("not run: there is no dpkg-deb here, which builds packages");
        return Ok(());
    }
    setup::require(&["dpkg-deb"])?;
    let package = if args.built { built(&args)? } else { build(&args)? };
    println!("{}: {} bytes", package.file.display(), fs::metadata(&package.file)?.len());
    if args.check {
        trial::run(&package)?;
    }
    if args.live {
        live::run(&package)?;
    }
    Ok(())
}

/// Where packages are put.
fn place(args: &Args) -> Result<PathBuf> {
    match &args.into {
        Some(into) => Ok(into.clone()),
        None => Ok(product::target()?.join("package")),
    }
}

fn version() -> String {
    format!("{}-{REVISION}", env!("CARGO_PKG_VERSION"))
}

fn package(into: &Path, version: &str) -> Result<Package> {
    let file = into.join(format!("replicator_{version}_{}.deb", libraries::architecture()?));
    Ok(Package { file, root: into.join("root") })
}

fn built(args: &Args) -> Result<Package> {
    let package = package(&place(args)?, &version())?;
    ensure!(package.file.is_file(), "there is no {}: build it without --built", package.file.display());
    Ok(package)
}

fn build(args: &Args) -> Result<Package> {
    let program = product::build()?;
    let package = package(&place(args)?, &version())?;
    let root = &package.root;
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", root.display()));
        }
        _ => {}
    }
    let about = control::About {
        version: version(),
        maintainer: args.maintainer.clone(),
        depends: libraries::needed(&fs::read(&program)?)?,
        architecture: libraries::architecture()?,
        date: date(),
    };
    tree::lay(root, &program, &about)?;
    pack(root, &package.file, about.date)?;
    Ok(package)
}

/// Seconds since 1970 of what is packed: the same source makes the same package.
fn date() -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let mut git = Command::new("git");
    git.current_dir(product::repository()).args(["log", "-1", "--format=%ct"]);
    let committed = || exec::output(&mut git).ok()?.trim().parse().ok();
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    given.or_else(committed).unwrap_or_else(now)
}

fn pack(root: &Path, file: &Path, date: u64) -> Result<()> {
    let mut command = Command::new(setup::program("dpkg-deb"));
    // xz is what every dpkg reads.
    command.args(["--build", "--root-owner-group", "-Zxz"]).arg(root).arg(file);
    exec::run(command.env("SOURCE_DATE_EPOCH", date.to_string()))
}
