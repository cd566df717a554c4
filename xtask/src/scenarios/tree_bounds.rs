//! What belongs to the tree is decided before anything is mirrored: an unmounted, empty directory is not mirrored over a full
//! copy, and what is mounted inside is refused or left out, as configured. The copy is never touched by either.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::files::{CRASHED, PEER_LOST, plant, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::mount::Mounted;
use crate::lab::node::Node;
use crate::lab::records::Random;
use crate::lab::{compare, exec, wait};

/// Mount a file system in memory with a file.
fn mount_inside(point: &Path) -> Result<Mounted> {
    let inner = Mounted::memory(point)?;
    fs::write(point.join("inner"), "not of the tree")?;
    Ok(inner)
}

/// The file that must exist.
fn set_guard(node: &mut Node, directory: &Path) {
    node.config.set_directory(directory, [("must-exist", "d0/guard".into())]);
}

/// Make the situations and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    plant(&data, &mut Random::new(31), 3, 10, 20_000)?;
    write_synced(&data.join("d0/guard"), b"the data is here")?;
    mirror.wait_identical()?;
    mirror.primary.stop()?;
    let before = mirror.outside().join("before");
    exec::run(Command::new("cp").args(["-a", "--"]).arg(mirror.copy()).arg(&before))?;

    unmounted(&mut mirror)?;
    let found = compare::trees(&before, mirror.copy())?;
    ensure!(found.is_identical(), "an empty directory reached the copy: {:?}", found.differences);
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    mirror.primary.stop()?;

    mounted_before(&mut mirror)?;
    mounted_later(&mut mirror)?;
    mirror.wait_identical()?;
    let found = mirror.finish(
        &[
            PEER_LOST,
            CRASHED,
            &["mounted inside", "mount point inside", "what the last run knew does not hold"],
        ]
        .concat(),
    )?;
    passed(format!(
        "3 guards refused, a mount inside refused and left out; {} entries identical",
        found.entries
    ))
}

/// The file system with the data is not mounted: what is there is an empty directory.
fn unmounted(mirror: &mut Mirror) -> Result<()> {
    let data = mirror.data().to_owned();
    let aside = data.with_extension("aside");
    set_guard(&mut mirror.primary, &data);
    fs::rename(&data, &aside)?;
    fs::create_dir(&data)?;
    let refused = mirror.primary.refused(&mirror.net.a);
    fs::remove_dir(&data)?;
    fs::rename(&aside, &data)?;
    refused?.naming(&["must-exist", "d0/guard", "not mounted"]).context("the primary")?;
    // The secondary alike, before it listens: nothing can be applied to what is not the copy.
    mirror.secondary.stop()?;
    let copy = mirror.copy().to_owned();
    set_guard(&mut mirror.secondary, &copy);
    let aside = copy.with_extension("aside");
    fs::rename(&copy, &aside)?;
    fs::create_dir(&copy)?;
    let refused = mirror.secondary.refused(&mirror.net.b);
    fs::remove_dir(&copy)?;
    fs::rename(&aside, &copy)?;
    refused?.naming(&["must-exist", "d0/guard"]).context("the secondary")?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    below_a_dead_mount(mirror, &data)
}

/// A directory that lost its guard lies below the dead mount of a crashed gate: it is looked at, not the mount.
fn below_a_dead_mount(mirror: &mut Mirror, data: &Path) -> Result<()> {
    let parent = data.parent().context("the directory lies in another")?;
    let below = mirror.outside().join("below");
    fs::create_dir(&below)?;
    let below = Mounted::again(parent, &below)?;
    let inside = below.point().join(data.file_name().context("the directory has a name")?).join("d0");
    mirror.primary.kill()?;
    // What attributes the kernel holds it may show; nothing is opened any more.
    ensure!(fs::File::open(data.join("d0/guard")).is_err(), "the dead mount answers");
    fs::rename(inside.join("guard"), inside.join("moved"))?;
    let refused = mirror.primary.refused(&mirror.net.a);
    fs::rename(inside.join("moved"), inside.join("guard"))?;
    refused?.naming(&["must-exist"])
}

/// Something is mounted inside when the node starts.
fn mounted_before(mirror: &mut Mirror) -> Result<()> {
    let point = mirror.data().join("inner");
    let shown = point.to_string_lossy().into_owned();
    fs::create_dir(&point)?;
    let inner = mount_inside(&point)?;
    let refused = mirror.primary.refused(&mirror.net.a)?;
    refused.naming(&["nested-mounts", &shown, "ignore"])?;
    mirror.primary.config.set("mirror.nested-mounts", "ignore");
    mirror.start_nodes()?;
    show(&mut mirror.primary, &[&shown])?;
    write_synced(&mirror.data().join("beside"), b"of the tree")?;
    require_copied(mirror, "beside", "beside a mount")?;
    ensure!(fs::write(point.join("inner"), "x").is_err(), "the mount is entered through the gate");
    ensure!(fs::symlink_metadata(mirror.copy().join("inner")).is_err(), "the mount reached the copy");
    mirror.primary.stop()?;
    ensure!(fs::read(point.join("inner"))? == b"not of the tree", "what is mounted was changed");
    inner.unmount()?;
    mirror.primary.config.set("mirror.nested-mounts", "refuse");
    mirror.start_nodes()
}

/// Something is mounted inside while the node runs.
fn mounted_later(mirror: &mut Mirror) -> Result<()> {
    let point = mirror.data().join("later");
    let shown = point.to_string_lossy().into_owned();
    fs::create_dir(&point)?;
    let inner = mount_inside(&point)?;
    show(&mut mirror.primary, &[&shown])?;
    write_synced(&point.join("more"), b"not of the tree")?;
    write_synced(&mirror.data().join("beside"), b"of the tree, later")?;
    require_copied(mirror, "beside", "beside a later mount")?;
    ensure!(fs::read_dir(mirror.copy().join("later"))?.next().is_none(), "the mount reached the copy");
    inner.unmount()?;
    show(&mut mirror.primary, &[])
}

/// Wait until the status names exactly these mounts.
fn show(node: &mut Node, points: &[&str]) -> Result<()> {
    let named = |status: &crate::lab::status::Status| {
        status.volumes.first().is_some_and(|volume| volume.nested_mounts == points)
    };
    node.wait_for("the mounts inside are shown", wait::SHORT, named).map(drop)
}
