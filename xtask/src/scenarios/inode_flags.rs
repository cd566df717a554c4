//! Files, logs and directories that their flags protect (chattr(1)): the copy has the flags, an fsync answers for them, and they
//! keep nothing away from the copy that the primary says. Neither does a copy that was protected while nobody looked.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::files::{CRASHED, PEER_LOST, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::flags::{self, APPEND_ONLY, IMMUTABLE, NO_ACCESS_TIME, NO_DUMP};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::wait;

/// Records appended to the log each time.
const RECORDS: u32 = 20;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    set_and_rewritten(&mirror)?;
    appended(&mirror, 0)?;
    directory(&mirror)?;
    mirror.wait_identical()?;
    flags::set_path(&data, IMMUTABLE)?;
    mirror.wait_identical()?;
    without_secondary(&mut mirror)?;
    without_primary(&mut mirror)?;
    flags::set_path(&data, 0)?;
    appended(&mirror, RECORDS)?;
    for name in ["log", "kept", "d", "d/inside"] {
        flags::set_path(&data.join(name), 0)?;
    }
    fs::remove_dir_all(data.join("d"))?;
    mirror.wait_identical()?;
    let found = mirror.finish(&[PEER_LOST, CRASHED].concat())?;
    passed(format!(
        "{} entries identical; flags held by fsync, kept over kills of both daemons",
        found.entries
    ))
}

/// Require that the copy has these flags under a name, now.
fn copied(mirror: &Mirror, name: &str, wanted: i32) -> Result<()> {
    for root in [mirror.data(), mirror.copy()] {
        let path = root.join(name);
        let found = flags::of_path(&path).with_context(|| format!("flags of {}", path.display()))?;
        ensure!(found == wanted, "{}: flags {found:#x}, expected {wanted:#x}", path.display());
    }
    Ok(())
}

fn synced(path: &Path) -> Result<()> {
    File::open(path)?.sync_all().with_context(|| format!("fsync of {}", path.display()))
}

/// An immutable file is released, rewritten, protected again; each state is on the copy when the fsync after it returns.
fn set_and_rewritten(mirror: &Mirror) -> Result<()> {
    let data = mirror.data();
    for name in ["kept", "linked"] {
        write_synced(&data.join(name), b"first")?;
    }
    fs::hard_link(data.join("linked"), data.join("link"))?;
    let path = data.join("kept");
    for round in 0..10_u32 {
        flags::set_path(&path, IMMUTABLE | NO_DUMP)?;
        synced(&path)?;
        copied(mirror, "kept", IMMUTABLE | NO_DUMP)?;
        ensure!(fs::write(&path, "x").is_err(), "the primary's own is protected");
        // No sync in between: bytes and flag come in any order.
        flags::set_path(&path, 0)?;
        let bytes = format!("round {round}").repeat(1 + round as usize * 9000);
        fs::write(&path, &bytes)?;
        if round % 2 == 0 {
            flags::set_path(&path, IMMUTABLE)?;
        }
        synced(&path)?;
        copied(mirror, "kept", if round % 2 == 0 { IMMUTABLE } else { 0 })?;
        ensure!(fs::read(mirror.copy().join("kept"))? == bytes.as_bytes(), "the bytes after round {round}");
        flags::set_path(&path, 0)?;
    }
    flags::set_path(&path, IMMUTABLE)?;
    flags::set_path(&data.join("link"), NO_ACCESS_TIME)?;
    synced(&data.join("linked"))?;
    copied(mirror, "linked", NO_ACCESS_TIME)?;
    copied(mirror, "link", NO_ACCESS_TIME)
}

/// A log is only appended to, and is on the copy with its flag after each fsync.
fn appended(mirror: &Mirror, before: u32) -> Result<()> {
    let path = mirror.data().join("log");
    let mut log = OpenOptions::new().append(true).create(true).open(&path)?;
    flags::set_path(&path, APPEND_ONLY)?;
    for record in before..before + RECORDS {
        writeln!(log, "record {record}")?;
        log.sync_data()?;
        let copy = fs::read_to_string(mirror.copy().join("log"))?;
        ensure!(copy.lines().count() as u32 == record + 1, "after record {record} the copy has {copy:?}");
        copied(mirror, "log", APPEND_ONLY)?;
    }
    Ok(())
}

/// An immutable directory is opened for changes of its names, and closed again.
fn directory(mirror: &Mirror) -> Result<()> {
    let at = mirror.data().join("d");
    fs::create_dir(&at)?;
    for protection in [IMMUTABLE, APPEND_ONLY, IMMUTABLE] {
        for name in ["a", "b", "c"] {
            write_synced(&at.join(name), name.as_bytes())?;
        }
        flags::set_path(&at, protection)?;
        synced(&at)?;
        copied(mirror, "d", protection)?;
        ensure!(fs::remove_file(at.join("a")).is_err(), "the primary's own is protected");
        flags::set_path(&at, 0)?;
        fs::rename(at.join("a"), at.join("b"))?;
        fs::remove_file(at.join("c"))?;
        write_synced(&at.join("inside"), b"inside")?;
        flags::set_path(&at.join("inside"), protection)?;
        flags::set_path(&at, protection)?;
        synced(&at)?;
        copied(mirror, "d", protection)?;
        ensure!(!mirror.copy().join("d/c").exists(), "a name that was removed");
        flags::set_path(&at.join("inside"), 0)?;
        flags::set_path(&at, 0)?;
    }
    flags::set_path(&at.join("inside"), APPEND_ONLY)?;
    flags::set_path(&at, IMMUTABLE)?;
    Ok(())
}

/// The secondary dies; what is protected changes on the primary, and something else is protected on the copy.
fn without_secondary(mirror: &mut Mirror) -> Result<()> {
    let data = mirror.data().to_owned();
    mirror.secondary.kill()?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    for name in ["", "d", "kept"] {
        flags::set_path(&data.join(name), 0)?;
    }
    fs::rename(data.join("d/b"), data.join("moved"))?;
    fs::write(data.join("kept"), "rewritten while the peer was away")?;
    for name in ["", "d", "kept", "moved"] {
        flags::set_path(&data.join(name), IMMUTABLE)?;
    }
    let copy = mirror.copy().to_owned();
    let directory = File::open(&copy)?;
    flags::set(&directory, IMMUTABLE, 0)?;
    fs::create_dir(copy.join("superfluous"))?;
    fs::write(copy.join("superfluous/file"), "of nobody")?;
    fs::write(copy.join("linked"), "other bytes")?;
    for name in ["superfluous/file", "superfluous", "linked", ""] {
        flags::set_path(&copy.join(name), IMMUTABLE)?;
    }
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    for name in ["", "d", "kept", "moved"] {
        copied(mirror, name, IMMUTABLE)?;
    }
    copied(mirror, "linked", NO_ACCESS_TIME)
}

/// The primary dies: the copy is protected as the primary was. It comes back and compares.
fn without_primary(mirror: &mut Mirror) -> Result<()> {
    mirror.kill_primary_side()?;
    mirror.secondary.wait_for("all that was received is applied", wait::SHORT, |status| {
        status.phase == "Waiting" && status.positions.applied >= status.positions.received
    })?;
    for (name, wanted) in
        [("", IMMUTABLE), ("kept", IMMUTABLE), ("log", APPEND_ONLY), ("d/inside", APPEND_ONLY)]
    {
        let path = mirror.copy().join(name);
        let found = flags::of_path(&path)?;
        ensure!(found == wanted, "{}: flags {found:#x}, expected {wanted:#x}", path.display());
    }
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    Ok(())
}
