//! Names that are left out by patterns: fully usable through the gate, not sent, not held, and not touched on the secondary.
//! What is renamed into the tree is on the copy with all that was ever written to it, by whatever means; what is renamed out
//! of it is not. Nodes with different patterns refuse each other.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::files::{PEER_LOST, open, plant, rename, require_copied, sync_directory, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mapping::Mapping;
use crate::lab::mirror::Mirror;
use crate::lab::node::Node;
use crate::lab::records::Random;
use crate::lab::{compare, wait};

const SPARE: usize = 64 * 1024;

fn set_patterns(node: &mut Node, exclude: &[&str]) {
    let directory = node.directories.first().cloned().unwrap_or_default();
    let list = |patterns: &[&str]| toml::Value::from(patterns.to_vec());
    node.config.set_directory(&directory, [("exclude", list(exclude)), ("include", list(&["keep.tmp"]))]);
}

/// Make the situations and check.
pub fn run(context: &Context) -> Result<Outcome> {
    // A peer that stands still is given up late, so that what is not held is told from what was released.
    let mut mirror = Mirror::build(&context.options().with("link.dead-after", "30s"))?;
    let exclude = ["*.tmp", "/out/", "deep/cache"];
    set_patterns(&mut mirror.primary, &exclude);
    set_patterns(&mut mirror.secondary, &exclude[..2]);
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let mut random = Random::new(51);
    // Before the start, on both sides: what only the secondary has under names left out is its own.
    fs::create_dir_all(data.join("out"))?;
    plant(&data.join("out"), &mut random, 2, 5, 5000)?;
    fs::create_dir_all(copy.join("out"))?;
    fs::write(copy.join("out/own"), "the secondary's")?;
    fs::write(copy.join("own.tmp"), "the secondary's")?;
    fs::write(copy.join("gone"), "not the primary's")?;

    mirror.start_secondary()?;
    mirror.start_primary()?;
    mirror.secondary.wait_for("other patterns are refused", wait::SHORT, |status| {
        status.counters.handshakes_refused > 0
    })?;
    ensure!(copy.join("gone").exists(), "the copy was changed");
    mirror.secondary.stop()?;
    set_patterns(&mut mirror.secondary, &exclude);
    mirror.start_nodes()?;
    ensure!(!copy.join("gone").exists(), "what the primary does not have stays");
    ensure!(!copy.join("out/d0").exists(), "what is left out was sent");

    usable(&mut mirror, &mut random)?;
    let renamed = moves(&mut mirror, &mut random)?;
    own_names_stay(&copy)?;
    // A new session lists everything: the same names again.
    mirror.secondary.stop()?;
    fs::write(data.join("while-away.tmp"), "x")?;
    fs::write(data.join("while-away"), "x")?;
    mirror.start_nodes()?;
    mirror.primary.wait_for("nothing is dirty", wait::SHORT, |status| status.is_settled())?;
    require_copied(&mirror, "while-away", "written while the peer was away")?;
    ensure!(!copy.join("while-away.tmp").exists(), "what is left out was listed");
    own_names_stay(&copy)?;

    clear(&data, &copy)?;
    mirror.wait_identical()?;
    let found =
        mirror.finish(&[PEER_LOST, &["patterns", "handshake", "somebody else changed the copy"]].concat())?;
    passed(format!("{renamed} files renamed over the boundary; {} entries identical", found.entries))
}

/// All that can be done with files is done under names that are left out; nothing of it is sent or stays marked.
fn usable(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    let data = mirror.data().to_owned();
    for number in 0..20 {
        let path = data.join(format!("out/file{number}"));
        write_synced(&path, &random.bytes(30_000))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
        fs::rename(&path, data.join(format!("out/renamed{number}")))?;
    }
    fs::write(data.join("scratch.tmp"), random.bytes(100_000))?;
    let scratch = open(&data.join("scratch.tmp"), 0)?;
    let mut mapping = Mapping::new(&scratch, 0, SPARE)?;
    mapping.store(0, b"nobody waits for this");
    mapping.sync()?;
    write_synced(&data.join("keep.tmp"), &random.bytes(5000))?;
    require_copied(mirror, "keep.tmp", "an exception")?;
    // An fsync takes all events in that happened before it.
    let status = mirror.primary.fresh_status()?;
    ensure!(status.counters.unguarded_syncs == 0, "msync of what is left out was taken for an unguarded one");
    held_by_nobody(mirror, || {
        write_synced(&data.join("out/local"), &random.bytes(5000))?;
        Ok(sync_directory(&data.join("out"))?)
    })?;
    ensure!(!mirror.copy().join("out/local").exists(), "what is left out was sent");
    ensure!(!mirror.copy().join("scratch.tmp").exists(), "what is left out was sent");
    Ok(())
}

/// A secondary that stands still holds no fsync of what is left out, and none of it counts as mirrored or is left to be.
fn held_by_nobody(mirror: &mut Mirror, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = mirror.primary.fresh_status()?.barriers.answered;
    mirror.secondary.signal(Signal::SIGSTOP)?;
    let acted = act();
    let status = mirror.primary.fresh_status();
    mirror.secondary.signal(Signal::SIGCONT)?;
    acted?;
    let status = status?;
    ensure!(status.phase == "Mirrored", "the fsync waited until the peer was given up ({})", status.phase);
    ensure!(status.barriers.answered == before, "a fsync of this node alone counts as one of both");
    mirror.wait_mirrored()?;
    mirror.primary.wait_for("nothing is dirty", wait::SHORT, |status| status.is_settled()).map(drop)
}

/// Files and directories over the boundary, both ways, with writers that have them open all the while.
fn moves(mirror: &mut Mirror, random: &mut Random) -> Result<u64> {
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let mut renamed = 0;
    for round in 0..5 {
        let (out, inside) = (data.join(format!("r{round}.tmp")), data.join(format!("r{round}")));
        write_synced(&out, &random.bytes(SPARE))?;
        let file = open(&out, 0)?;
        let mut mapping = Mapping::new(&file, 0, SPARE)?;
        // The page is dirty before the rename: what is stored to it after that is silent.
        mapping.store(4096, b"before");
        rename(&out, &inside, 0)?;
        mapping.store(4200, b"silent");
        file.write_all_at(b"written", 9000)?;
        file.sync_all()?;
        require_copied(mirror, format!("r{round}"), "renamed into the tree, then synced")?;
        mapping.store(4300, b"later");
        file.write_all_at(b"again", 20_000)?;
        file.sync_all()?;
        require_copied(mirror, format!("r{round}"), "written after it came in")?;
        rename(&inside, &out, 0)?;
        sync_directory(&data)?;
        ensure!(!copy.join(format!("r{round}")).exists(), "renamed out of the tree and still there");
        file.write_all_at(b"outside", 30_000)?;
        file.sync_all()?;
        // Under a name in the tree again, in place of another file.
        write_synced(&inside, b"to be replaced")?;
        rename(&out, &inside, 0)?;
        file.sync_all()?;
        require_copied(mirror, format!("r{round}"), "renamed over a file of the tree")?;
        renamed += 3;
    }
    to_and_fro(mirror, random)?;
    directories(mirror, random)?;
    with_writers(mirror, random)?;
    hard_links(mirror, random)?;
    mirror.primary.wait_for("nothing is dirty", wait::SHORT, |status| status.is_settled())?;
    Ok(renamed)
}

fn directories(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    plant(&data.join("out/tree"), random, 3, 6, 8000)?;
    fs::write(data.join("out/tree/d0/left.tmp"), "x")?;
    fs::hard_link(data.join("out/tree/d0/f0"), data.join("out/tree/d1/link"))?;
    rename(&data.join("out/tree"), &data.join("tree"), 0)?;
    sync_directory(&data)?;
    let same = |what: &str| {
        wait::until(what, wait::SHORT, || {
            let found = compare::trees(&data.join("tree"), &copy.join("tree"));
            Ok(found.ok().filter(|found| found.count == 1 && found.differences[0].contains("left.tmp")))
        })
        .map(drop)
    };
    same("the directory that came in to be copied, but for what is left out in it")?;
    // Below another name, another path is left out.
    fs::create_dir(data.join("shallow"))?;
    fs::create_dir(data.join("shallow/cache"))?;
    write_synced(&data.join("shallow/cache/file"), b"cached")?;
    ensure!(copy.join("shallow/cache/file").exists(), "nothing leaves this out");
    rename(&data.join("shallow"), &data.join("deep"), 0)?;
    sync_directory(&data)?;
    ensure!(copy.join("deep").exists() && !copy.join("deep/cache").exists(), "left out by its new path");
    rename(&data.join("deep"), &data.join("shallow"), 0)?;
    fs::File::open(data.join("shallow/cache/file"))?.sync_all()?;
    require_copied(mirror, "shallow/cache/file", "in the tree by its new path")?;
    rename(&data.join("tree"), &data.join("out/tree"), 0)?;
    sync_directory(&data)?;
    ensure!(!copy.join("tree").exists(), "a directory that was renamed out of the tree is still there");
    Ok(())
}

/// Out and in again before anything of it is looked at: what a mapping stored to a page that was dirty all the while was told
/// nobody.
fn to_and_fro(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    let data = mirror.data().to_owned();
    let (inside, out) = (data.join("fro"), data.join("fro.tmp"));
    write_synced(&inside, &random.bytes(SPARE))?;
    let file = open(&inside, 0)?;
    let mut mapping = Mapping::new(&file, 0, SPARE)?;
    for round in 0..20 {
        mapping.store(4096, format!("before {round}").as_bytes());
        rename(&inside, &out, 0)?;
        mapping.store(4200, format!("outside {round}").as_bytes());
        rename(&out, &inside, 0)?;
        // Behind the read that the new name led to.
        wait::until("what was renamed to and fro is copied", wait::SHORT, || {
            let copied = fs::read(mirror.copy().join("fro"));
            Ok(copied.ok().filter(|copied| fs::read(&inside).is_ok_and(|bytes| *copied == bytes)))
        })?;
        mapping.store(4300, format!("behind {round}").as_bytes());
        file.sync_all()?;
        require_copied(
            mirror,
            "fro",
            &format!("synced after it was renamed to and fro {round} times before"),
        )?;
    }
    fs::remove_file(&inside)?;
    Ok(())
}

/// A directory renamed to a name that is left out while files in it are open, and written on.
fn with_writers(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let (inside, out) = (data.join("busy"), data.join("out/busy"));
    fs::create_dir_all(inside.join("deep"))?;
    for name in ["deep/file", "file"] {
        write_synced(&inside.join(name), &random.bytes(SPARE))?;
    }
    fs::hard_link(inside.join("file"), inside.join("deep/link"))?;
    sync_directory(&inside.join("deep"))?;
    let files = [open(&inside.join("deep/file"), 0)?, open(&inside.join("file"), 0)?];
    let mut mapping = Mapping::new(&files[0], 0, SPARE)?;
    mapping.store(0, b"before");
    files[1].write_all_at(b"before", 0)?;
    rename(&inside, &out, 0)?;
    sync_directory(&data)?;
    ensure!(!copy.join("busy").exists(), "the directory is still there");
    held_by_nobody(mirror, || {
        mapping.store(8192, b"outside");
        files[1].write_all_at(b"outside", 8192)?;
        files.iter().try_for_each(fs::File::sync_all)?;
        Ok(fs::OpenOptions::new().append(true).open(out.join("deep/link"))?.sync_all()?)
    })?;
    rename(&out, &inside, 0)?;
    mapping.store(12_288, b"inside");
    files[1].write_all_at(b"inside", 12_288)?;
    files.iter().try_for_each(fs::File::sync_all)?;
    for path in ["busy/deep/file", "busy/file", "busy/deep/link"] {
        require_copied(mirror, path, "synced after its directory came in again")?;
    }
    Ok(())
}

/// A file with a name in the tree and one that is left out is mirrored as long as it has the first.
fn hard_links(mirror: &mut Mirror, random: &mut Random) -> Result<()> {
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let (inside, out, again) = (data.join("both"), data.join("both.tmp"), data.join("again"));
    write_synced(&inside, &random.bytes(SPARE))?;
    fs::hard_link(&inside, &out)?;
    let file = open(&out, 0)?;
    file.write_all_at(b"by the name that is left out", 9000)?;
    file.sync_all()?;
    require_copied(mirror, "both", "synced by the name that is left out")?;
    fs::remove_file(&inside)?;
    sync_directory(&data)?;
    ensure!(!copy.join("both").exists(), "its last name of the tree is still there");
    held_by_nobody(mirror, || {
        file.write_all_at(b"with no name in the tree", 20_000)?;
        Ok(file.sync_all()?)
    })?;
    fs::hard_link(&out, &again)?;
    // Who syncs the directory relies on what was synced before.
    sync_directory(&data)?;
    require_copied(mirror, "again", "named in the tree again")?;
    file.write_all_at(b"and again", 30_000)?;
    file.sync_all()?;
    require_copied(mirror, "again", "synced after it was named again")?;
    // Two names that are left out, and one in the tree made of either.
    fs::hard_link(&out, data.join("third.tmp"))?;
    fs::remove_file(&again)?;
    rename(&data.join("third.tmp"), &again, 0)?;
    file.write_all_at(b"once more", 40_000)?;
    file.sync_all()?;
    require_copied(mirror, "again", "renamed from one of two names that are left out")
}

fn own_names_stay(copy: &Path) -> Result<()> {
    for name in ["out/own", "own.tmp"] {
        let text = fs::read(copy.join(name)).with_context(|| format!("{name} is gone"))?;
        ensure!(text == b"the secondary's", "{name} was changed");
    }
    Ok(())
}

/// Take away on both sides what the comparison would stumble over.
fn clear(data: &Path, copy: &Path) -> Result<()> {
    // The copy first: what is removed in the data changes its directory's times, which are sent.
    for root in [copy, data] {
        fs::remove_dir_all(root.join("out"))?;
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") && !path.ends_with("keep.tmp") {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}
