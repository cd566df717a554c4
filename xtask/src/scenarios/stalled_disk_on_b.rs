//! The secondary's disk does not answer for four times as long as a silent peer is waited for. The node is slow and not silent: the session goes on, callers
//! wait for what they are owed, and return when the disk does. That is so for few bytes and for many, and for names.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::files::{require_copied, sync_directory, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::image::MIB;
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;
use crate::lab::{exec, wait};
use crate::setup;

/// `link.dead-after` in the lab is a second.
const STALL: Duration = Duration::from_secs(4);

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options().with("mirror.barrier-limit", "60s"))?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(33);
    let (few, many) = (random.bytes(4096), random.bytes(MIB as usize));
    for name in ["few", "many", "renamed"] {
        write_synced(&data.join(name), b"before")?;
    }
    let sessions = mirror.primary.fresh_status()?.counters.sessions;
    let frozen = Frozen::new(mirror.copy())?;
    let waiting = [
        caller(data.join("few"), move |path| File::options().write(true).open(path)?.write_all(&few)),
        caller(data.join("many"), move |path| File::options().write(true).open(path)?.write_all(&many)),
        caller(data.join("other name"), |path| fs::rename(path.with_file_name("renamed"), path)),
        caller(data.join("new"), |path| File::create(path).map(drop)),
    ];
    mirror.primary.wait_for("callers are held", START_BOUND, |status| status.barriers.waiting >= 4)?;
    wait::pause(STALL);
    let (a, b) = (mirror.primary.fresh_status()?, mirror.secondary.fresh_status()?);
    ensure!(
        a.counters.sessions == sessions && a.phase == "Mirrored" && b.phase == "Following",
        "a stalled disk ended the session: {} sessions, {} and {}",
        a.counters.sessions,
        a.phase,
        b.phase
    );
    ensure!(a.barriers.waiting >= 4, "callers were let go by a disk that does not answer");
    drop(frozen);
    wait::until("the held calls to return", START_BOUND, || {
        Ok(waiting.iter().all(thread::JoinHandle::is_finished).then_some(()))
    })?;
    for call in waiting {
        call.join().map_err(|_| anyhow!("the thread panicked"))?.context("a held call")?;
    }
    for name in ["few", "many", "other name", "new"] {
        require_copied(&mirror, name, "after its fsync returned")?;
    }
    mirror.wait_identical()?;
    let after = mirror.primary.fresh_status()?.counters.sessions;
    ensure!(after == sessions, "{} sessions ended", after - sessions);
    let found = mirror.finish(&[])?;
    passed(format!("one session; {} entries identical", found.entries))
}

/// Change a file and make it durable, in a thread of its own.
fn caller(
    path: PathBuf,
    change: impl FnOnce(&Path) -> std::io::Result<()> + Send + 'static,
) -> thread::JoinHandle<std::io::Result<()>> {
    thread::spawn(move || {
        change(&path)?;
        File::open(&path)?.sync_all()?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    })
}

/// A file system whose changes all wait, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: &Path) -> Result<Frozen> {
        exec::run(Command::new(setup::program("fsfreeze")).arg("--freeze").arg(path))?;
        Ok(Frozen(path.to_owned()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = exec::run(Command::new(setup::program("fsfreeze")).arg("--unfreeze").arg(&self.0))
        {
            eprintln!("{error:#}");
        }
    }
}
