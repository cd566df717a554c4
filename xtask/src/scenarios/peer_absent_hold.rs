//! `when-alone = "hold"`: without a peer an fsync is held. When the peer comes it returns, and its data is there; when
//! nobody decides within the limit it fails with EIO instead of lying.

use std::fs::File;
use std::io::Write;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::files::{PEER_LOST, open, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::wait;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let options = context.options().with("mirror.when-alone", "hold").with("mirror.hold-limit", "60s");
    let mut mirror = Mirror::start(&options)?;
    let data = mirror.data().to_owned();
    write_synced(&data.join("held"), b"with the peer")?;
    mirror.secondary.stop()?;
    mirror.primary.wait_for("Holding", START_BOUND, |status| status.phase == "Holding")?;

    let mut file = open(&data.join("held"), 0)?;
    file.write_all(b"without it!!!")?;
    let waiting = thread::spawn(move || -> std::io::Result<File> {
        file.sync_all()?;
        Ok(file)
    });
    mirror.primary.wait_for("an fsync is held", wait::SHORT, |status| status.barriers.waiting > 0)?;
    ensure!(!waiting.is_finished(), "the fsync returned without the peer");
    mirror.start_nodes()?;
    wait::until("the held fsync to return", START_BOUND, || Ok(waiting.is_finished().then_some(())))?;
    drop(waiting.join().map_err(|_| anyhow!("the thread panicked"))?.context("the held fsync")?);
    require_copied(&mirror, "held", "after the held fsync returned")?;

    mirror.primary.stop()?;
    mirror.primary.config.set("mirror.hold-limit", "500ms");
    mirror.start_nodes()?;
    mirror.secondary.stop()?;
    mirror.primary.wait_for("Holding", START_BOUND, |status| status.phase == "Holding")?;
    let mut file = open(&data.join("refused"), 0)?;
    file.write_all(b"nobody decides")?;
    match file.sync_all() {
        Ok(()) => bail!("an fsync returned success without a peer and without a decision"),
        Err(error) => ensure!(error.raw_os_error() == Some(libc::EIO), "{error} instead of EIO"),
    }
    drop(file);
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    mirror.finish(&[PEER_LOST, &["held", "hold", "expired"]].concat())?;
    passed("held until the peer came; EIO at the limit")
}
