//! Several names of one file stay one file on the copy; symlinks keep their words, also dangling ones; fifos, sockets and
//! device nodes are made, not followed or opened.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use anyhow::{Result, ensure};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use super::files::{open, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    fs::create_dir(data.join("d"))?;
    write_synced(&data.join("one"), b"first")?;
    fs::hard_link(data.join("one"), data.join("d/two"))?;
    fs::hard_link(data.join("one"), data.join("three"))?;
    fs::remove_file(data.join("one"))?;
    {
        use std::io::Write;
        let mut file = open(&data.join("d/two"), 0)?;
        file.write_all(b"through the second name")?;
        file.sync_all()?;
    }
    require_copied(&mirror, "three", "written through another name")?;

    symlink("d/two", data.join("link"))?;
    symlink("/nowhere/at all", data.join("dangling"))?;
    symlink("x".repeat(1000), data.join("long"))?;
    fs::hard_link(data.join("link"), data.join("link-again"))?;
    mkfifo(&data.join("fifo"), Mode::from_bits_truncate(0o620))?;
    let mode = Mode::from_bits_truncate(0o600);
    mknod(&data.join("null"), SFlag::S_IFCHR, mode, makedev(1, 3))?;
    mknod(&data.join("block"), SFlag::S_IFBLK, mode, makedev(7, 200))?;
    mknod(&data.join("zero"), SFlag::S_IFCHR, mode, makedev(1, 5))?;
    fs::remove_file(data.join("zero"))?;
    let listener = UnixListener::bind(data.join("socket"))?;
    fs::rename(data.join("fifo"), data.join("d/fifo"))?;
    drop(listener);
    let found = mirror.wait_identical()?;
    ensure!(found.entries == 11, "{} entries", found.entries);
    mirror.finish(&[])?;
    passed("hard links, symlinks, fifo, socket, device nodes")
}
