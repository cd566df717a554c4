//! A sync that passthrough hides makes its file strict. From the next first open on, each time msync(MS_SYNC) or a single
//! RWF_DSYNC write returns, the file on the secondary is read at once and holds the same bytes; after a restart of the
//! primary as well, and for names that are configured from the first open on. The mark is on the secondary, too: after a
//! change of roles the file is strict there.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::files::{open, require_copied};
use super::{Context, Outcome, passed};
use crate::lab::mapping::Mapping;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::status::{Status, Strict};
use crate::lab::{wait, xattr};

const SIZE: usize = 1 << 20;
const ROUNDS: u64 = 60;
/// How often a strict file is opened until it is held.
const TRIES: usize = 5;
const MARK: &[u8] = b"trusted.replicator.strict";

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let names = toml::Value::Array(vec!["*.mdb".into()]);
    let mut mirror = Mirror::start(&context.options().with("mirror.strict-files", names))?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(31);
    let passes = mirror.primary.status()?.is_some_and(|status| status.volumes.iter().all(|v| v.passthrough));

    // By its name, from the moment it is made.
    let file = open(&data.join("named.mdb"), 0)?;
    file.set_len(SIZE as u64)?;
    let mut syncs = sync_and_read(&mirror, &file, "named.mdb", &mut random)?;
    drop(file);

    // By what is seen of it.
    let learned = data.join("learned");
    let file = open(&learned, 0)?;
    file.set_len(SIZE as u64)?;
    file.sync_all()?;
    if passes {
        let mut mapping = Mapping::new(&file, 0, SIZE)?;
        mapping.store(100, &random.bytes(300));
        mapping.sync()?;
        mirror.primary.wait_for("the file waits to be held", wait::SHORT, |status| {
            let strict = strict_of(status);
            strict.waiting_paths == ["learned"] && strict.last_unguarded == "learned"
        })?;
        drop(mapping);
    }
    drop(file);
    let file = open_held(&mut mirror, &learned, passes)?;
    syncs += sync_and_read(&mirror, &file, "learned", &mut random)?;
    drop(file);
    mirror.wait_identical()?;
    let unguarded = unguarded(&mut mirror)?;
    if passes {
        let marked = xattr::all(&mirror.copy().join("learned"))?.contains_key(MARK);
        ensure!(marked, "the mark is not on the secondary");
    }

    // After a restart the file itself tells.
    mirror.primary.stop()?;
    mirror.start_nodes()?;
    let file = open_held(&mut mirror, &learned, passes)?;
    syncs += sync_and_read(&mirror, &file, "learned", &mut random)?;
    drop(file);
    mirror.wait_identical()?;
    let since = self::unguarded(&mut mirror)?;
    if passes {
        // Comparing the trees opens both.
        mirror.primary.wait_for("two strict files to be known", wait::SHORT, |status| {
            let strict = strict_of(status);
            (strict.files, strict.unrecorded) == (2, 0)
        })?;
    }
    ensure!(since == 0, "{since} syncs of strict files passed the gate");
    ensure!(unguarded == u64::from(passes), "{unguarded} syncs were seen to pass the gate");
    mirror.finish(&["session", "peer", "connect", "alone"])?;
    passed(format!(
        "{syncs} msyncs and RWF_DSYNC writes read back on the secondary; {unguarded} before the change"
    ))
}

fn strict_of(status: &Status) -> Strict {
    status.volumes.first().map(|volume| volume.strict.clone()).unwrap_or_default()
}

fn unguarded(mirror: &mut Mirror) -> Result<u64> {
    let status = mirror.primary.status()?.context("the primary does not answer")?;
    Ok(status.counters.unguarded_syncs)
}

/// Open a strict file that was closed. Each step waits for a status that only it can have led to: what the daemon says of its
/// files is up to a second old. Who opens before the release of the last open has arrived meets the old way once more.
fn open_held(mirror: &mut Mirror, path: &Path, passes: bool) -> Result<File> {
    if !passes {
        return open(path, 0);
    }
    for _ in 0..TRIES {
        mirror.primary.wait_for("the strict files to be closed", wait::SHORT, |status| {
            let strict = strict_of(status);
            (strict.held, strict.waiting) == (0, 0)
        })?;
        let file = open(path, 0)?;
        let status = mirror.primary.wait_for("the strict file to be open", wait::SHORT, |status| {
            let strict = strict_of(status);
            strict.held + strict.waiting == 1
        })?;
        if strict_of(&status).held == 1 {
            return Ok(file);
        }
    }
    bail!("{} was opened with passthrough {TRIES} times", path.display())
}

/// Sync in each way that passthrough would hide, and read the copy at once.
fn sync_and_read(mirror: &Mirror, file: &File, name: &str, random: &mut Random) -> Result<u64> {
    let mut mapping = Mapping::new(file, 0, SIZE)?;
    for round in 0..ROUNDS {
        for _ in 0..=random.below(3) {
            let at = random.below(SIZE as u64 - 5000);
            let length = 1 + random.below(5000) as usize;
            mapping.store(at as usize, &random.bytes(length));
        }
        mapping.sync().context("msync")?;
        require_copied(mirror, name, &format!("round {round}, after the msync"))?;
        let length = 1 + random.below(9000) as usize;
        let bytes = random.bytes(length);
        let flags = [libc::RWF_DSYNC, libc::RWF_SYNC][round as usize % 2];
        write_synced_once(file, &bytes, random.below(SIZE as u64 / 2), flags).context("pwritev2")?;
        require_copied(mirror, name, &format!("round {round}, after the synchronous write"))?;
    }
    Ok(2 * ROUNDS)
}

fn write_synced_once(file: &File, bytes: &[u8], at: u64, flags: i32) -> io::Result<()> {
    let slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let at = libc::off_t::try_from(at).map_err(io::Error::other)?;
    // SAFETY: one iovec over readable bytes; both outlive the call.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const slice, 1, at, flags) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
