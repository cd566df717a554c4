//! `async`: nobody waits for the peer, not even while it is stopped; order and barriers are sent all the same, and both
//! trees end the same.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::files::{PEER_LOST, plant, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options().with("mirror.mode", "async"))?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(10);
    plant(&data, &mut random, 4, 25, 20_000)?;
    mirror.secondary.signal(Signal::SIGSTOP)?;
    // The peer can answer nothing, so each of these returns by this node alone.
    for number in 0..20 {
        write_synced(&data.join(format!("synced{number}")), &random.bytes(5000))?;
    }
    let copied = (0..20).filter(|number| mirror.copy().join(format!("synced{number}")).exists()).count();
    mirror.secondary.signal(Signal::SIGCONT)?;
    ensure!(copied == 0, "a stopped secondary applied {copied} files");
    mirror.wait_mirrored()?;
    mirror.wait_identical()?;
    let found = mirror.finish(PEER_LOST)?;
    passed(format!("20 fsyncs without the peer; {} entries identical later", found.entries))
}
