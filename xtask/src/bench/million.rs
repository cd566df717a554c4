//! `cargo xtask bench million`: one tree of very many files. What both daemons keep in memory, how long the first comparison takes, and
//! how long a start when nothing has changed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;

use crate::lab::image::{Filesystem, MIB};
use crate::lab::mirror::{Mirror, Options};
use crate::lab::node::Node;
use crate::lab::status::Status;
use crate::lab::{interrupt, place, watchdog};

/// Arguments of `cargo xtask bench million`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of words.
    #[arg(long)]
    json: bool,
    /// Files of the tree; a hundred to a directory, each tenth with 100 bytes in it, the others empty.
    #[arg(long, default_value_t = 1_000_000)]
    files: usize,
    /// File system of both sides.
    #[arg(long, value_enum, default_value_t = Filesystem::Ext4)]
    fs: Filesystem,
}

const FILES_PER_DIRECTORY: usize = 100;
/// Directories to a directory above them.
const FAN_OUT: usize = 100;
/// Bytes of an image to a file: mkfs.ext4 makes one inode for each 16 KiB.
const IMAGE_BYTES_PER_FILE: u64 = 20 * 1024;
/// Longest wait for a comparison.
const BOUND: Duration = Duration::from_secs(1800);
/// Both daemons together, in bytes.
const MEMORY_BAR: u64 = 1 << 30;
/// From the start of both daemons until they hold the same, nothing having changed.
const START_BAR: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
struct Found {
    files: usize,
    /// From both starts until the empty secondary held everything.
    first_seconds: f64,
    after_first: Memory,
    /// From both starts until both held the same, nothing having changed.
    start_seconds: f64,
    after_start: Memory,
    /// After every file was looked at through the gate, so that the kernel and the gate know all of them.
    walk_seconds: f64,
    after_walk: Memory,
}

/// Memory of the daemons in bytes.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
struct Memory {
    primary: u64,
    primary_peak: u64,
    secondary: u64,
    secondary_peak: u64,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    place::clear_dead();
    let _bound = watchdog::arm("the bench", BOUND * 4);
    let found = measure(&args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        print(&found);
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Found> {
    let bytes = (args.files as u64 * IMAGE_BYTES_PER_FILE).max(512 * MIB);
    let mut mirror = Mirror::build(&Options { filesystem: args.fs, ..Options::default() }.sized(bytes))?;
    let mut found = Found { files: args.files, ..Found::default() };
    eprintln!("making {} files", args.files);
    make(mirror.data(), args.files)?;

    found.first_seconds = start(&mut mirror)?;
    found.after_first = memory(&mirror)?;
    eprintln!("first comparison: {:.1} s", found.first_seconds);
    mirror.primary.stop()?;
    mirror.secondary.stop()?;

    found.start_seconds = start(&mut mirror)?;
    found.after_start = memory(&mirror)?;
    eprintln!("start with nothing changed: {:.1} s", found.start_seconds);

    let begin = Instant::now();
    let seen = walk(mirror.data())?;
    found.walk_seconds = begin.elapsed().as_secs_f64();
    found.after_walk = memory(&mirror)?;
    if seen != args.files {
        bail!("{seen} files are seen through the gate, not {}", args.files);
    }
    mirror.finish(&["peer", "session", "link", "connect", "alone"])?;
    Ok(found)
}

/// Start both nodes; how many seconds until they hold the same.
fn start(mirror: &mut Mirror) -> Result<f64> {
    let begin = Instant::now();
    mirror.start_secondary()?;
    mirror.start_primary()?;
    mirror.primary.wait_for("Mirrored", BOUND, |status| status.is_mirrored() && status.is_settled())?;
    mirror.secondary.wait_for("Following", BOUND, Status::is_mirrored)?;
    Ok(begin.elapsed().as_secs_f64())
}

fn make(root: &Path, files: usize) -> Result<()> {
    for first in (0..files).step_by(FILES_PER_DIRECTORY) {
        interrupt::check()?;
        let number = first / FILES_PER_DIRECTORY;
        let directory = root.join(format!("{}/{}", number / FAN_OUT, number % FAN_OUT));
        fs::create_dir_all(&directory)?;
        for file in first..files.min(first + FILES_PER_DIRECTORY) {
            let content: &[u8] = if file % 10 == 0 { &[b'x'; 100] } else { b"" };
            fs::write(directory.join(format!("file-{file}")), content)?;
        }
    }
    nix::unistd::syncfs(fs::File::open(root)?)?;
    Ok(())
}

/// Look at everything; how many files there are.
///
/// # Errors
/// A name is listed twice, or has nothing behind it.
fn walk(root: &Path) -> Result<usize> {
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    let mut files = 0;
    while let Some(directory) = left.pop() {
        interrupt::check()?;
        let mut names = HashSet::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            ensure!(names.insert(path.clone()), "{} is listed twice", path.display());
            let found = fs::symlink_metadata(&path)?;
            if found.is_dir() {
                left.push(path);
            } else if found.nlink() == 1 {
                files += 1;
            }
        }
    }
    Ok(files)
}

fn memory(mirror: &Mirror) -> Result<Memory> {
    let of = |node: &Node| resident(node.pid().context("the daemon runs")?);
    let ((primary, primary_peak), (secondary, secondary_peak)) =
        (of(&mirror.primary)?, of(&mirror.secondary)?);
    Ok(Memory { primary, primary_peak, secondary, secondary_peak })
}

/// Resident memory of a process in bytes, now and at most so far (proc(5), status).
fn resident(pid: Pid) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes =
            line.and_then(|rest| rest.trim_start_matches(':').trim().split(' ').next()?.parse::<u64>().ok());
        kibibytes.map(|kibibytes| kibibytes * 1024).with_context(|| format!("{name} of process {pid}"))
    };
    Ok((figure("VmRSS")?, figure("VmHWM")?))
}

fn print(found: &Found) {
    let memory = |what: &str, memory: &Memory| {
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        println!(
            "{what}: primary {:.0} MiB (peak {:.0}), secondary {:.0} MiB (peak {:.0}), together {:.0} MiB",
            mib(memory.primary),
            mib(memory.primary_peak),
            mib(memory.secondary),
            mib(memory.secondary_peak),
            mib(memory.primary + memory.secondary)
        );
    };
    println!("{} files", found.files);
    println!("first comparison, secondary empty: {:.1} s", found.first_seconds);
    memory("    memory after it", &found.after_first);
    println!("start with nothing changed: {:.1} s", found.start_seconds);
    memory("    memory after it", &found.after_start);
    println!("looking at every file through the gate: {:.1} s", found.walk_seconds);
    memory("    memory after it", &found.after_walk);
    let together = found.after_walk.primary + found.after_walk.secondary;
    let word = |met: bool| if met { "met" } else { "MISSED" };
    println!("{:<7} memory of both below 1 GiB", word(together < MEMORY_BAR));
    println!("{:<7} start below 10 s", word(found.start_seconds < START_BAR.as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_as_many_files_as_asked_for() {
        let place = tempfile::tempdir().unwrap();
        make(place.path(), 1234).unwrap();
        assert_eq!(walk(place.path()).unwrap(), 1234);
        assert_eq!(fs::metadata(place.path().join("0/12/file-1230")).unwrap().len(), 100);
    }

    #[test]
    fn a_process_has_memory() {
        let (now, peak) = resident(Pid::this()).unwrap();
        assert!(now > 0 && peak >= now / 2);
    }
}
