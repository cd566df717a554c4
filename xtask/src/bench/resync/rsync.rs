//! rsync over the same cable: its daemon on the secondary's side, `rsync -a` on the primary's. No shell and no cipher is paid for.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::ground;
use crate::lab::mirror::Mirror;
use crate::lab::{exec, wait};
use crate::setup;

const PORT: u16 = 7873;

/// Seconds that rsync took.
#[derive(Clone, Copy, Default, Debug)]
pub struct Took {
    /// Until rsync ended.
    pub ended: f64,
    /// Until what it wrote was durable, as a resync's end promises.
    pub durable: f64,
    /// Of processor time, in all its processes.
    pub processor: f64,
}

/// rsync's daemon; ends when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copy the primary's tree into `to`, on the secondary's side.
pub fn copy(mirror: &Mirror, to: &Path) -> Result<Took> {
    let daemon = start(mirror, to)?;
    let own = ground::processor(Pid::this())?;
    let begin = Instant::now();
    let mut command = Command::new(setup::program("rsync"));
    command.arg("-a").arg(format!("{}/", mirror.data().display()));
    command.arg(format!("rsync://{}/copy/", mirror.net.b.socket(PORT)));
    mirror.net.a.enter(&mut command)?;
    exec::run(&mut command)?;
    let ended = begin.elapsed().as_secs_f64();
    ground::sync(to)?;
    let durable = begin.elapsed().as_secs_f64();
    let theirs = wait::until("rsync's daemon to have waited for its children", wait::SHORT, || {
        let used = ground::processor(Pid::from_raw(daemon.0.id() as i32))?;
        Ok((used > 0.0).then_some(used))
    })
    .unwrap_or(0.0);
    Ok(Took { ended, durable, processor: ground::processor(Pid::this())? - own + theirs })
}

fn start(mirror: &Mirror, to: &Path) -> Result<Daemon> {
    let file = mirror.outside().join("rsyncd.conf");
    let text =
        format!("use chroot = no\nuid = root\ngid = root\n[copy]\npath = {}\nread only = no\n", to.display());
    fs::write(&file, text)?;
    let mut command = Command::new(setup::program("rsync"));
    command.args(["--daemon", "--no-detach"]).arg(format!("--port={PORT}"));
    command.arg(format!("--config={}", file.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    mirror.net.b.enter(&mut command)?;
    let daemon = Daemon(command.spawn().context("start rsync's daemon")?);
    let address = mirror.net.b.socket(PORT);
    wait::until("rsync's daemon to listen", wait::SHORT, || {
        mirror.net.a.within(|| Ok(TcpStream::connect(address).ok().map(drop)))
    })?;
    Ok(daemon)
}
