//! A small Debian 12 in an image: made once, kept in the build directory, and copied for each system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::image::{Filesystem, MIB};
use crate::lab::{exec, mount};
use crate::{product, setup};

const SUITE: &str = "bookworm";
/// What a server has beside what is essential. To change this takes another [`FILE`].
const PACKAGES: &str = "systemd,systemd-sysv,iproute2";
/// In the build directory.
const FILE: &str = "package/debian-12.1.img";
/// Of the image, which is sparse: the system, the package, and what is mirrored.
const BYTES: u64 = 1024 * MIB;

/// The image, made if it is not there.
///
/// # Errors
/// The packages cannot be had, or there is no room.
pub fn image() -> Result<PathBuf> {
    let image = product::target()?.join(FILE);
    if image.is_file() {
        return Ok(image);
    }
    setup::require(&["mmdebstrap", Filesystem::Ext4.maker()])?;
    println!("making a Debian system; it is kept as {}", image.display());
    let parent = image.parent().context("a file below a directory")?;
    fs::create_dir_all(parent)?;
    // Beside it, so that it need not be copied to its place; gone when this returns.
    let place = tempfile::tempdir_in(parent)?;
    let (root, aside) = (place.path().join("root"), place.path().join("image"));
    let made = install(&root).and_then(|()| pack(&root, &aside));
    // Of an installation that was interrupted.
    mount::take_away_below(place.path());
    made?;
    fs::rename(&aside, &image).with_context(|| format!("make {}", image.display()))?;
    Ok(image)
}

fn install(root: &Path) -> Result<()> {
    let mut command = Command::new(setup::program("mmdebstrap"));
    command.args(["--quiet", "--mode=root", "--variant=essential"]);
    command.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(root);
    exec::run(command.env("LC_ALL", "C"))
}

fn pack(root: &Path, image: &Path) -> Result<()> {
    File::create(image)?.set_len(BYTES)?;
    let mut command = Command::new(setup::program(Filesystem::Ext4.maker()));
    command.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"]).arg(root).arg(image);
    exec::run(&mut command)
}
