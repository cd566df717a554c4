//! `cargo xtask setup`: what the other commands need from the machine, installed by name.
//!
//! Every command calls [`require`] with the programs it is about to use; nothing happens when they are there.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Install nothing; exit with an error if something is missing.
    #[arg(long)]
    check: bool,
}

/// A program, the Debian package it comes in, and who uses it.
struct Tool {
    program: &'static str,
    package: &'static str,
    used_by: &'static str,
}

const fn tool(program: &'static str, package: &'static str, used_by: &'static str) -> Tool {
    Tool { program, package, used_by }
}

const TOOLS: &[Tool] = &[
    tool("busybox", "busybox-static", "kernels"),
    tool("cpio", "cpio", "kernels"),
    tool("dbench", "dbench", "suites"),
    tool("dpkg", "dpkg", "package"),
    tool("dpkg-deb", "dpkg", "package"),
    tool("etcd", "etcd-server", "tests of the arbiters"),
    tool("fio", "fio", "bench, soak, suites"),
    tool("fusermount3", "fuse3", "run, scenarios"),
    tool("getfattr", "attr", "scenarios"),
    tool("getfacl", "acl", "scenarios"),
    tool("innochecksum", "mariadb-server-core", "scenarios"),
    tool("ip", "iproute2", "run, scenarios, bench"),
    tool("losetup", "mount", "run, scenarios, bench"),
    tool("mariadb", "mariadb-client-core", "scenarios"),
    tool("mariadb-check", "mariadb-client-core", "scenarios"),
    tool("mariadb-install-db", "mariadb-server-core", "scenarios"),
    tool("mariadbd", "mariadb-server-core", "scenarios"),
    tool("mkfs.btrfs", "btrfs-progs", "scenarios"),
    tool("mkfs.ext4", "e2fsprogs", "run, scenarios, bench"),
    tool("mkfs.xfs", "xfsprogs", "scenarios"),
    tool("mmdebstrap", "mmdebstrap", "package --live"),
    tool("mount", "mount", "run, scenarios, bench"),
    tool("nft", "nftables", "scenarios"),
    tool("nsenter", "util-linux", "package --live"),
    tool("pivot_root", "util-linux", "package --live"),
    tool("qemu-system-x86_64", "qemu-system-x86", "kernels"),
    tool("rsync", "rsync", "bench resync"),
    tool("setfacl", "acl", "scenarios"),
    tool("setfattr", "attr", "scenarios"),
    tool("setpriv", "util-linux", "scenarios"),
    tool("sqlite3", "sqlite3", "run --smoke, scenarios"),
    tool("stress-ng", "stress-ng", "suites"),
    tool("umount", "mount", "run, scenarios, bench"),
    tool("unshare", "util-linux", "scenarios"),
];

/// Installed only by the command that uses them: an emulator is large, and without one the kernels step is reported as
/// not run; the suites beside their slice are no part of the tests.
const ON_DEMAND: &[&str] = &[
    "qemu-system-x86_64",
    "busybox",
    "cpio",
    "dbench",
    "dpkg",
    "dpkg-deb",
    "mmdebstrap",
    "rsync",
    "stress-ng",
];

/// Where Debian keeps programs that an ordinary user's PATH does not name.
const SYSTEM_DIRECTORIES: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

static INSTALLING: Mutex<()> = Mutex::new(());

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    let programs: Vec<&str> =
        TOOLS.iter().map(|tool| tool.program).filter(|program| !ON_DEMAND.contains(program)).collect();
    if args.check {
        let missing = missing(&programs);
        if !missing.is_empty() {
            bail!("{}", explain(&missing));
        }
    } else {
        require(&programs)?;
    }
    for tool in TOOLS {
        match find(tool.program) {
            Some(path) => println!("{:<20} {:<28} {}", tool.program, path.display(), tool.used_by),
            None => println!("{:<20} {:<28} {}", tool.program, "missing (installed on demand)", tool.used_by),
        }
    }
    require_fuse()?;
    require_loop()
}

/// Make sure that these programs are here: as root, install what is missing with apt-get.
///
/// # Errors
/// Something is missing and cannot be installed; the message says what to install and how.
pub fn require(programs: &[&str]) -> Result<()> {
    let _one_at_a_time = INSTALLING.lock();
    let absent = missing(programs);
    if absent.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() || find("apt-get").is_none() {
        bail!("{}", explain(&absent));
    }
    let mut packages: Vec<&str> = absent.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    install(&packages).with_context(|| explain(&absent))?;
    let absent = missing(programs);
    if !absent.is_empty() {
        bail!("apt-get succeeded, but these are still missing: {}", explain(&absent));
    }
    Ok(())
}

/// Make sure that a file of a Debian package which holds no program (a library's header) is here, as [`require`] does.
///
/// # Errors
/// It is missing and cannot be installed; the message says what to install and how.
pub fn require_file(file: &str, package: &str) -> Result<()> {
    let _one_at_a_time = INSTALLING.lock();
    if Path::new(file).exists() {
        return Ok(());
    }
    let advice = || {
        format!(
            "missing: {file}. Install as root: apt-get update && apt-get install --no-install-recommends {package}"
        )
    };
    if !nix::unistd::geteuid().is_root() || find("apt-get").is_none() {
        bail!("{}", advice());
    }
    install(&[package]).with_context(advice)?;
    if !Path::new(file).exists() {
        bail!("apt-get succeeded, but {file} is still missing");
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    eprintln!("installing: {}", packages.join(" "));
    let install = || apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat());
    // A fresh machine has no package lists, or old ones.
    install().or_else(|_| apt(&["update"]).and_then(|()| install()))
}

/// # Errors
/// Not root; the message says that `what` needs it.
pub fn require_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{what} needs root: run this command as root (sudo -E env PATH=\"$PATH\" cargo xtask ...)");
    }
    Ok(())
}

/// # Errors
/// /dev/fuse is missing or cannot be opened; the message says what to do.
pub fn require_fuse() -> Result<()> {
    open_device("/dev/fuse").context(
        "the gate needs /dev/fuse: load the kernel module (modprobe fuse); \
         in a container pass the device in (--device /dev/fuse)",
    )
}

/// # Errors
/// Loop devices cannot be had; the message says what to do.
pub fn require_loop() -> Result<()> {
    open_device("/dev/loop-control").context(
        "disk images need loop devices: load the kernel module (modprobe loop); \
         in a container pass /dev/loop-control and /dev/loop* in",
    )
}

fn open_device(path: &str) -> Result<()> {
    OpenOptions::new().read(true).write(true).open(path).map(drop).with_context(|| format!("open {path}"))
}

/// The program's path; its bare name if it is not found, so that the error of starting it names it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| PathBuf::from(name))
}

/// The program's path, also where an ordinary user's PATH does not lead.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn missing(programs: &[&str]) -> Vec<&'static Tool> {
    programs
        .iter()
        .filter(|program| find(program).is_none())
        .map(|program| {
            TOOLS.iter().find(|tool| tool.program == *program).unwrap_or_else(|| {
                panic!("`{program}` is required by a command but not in the table of setup.rs")
            })
        })
        .collect()
}

fn explain(missing: &[&Tool]) -> String {
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    format!(
        "missing: {}. Install as root: apt-get update && apt-get install --no-install-recommends {}",
        programs.join(", "),
        packages.join(" ")
    )
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program("apt-get"));
    command.args(["--quiet", "--quiet"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    if !std::io::stderr().is_terminal() {
        command.arg("--option=Dpkg::Use-Pty=0");
    }
    // Its words go where this program's progress goes: standard output may be JSON.
    let output = command.stdout(Stdio::piped()).output().context("start apt-get")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {}: {}: {}", arguments.join(" "), output.status, words.trim());
    }
    Ok(())
}
