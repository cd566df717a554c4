//! `cargo xtask bench resync`: how fast a peer is brought up to date, and what the application feels of it.
//!
//! Each figure is held against what does the same work with less: a program that only reads both trees, one that only reads one and
//! writes the other, rsync over the same cable. Rounds are interleaved, all begin with an empty page cache, and ratios are medians
//! of the rounds' own ratios. Both nodes share this machine's processors and its disk, so "the disk" is what the plain program
//! gets of it.

mod compare;
mod copy;
mod ground;
mod loaded;
mod ranges;
mod rsync;
mod table;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::bars::Judged;
use crate::lab::image::{Filesystem, MIB};
use crate::lab::mirror::{Mirror, Options};
use crate::lab::node::START_BOUND;
use crate::lab::status::Status;
use crate::lab::{interrupt, place, watchdog};
use crate::setup;
use ground::Tree;

/// Arguments of `cargo xtask bench resync`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Bytes of the large files, with a unit: MiB, GiB.
    #[arg(long, value_parser = size, default_value = "5GiB")]
    size: u64,
    /// Small files.
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only parts whose name holds one of these words.
    #[arg(long)]
    only: Vec<String>,
    /// File system of all directories.
    #[arg(long, value_enum, default_value_t = Filesystem::Ext4)]
    fs: Filesystem,
    /// How long the application is measured before a resync under load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long the peer is away in the part about recorded ranges.
    #[arg(long, default_value_t = 10)]
    away: u64,
    /// Let the nodes have this `mirror.*` setting: key=value. May be repeated.
    #[arg(long)]
    set: Vec<String>,
}

/// The parts, in the order in which they run.
const PARTS: &[&str] = &["large", "small", "compare", "ranges", "loaded"];

/// Longest wait for one resync.
const BOUND: Duration = Duration::from_secs(1800);
/// Words in the logs that the bench explains: it takes the peer away on purpose.
const EXPECTED: &[&str] = &["lost", "widened", "peer", "session", "link", "connect", "alone", "mount"];

/// What was found of one part: figures to read, and bars.
#[derive(Default, Debug, serde::Serialize)]
struct Part {
    name: &'static str,
    lines: Vec<String>,
    bars: Vec<Judged>,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    setup::require(&["rsync", "fio"])?;
    place::clear_dead();
    if !PARTS.iter().any(|part| args.chooses(part)) {
        bail!("no part is chosen; there are: {}", PARTS.join(", "));
    }
    let _bound = watchdog::arm("the bench", BOUND * (args.rounds as u32 + 1) * PARTS.len() as u32);
    let mut parts = Vec::new();
    if args.chooses("large") || args.chooses("compare") {
        parts.extend(large(&args)?);
    }
    if args.chooses("small") {
        let tree = Tree { bytes: 0, files: args.files };
        let mut bench = Bench::build(&args, tree)?;
        parts.push(copy::run(&mut bench, &args, "small")?);
        bench.finish()?;
    }
    if args.chooses("ranges") || args.chooses("loaded") {
        let tree = Tree { bytes: args.size, files: args.files };
        let mut bench = Bench::build(&args, tree)?;
        if args.chooses("ranges") {
            parts.push(ranges::run(&mut bench, &args)?);
        }
        if args.chooses("loaded") {
            parts.push(loaded::run(&mut bench, &args)?);
        }
        bench.finish()?;
    }
    let about = format!(
        "{} rounds, {} MiB in large files, {} small files, {}; load average at the end {}",
        args.rounds,
        args.size / MIB,
        args.files,
        args.fs.name(),
        ground::load()
    );
    let text = if args.json { table::json(&about, &parts)? } else { table::text(&about, &parts) };
    println!("{text}");
    Ok(())
}

/// Both parts on the same large files.
fn large(args: &Args) -> Result<Vec<Part>> {
    let mut bench = Bench::build(args, Tree { bytes: args.size, files: 0 })?;
    let mut parts = Vec::new();
    if args.chooses("large") {
        parts.push(copy::run(&mut bench, args, "large")?);
    }
    if args.chooses("compare") {
        parts.push(compare::run(&mut bench, args)?);
    }
    bench.finish()?;
    Ok(parts)
}

impl Args {
    fn chooses(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }
}

/// Two nodes, and a tree on the first one's file system.
struct Bench {
    mirror: Mirror,
    tree: Tree,
}

impl Bench {
    fn build(args: &Args, tree: Tree) -> Result<Bench> {
        let bytes = tree.bytes * 5 / 4 + tree.files as u64 * 24 * 1024 + 512 * MIB;
        let mut options = Options { filesystem: args.fs, ..Options::default() }
            .sized(bytes)
            // The bench begins when the secondary can be reached, not when the primary next looks.
            .with("link.reconnect-max", "50ms")
            // A node whose processor is taken away by a full page cache is not a dead one.
            .with("link.dead-after", "3s");
        for setting in &args.set {
            let (key, value) = setting.split_once('=').context("--set takes key=value")?;
            let key: &'static str = Box::leak(format!("mirror.{key}").into_boxed_str());
            options = options.with(key, value);
        }
        let mirror = Mirror::build(&options)?;
        eprintln!("making {} MiB in large files and {} small files", tree.bytes / MIB, tree.files);
        tree.make(mirror.data())?;
        Ok(Bench { mirror, tree })
    }

    /// The primary runs, alone, and nothing is in the page cache.
    fn start_alone(&mut self) -> Result<()> {
        self.mirror.start_primary()?;
        self.mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
        ground::settle(&self.mirror)
    }

    /// Start the secondary; how many seconds until both nodes hold the same.
    fn resync(&mut self) -> Result<f64> {
        let begin = std::time::Instant::now();
        self.mirror.start_secondary()?;
        self.mirror.primary.wait_for("Mirrored", BOUND, Status::is_mirrored)?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Both nodes hold the same.
    fn bring_up(&mut self) -> Result<()> {
        self.stop()?;
        self.start_alone()?;
        self.resync().map(drop)
    }

    /// Stop both nodes. The next start compares everything.
    fn stop(&mut self) -> Result<()> {
        self.mirror.primary.stop()?;
        self.mirror.secondary.stop()?;
        for node in self.mirror.nodes() {
            for known in ["checkpoint", "register.base"] {
                node.forget(known).with_context(|| format!("remove {known}"))?;
            }
        }
        Ok(())
    }

    /// A fast mirror must also have been a right one.
    fn finish(mut self) -> Result<()> {
        self.mirror.start_secondary()?;
        self.mirror.start_primary()?;
        self.mirror.primary.wait_for("Mirrored", BOUND, Status::is_mirrored)?;
        self.mirror.wait_identical_within(BOUND).context("after the measurements")?;
        self.mirror.finish(EXPECTED).map(drop)
    }
}

/// A size with a unit.
fn size(text: &str) -> Result<u64> {
    let at = text.find(|letter: char| !letter.is_ascii_digit()).context("a unit: MiB, GiB")?;
    let number: u64 = text[..at].parse()?;
    match text[at..].trim() {
        "MiB" => Ok(number * MIB),
        "GiB" => Ok(number * 1024 * MIB),
        unit => bail!("no such unit: {unit}; there are MiB and GiB"),
    }
}

/// The median.
fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512MiB").unwrap(), 512 * MIB);
        assert_eq!(size("5GiB").unwrap(), 5 << 30);
        assert!(size("5").is_err() && size("5GB").is_err() && size("GiB").is_err());
    }

    #[test]
    fn the_median_of_a_few() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([]), 0.0);
    }
}
