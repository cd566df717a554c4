//! Both copies are compared while applications write: as long as nobody else touched the copy nothing is found, whatever is on its
//! way at the moment. What somebody changed in the copy behind the node's back is found, exactly, in the present session, and
//! repaired without another one.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::files::plant;
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::wait;
use crate::lab::writers::Writers;
use crate::worker;

/// A file of several pieces of what is looked at in one go.
const BIG_BYTES: usize = 6 << 20;
/// How often is looked under load before anything is changed.
const ROUNDS: usize = 4;

/// What `replicator verify --json` prints.
#[derive(Deserialize, Debug)]
struct Verified {
    verify: Progress,
    report: Report,
}

#[derive(Deserialize, Debug)]
struct Progress {
    state: String,
    files: u64,
    files_examined: u64,
    bytes_examined: u64,
    differences: u64,
    repaired: u64,
    unsettled: u64,
}

#[derive(Deserialize, Debug)]
struct Report {
    found: Vec<Found>,
    more: u64,
}

#[derive(Deserialize, Debug)]
struct Found {
    path: String,
    what: String,
    ranges: Vec<(u64, u64)>,
}

type Differences = BTreeSet<(String, String, Vec<(u64, u64)>)>;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let options = context.options().with("mirror.protect-secondary", false);
    let mut mirror = Mirror::start(&options)?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(43);
    plant(&data, &mut random, 6, 60, 60_000)?;
    fs::write(data.join("big"), random.bytes(BIG_BYTES))?;
    mirror.wait_identical()?;
    let sessions = mirror.primary.fresh_status()?.counters.sessions;

    let mut load = Load::start(&mirror)?;
    let (mut looked, mut unsettled) = (0, 0);
    for round in 0..ROUNDS {
        load.writers.wait_for(20, wait::SHORT)?;
        let (code, seen) = verify(&mirror, &["--rate", "none"])?;
        ensure!(code == 0 && seen.report.found.is_empty(), "round {round}, a false difference: {seen:?}");
        ensure!(seen.verify.files_examined + 5 >= seen.verify.files, "not all was looked at: {seen:?}");
        ensure!(seen.verify.bytes_examined >= BIG_BYTES as u64, "not all was read: {seen:?}");
        looked += seen.verify.files_examined;
        unsettled += seen.verify.unsettled;
    }

    let expected = tamper(&mirror)?;
    let (code, seen) = verify(&mirror, &["--rate", "200MiB/s"])?;
    ensure!(code == 1 && differences(&seen) == expected, "found {code}: {seen:#?}\nexpected {expected:#?}");
    let (code, seen) = verify(&mirror, &["--repair"])?;
    // The times of a directory are sent with its names, perhaps before they are looked at a second time.
    let repaired = differences(&seen);
    let times = |found: &(String, String, Vec<(u64, u64)>)| found.1 == "modification time";
    let left = expected.symmetric_difference(&repaired);
    ensure!(
        code == 0 && left.into_iter().all(|found| expected.contains(found) && times(found)),
        "repaired {code}: {seen:#?}"
    );
    ensure!(seen.verify.repaired == seen.verify.differences, "not all was repaired: {seen:?}");
    load.writers.wait_for(20, wait::SHORT)?;
    load.end()?;
    let identical = mirror.wait_identical()?;
    let (code, seen) = verify(&mirror, &["--rate", "none"])?;
    ensure!(code == 0 && seen.verify.differences == 0, "after the repair: {seen:?}");
    let after = mirror.primary.fresh_status()?.counters.sessions;
    ensure!(after == sessions, "the session ended: {sessions} before, {after} after");
    mirror.finish(&["somebody else changed the copy"])?;
    passed(format!(
        "{looked} files looked at under load and no false difference ({unsettled} parts changed each time); {} changes found \
         and repaired; {} entries identical",
        expected.len(),
        identical.entries
    ))
}

/// Appending with fsync, and files that are made, written, renamed and removed.
struct Load {
    writers: Writers,
    mixed: Child,
}

impl Load {
    fn start(mirror: &Mirror) -> Result<Load> {
        let data = mirror.data();
        let busy = data.join("busy");
        fs::create_dir(&busy)?;
        let writers = Writers::start(&mirror.net.a, data, "log", 3)?;
        let mut command = Command::new(worker::program()?);
        command.args(["worker", "mixed", "--seconds", "600", "--seed", "11", "--directory"]).arg(&busy);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        mirror.net.a.enter(&mut command)?;
        let mixed = command.spawn().context("start the mixed load")?;
        Ok(Load { writers, mixed })
    }

    fn end(&mut self) -> Result<()> {
        self.writers.end()?;
        // It may have ended by itself.
        let _ = self.mixed.kill();
        self.mixed.wait().map(drop).context("the mixed load")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Change the copy as somebody else would; what is to be found.
fn tamper(mirror: &Mirror) -> Result<Differences> {
    let copy = mirror.copy();
    flip(&copy.join("d0/f0"), 5000)?;
    flip(&copy.join("big"), 3_000_000)?;
    fs::set_permissions(copy.join("d1/f1"), Permissions::from_mode(0o600))?;
    fs::remove_file(copy.join("d2/f2"))?;
    fs::write(copy.join("d3/stranger"), "x")?;
    File::options().write(true).open(copy.join("d4/f4"))?.set_len(1)?;
    fs::remove_dir_all(copy.join("d5"))?;
    let path = |name: &str| mirror.data().join(name).to_string_lossy().into_owned();
    let found = |name: &str, what: &str| (path(name), what.to_owned(), Vec::new());
    let block = |at: u64| vec![(at / 4096 * 4096, at / 4096 * 4096 + 4096)];
    let root = (mirror.data().to_string_lossy().into_owned(), "modification time".to_owned(), Vec::new());
    Ok(Differences::from([
        (path("d0/f0"), "contents".to_owned(), block(5000)),
        (path("big"), "contents".to_owned(), block(3_000_000)),
        found("d1/f1", "mode"),
        found("d2/f2", "missing"),
        found("d2", "modification time"),
        found("d3/stranger", "extra"),
        found("d3", "modification time"),
        found("d4/f4", "size"),
        found("d4/f4", "modification time"),
        found("d5", "missing"),
        root,
    ]))
}

/// Change one byte and leave the times as they were.
fn flip(path: &Path, at: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let before = file.metadata()?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).with_context(|| format!("{} at {at}", path.display()))?;
    file.write_all_at(&[!byte[0]], at)?;
    let times = FileTimes::new().set_accessed(before.accessed()?).set_modified(before.modified()?);
    Ok(file.set_times(times)?)
}

fn differences(seen: &Verified) -> Differences {
    let one = |found: &Found| (found.path.clone(), found.what.clone(), found.ranges.clone());
    seen.report.found.iter().map(one).collect()
}

fn verify(mirror: &Mirror, arguments: &[&str]) -> Result<(i32, Verified)> {
    let node = &mirror.primary;
    let output = Command::new(&node.program)
        .args(["verify", "--json", "--socket"])
        .arg(&node.socket)
        .args(arguments)
        .output()
        .context("start replicator")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let seen: Verified = serde_json::from_str(&said)
        .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(seen.verify.state == "done" && seen.report.more == 0, "{seen:?}");
    Ok((output.status.code().context("ended by a signal")?, seen))
}
