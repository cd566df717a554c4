//! Somebody works on the primary's files past the gate, by another mount of the same file system: names, attributes, bytes, trees
//! moved in and out, files that are open through the gate taken away. It is told of, the gate shows it, and both nodes end the
//! same in the same session. When more happens than the kernel remembers, that is told, and everything is compared.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use super::files::{PEER_LOST, open, plant, rename};
use super::ring_overflow::stalled;
use super::{Context, Outcome, passed};
use crate::lab::mirror::{IDENTICAL_BOUND, Mirror};
use crate::lab::mount::Mounted;
use crate::lab::records::Random;
use crate::lab::{compare, wait, xattr};

/// Words in logs that changes behind the gate explain.
const BEHIND: &[&str] = &["behind the gate"];
/// More names than the kernel keeps for a reader (`fs.fanotify.max_queued_events`).
const BURST: u64 = 18_000;

/// Another mount of the primary's file system; below it are `data`, the mirrored directory without the gate, and what is not mirrored.
fn other_mount(mirror: &Mirror) -> Result<Mounted> {
    let ground = mirror.data().parent().context("the mirrored directory is a root")?;
    let point = mirror.outside().join("behind");
    fs::create_dir(&point)?;
    Mounted::again(ground, &point)
}

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
    if !status.capture.behind.watched {
        return Ok(Outcome::NotRun(format!("nobody watches: {}", status.capture.behind.why)));
    }
    let other = other_mount(&mirror)?;
    let (data, behind, outside) =
        (mirror.data().to_owned(), other.point().join("data"), other.point().join("outside"));
    fs::create_dir(&outside)?;
    plant(&data, &mut Random::new(5), 4, 8, 20_000)?;
    mirror.wait_identical()?;

    change_names(&data, &behind)?;
    same(&mut mirror, &data, &behind, "names")?;
    change_attributes(&data, &behind)?;
    same(&mut mirror, &data, &behind, "attributes")?;
    change_bytes(&data, &behind)?;
    same(&mut mirror, &data, &behind, "bytes")?;
    let arrived = move_trees(&mut mirror, &data, &behind, &outside)?;
    same(&mut mirror, &data, &behind, "trees moved in and out")?;
    link_out_and_back(&data, &behind, &outside)?;
    same(&mut mirror, &data, &behind, "links out and back")?;
    take_open_file_away(&data, &behind)?;
    same(&mut mirror, &data, &behind, "an open file removed")?;

    // What came from outside is a file like any other by now, also for a descriptor from when it was not.
    arrived.write_all_at(b"written after it came in", 100)?;
    let through = open(&data.join("in/deep/traced"), 0)?;
    through.write_all_at(b"and through the gate", 5000)?;
    through.sync_all()?;
    let copied = fs::read(mirror.copy().join("in/deep/traced"))?;
    ensure!(
        copied.get(5000..5020) == Some(b"and through the gate"),
        "fsync of a file from outside was not held"
    );
    drop((arrived, through));
    same(&mut mirror, &data, &behind, "writes to a file from outside")?;

    let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
    let told = &status.capture.behind;
    ensure!(told.names > 0 && told.attributes > 0 && told.lost == 0 && !told.last.is_empty(), "{told:?}");
    ensure!(status.counters.sessions == 1, "{} sessions: the link broke", status.counters.sessions);
    let figures = format!("{} names and {} attributes behind the gate", told.names, told.attributes);
    drop(other);
    let found = mirror.finish(BEHIND)?;
    passed(format!("{figures}; {} entries identical", found.entries))
}

/// Both nodes hold the same, and the gate shows what is there.
fn same(mirror: &mut Mirror, data: &Path, behind: &Path, what: &str) -> Result<()> {
    if let Err(error) = mirror.wait_identical() {
        // Why a session ended is in the secondary's.
        mirror.secondary.check_log(BEHIND)?;
        mirror.primary.check_log(BEHIND)?;
        return Err(error.context(format!("after {what}")));
    }
    let mut differences = Vec::new();
    wait::until("the gate to show what is there", IDENTICAL_BOUND, || {
        differences = compare::trees(behind, data)?.differences;
        Ok(differences.is_empty().then_some(()))
    })
    .with_context(|| format!("after {what}, the gate shows something else:\n  {}", differences.join("\n  ")))
}

fn change_names(data: &Path, behind: &Path) -> Result<()> {
    // Remembered by the kernel: that they are not there, and what is.
    for name in ["new", "tree", "d1/moved"] {
        ensure!(fs::metadata(data.join(name)).is_err_and(|error| error.kind() == ErrorKind::NotFound));
    }
    compare::trees(data, behind)?;
    fs::write(behind.join("new"), "made behind")?;
    fs::create_dir_all(behind.join("tree/with/depth"))?;
    fs::write(behind.join("tree/with/depth/file"), "deep")?;
    symlink("new", behind.join("symbolic"))?;
    fs::hard_link(behind.join("d0/f0"), behind.join("d1/hard"))?;
    fs::rename(behind.join("d0/f1"), behind.join("d1/moved"))?;
    fs::rename(behind.join("d1/f2"), behind.join("d1/f3"))?;
    rename(&behind.join("d1/f4"), &behind.join("d2/f4"), libc::RENAME_EXCHANGE)?;
    fs::rename(behind.join("d3"), behind.join("tree/d3"))?;
    fs::remove_file(behind.join("d0/f5"))?;
    // Both ways at once.
    let depth = data.join("tree/with/depth");
    wait::until("a name made behind the gate", wait::SHORT, || {
        Ok(depth.symlink_metadata().is_ok().then_some(()))
    })?;
    fs::write(data.join("tree/with/gate"), "through the gate")?;
    fs::rename(data.join("d0/f6"), depth.join("f6"))?;
    Ok(())
}

fn change_attributes(data: &Path, behind: &Path) -> Result<()> {
    compare::trees(data, behind)?;
    fs::set_permissions(behind.join("d0/f0"), fs::Permissions::from_mode(0o640))?;
    fs::set_permissions(behind.join("d1"), fs::Permissions::from_mode(0o751))?;
    chown(behind.join("d0/f2"), Some(1234), Some(2345))?;
    xattr::set(&behind.join("d0/f3"), "user.made", b"behind")?;
    xattr::set(&behind.join("d2"), "user.made", b"behind")?;
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let both = FileTimes::new().set_accessed(at(5)).set_modified(at(6));
    OpenOptions::new().write(true).open(behind.join("d2/f1"))?.set_times(both)?;
    let one = FileTimes::new().set_modified(at(7));
    OpenOptions::new().write(true).open(behind.join("d2/f2"))?.set_times(one)?;
    Ok(())
}

fn change_bytes(data: &Path, behind: &Path) -> Result<()> {
    // Held open through the gate while somebody else writes.
    let held = open(&data.join("d0/f7"), 0)?;
    held.write_all_at(b"through", 0)?;
    open(&behind.join("d0/f7"), 0)?.write_all_at(b"behind", 30_000)?;
    held.write_all_at(b"through again", 40_000)?;
    OpenOptions::new().append(true).open(behind.join("d1/f5"))?.write_all(b"appended")?;
    let file = open(&behind.join("d1/f6"), 0)?;
    file.write_all_at(&[7; 10_000], 0)?;
    file.set_len(5000)?;
    open(&behind.join("d1/f7"), 0)?.set_len(123_456)?;
    fs::write(behind.join("d2/f3"), "shorter")?;
    Ok(())
}

/// Move a tree in, of which a file was written outside while its writes were seen and passed over, and another out. The file's
/// descriptor from outside comes back.
fn move_trees(mirror: &mut Mirror, data: &Path, behind: &Path, outside: &Path) -> Result<File> {
    fs::create_dir_all(outside.join("in/deep"))?;
    fs::write(outside.join("in/plain"), "came in")?;
    let traced = open(&outside.join("in/deep/traced"), 0)?;
    let events = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?.counters.events;
    traced.write_all_at(&[1; 4096], 0)?;
    if mirror.primary.status()?.is_some_and(|status| status.capture.row != "gate") {
        let seen = |status: &crate::lab::status::Status| status.counters.events > events;
        mirror.primary.wait_for("the write outside was judged", wait::SHORT, seen)?;
    }
    // From here on the kernel programs are silent about it.
    traced.write_all_at(&[2; 4096], 0)?;
    fs::rename(outside.join("in"), behind.join("in"))?;
    traced.write_all_at(&[3; 4096], 4096)?;
    fs::rename(behind.join("d2"), outside.join("d2"))?;
    fs::write(outside.join("d2/f1"), "no business of the mirror's")?;
    // Out, changed there, and in again.
    fs::rename(behind.join("tree"), outside.join("tree"))?;
    same(mirror, data, behind, "trees moved out")?;
    fs::write(outside.join("tree/with/changed"), "while it was outside")?;
    fs::remove_file(outside.join("tree/with/depth/file"))?;
    fs::rename(outside.join("tree"), behind.join("tree"))?;
    fs::rename(behind.join("d0/f4"), outside.join("f4"))?;
    same(mirror, data, behind, "a file moved out")?;
    fs::write(outside.join("f4"), "changed while it was outside")?;
    fs::rename(outside.join("f4"), behind.join("d1/f4"))?;
    // What has left for good does not come between the nodes.
    fs::write(outside.join("d2/f1"), "later")?;
    Ok(traced)
}

fn link_out_and_back(data: &Path, behind: &Path, outside: &Path) -> Result<()> {
    fs::write(data.join("linked"), "before")?;
    fs::hard_link(behind.join("linked"), outside.join("linked"))?;
    fs::remove_file(behind.join("linked"))?;
    open(&outside.join("linked"), 0)?.write_all_at(b"outside", 0)?;
    fs::hard_link(outside.join("linked"), behind.join("d1/linked"))?;
    open(&outside.join("linked"), 0)?.write_all_at(b"by the other name", 10)?;
    // The judge counts links, also those outside.
    fs::remove_file(outside.join("linked"))?;
    Ok(())
}

/// The application goes on with its file, as without the gate.
fn take_open_file_away(data: &Path, behind: &Path) -> Result<()> {
    let file = open(&data.join("d1/f1"), 0)?;
    file.write_all_at(b"before", 0)?;
    fs::remove_file(behind.join("d1/f1"))?;
    file.write_all_at(b"after", 0)?;
    file.sync_all()?;
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(&bytes == b"after");
    fs::write(behind.join("d1/f1"), "another file of the name")?;
    Ok(())
}

/// More than the kernel remembers while nobody reads.
pub fn run_overflow(context: &Context) -> Result<Outcome> {
    // The stall must not count as the peer's or this node's death.
    let mut mirror = Mirror::start(&context.options().with("link.dead-after", "60s"))?;
    let status = mirror.primary.wait_for("it answers", wait::SHORT, |_| true)?;
    if !status.capture.behind.watched {
        return Ok(Outcome::NotRun(format!("nobody watches: {}", status.capture.behind.why)));
    }
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap_or_default();
    if limit.trim().parse::<u64>().is_ok_and(|limit| limit >= BURST) {
        return Ok(Outcome::NotRun(format!("fs.fanotify.max_queued_events is {}", limit.trim())));
    }
    let other = other_mount(&mirror)?;
    let (data, behind) = (mirror.data().to_owned(), other.point().join("data"));
    plant(&data, &mut Random::new(6), 3, 5, 10_000)?;
    mirror.wait_identical()?;
    compare::trees(&data, &behind)?;
    stalled(&mirror, || {
        (0..BURST).try_for_each(|number| File::create(behind.join(format!("d0/n{number}"))).map(drop))?;
        // These find no room any more.
        fs::rename(behind.join("d1"), behind.join("renamed"))?;
        fs::remove_file(behind.join("d2/f0"))?;
        fs::set_permissions(behind.join("d2/f1"), fs::Permissions::from_mode(0o604))
    })?;
    let status =
        mirror.primary.wait_for("changes are lost", wait::SHORT, |status| status.capture.behind.lost > 0)?;
    let lost = status.capture.behind.lost;
    same(&mut mirror, &data, &behind, "the burst")?;
    drop(other);
    let found = mirror.finish(&[PEER_LOST, BEHIND].concat())?;
    passed(format!("lost {lost} times; {} entries identical", found.entries))
}
