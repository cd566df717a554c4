//! A secondary whose directory was filled by hand (`cp -a`, a backup, a disk that was carried there) is brought up by digests: what
//! it has is not sent again, only blocks that differ travel. And what an operator asks for afterwards (`resync --full`, `--file`,
//! `--changed`) sets right what somebody changed in the copy, in the session that there is.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::files::plant;
use super::{Context, Outcome, passed};
use crate::lab::image::MIB;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::{compare, exec};

/// Blocks that are changed after the copy was filled, each in its own 64 KiB.
const CHANGED: u64 = 12;
const BLOCK: u64 = 64 << 10;

/// What `replicator resync --json` prints.
#[derive(Deserialize, Debug)]
struct Resync {
    asked_done: bool,
    bytes_compared: u64,
    bytes_sent: u64,
}

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options().with("mirror.protect-secondary", false))?;
    let (data, copy) = (mirror.data().to_owned(), mirror.copy().to_owned());
    let mut random = Random::new(47);
    plant(&data, &mut random, 8, 100, 60_000)?;
    fs::write(data.join("big"), random.bytes(24 << 20))?;
    let planted = compare::trees(&data, &data)?.bytes;
    exec::run(Command::new("cp").arg("-a").arg(data.join(".")).arg(&copy))?;

    // Since then the primary went on.
    let big = OpenOptions::new().write(true).open(data.join("big"))?;
    for number in 0..CHANGED {
        big.write_all_at(&random.bytes(4096), number * 2 * BLOCK + 8192)?;
    }
    fs::write(data.join("d0/new"), random.bytes(10_000))?;
    fs::remove_file(data.join("d1/f1"))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    let first = mirror.primary.fresh_status()?;
    ensure!(!first.resync.resumed, "nothing was compared");
    let most = CHANGED * BLOCK + 10_000 + MIB;
    let sent = first.counters.bytes_sent;
    ensure!(sent <= most, "{sent} bytes on the wire for a copy that was there, of {planted}; at most {most}");

    let seeded = resync(&mirror, &["--seeded"])?;
    ensure!(seeded.asked_done && seeded.bytes_sent == 0, "{seeded:?}");
    ensure!(seeded.bytes_compared * 10 >= planted * 9, "of {planted}: {seeded:?}");

    // One file, then everything.
    flip(&copy.join("d4/f4"))?;
    let path = data.join("d4/f4");
    let file = resync(&mirror, &["--file", &path.to_string_lossy()])?;
    ensure!(file.asked_done && file.bytes_compared < 100_000, "{file:?}");
    mirror.wait_identical()?;
    flip(&copy.join("d5/f5"))?;
    flip(&copy.join("big"))?;
    fs::set_permissions(copy.join("d6/f6"), Permissions::from_mode(0o600))?;
    fs::remove_file(copy.join("d6/f7"))?;
    fs::remove_dir_all(copy.join("d7"))?;
    fs::create_dir_all(copy.join("stranger/within"))?;
    ensure!(!mirror.compare()?.is_identical(), "nothing was changed");
    let full = resync(&mirror, &["--full"])?;
    ensure!(full.asked_done, "{full:?}");
    mirror.wait_identical()?;
    ensure!(resync(&mirror, &["--changed"])?.asked_done, "nothing was marked, and that was not said");
    refused(&mirror)?;
    let after = mirror.primary.fresh_status()?;
    ensure!(after.counters.sessions == first.counters.sessions, "the session ended");
    let found = mirror.finish(&["somebody else changed the copy"])?;
    passed(format!(
        "{sent} bytes on the wire for a tree of {planted} that was there but for {CHANGED} blocks; one file, then everything compared \
         on demand in the same session; {} entries identical",
        found.entries
    ))
}

/// What makes no sense is said, and nothing is begun.
fn refused(mirror: &Mirror) -> Result<()> {
    let call = |arguments: &[&str], socket: &Path| -> Result<i32> {
        let mut command = Command::new(&mirror.primary.program);
        let output = command.args(arguments).arg("--socket").arg(socket).output()?;
        output.status.code().context("ended by a signal")
    };
    let [primary, secondary] = mirror.nodes().map(|node| node.socket.clone());
    ensure!(call(&["resync", "--file", "/etc/hostname"], &primary)? == 1, "a file that is not mirrored");
    ensure!(call(&["resync"], &primary)? == 64, "a resync of nothing");
    ensure!(call(&["resync", "--full"], &secondary)? == 1, "a resync on the secondary");
    ensure!(call(&["verify"], &secondary)? == 1, "a verification on the secondary");
    Ok(())
}

fn flip(path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).with_context(|| path.display().to_string())?;
    Ok(file.write_all_at(&[!byte[0]], 100)?)
}

fn resync(mirror: &Mirror, arguments: &[&str]) -> Result<Resync> {
    let node = &mirror.primary;
    let output = Command::new(&node.program)
        .args(["resync", "--json", "--socket"])
        .arg(&node.socket)
        .args(arguments)
        .output()
        .context("start replicator")?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("resync --json")
}
