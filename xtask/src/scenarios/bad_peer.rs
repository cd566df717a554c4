//! Who cannot prove membership changes nothing, and bytes that were damaged on the way are never applied: garbage on the
//! port, half a greeting, a wrong key, flipped bits. Each is counted and refused; the mirror goes on and ends the same.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::files::{PEER_LOST, plant, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::{Mirror, PORT};
use crate::lab::node::{self, START_BOUND};
use crate::lab::proxy::Proxy;
use crate::lab::records::Random;
use crate::lab::{compare, exec, wait};

/// Words in logs that a stranger explains.
const STRANGER: &[&str] = &["handshake", "refused", "greeting", "key", "garbage", "frame", "proof", "magic"];
/// How long the peer may keep a connection open that says nonsense.
const PATIENCE: Duration = Duration::from_secs(20);

/// Strangers and a wrong key.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(17);
    plant(&data, &mut random, 2, 10, 5000)?;
    let port = mirror.net.b.socket(PORT);
    let words: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 200_000],
        vec![0xff; 4096],
        random.bytes(100),
        random.bytes(100_000),
    ];
    for (number, words) in words.iter().enumerate() {
        mirror.net.a.within(|| say(port, words)).with_context(|| format!("garbage {number}"))?;
        write_synced(&data.join("meanwhile"), &random.bytes(2000))?;
    }
    let status = mirror.secondary.wait_for("strangers are counted", wait::SHORT, |status| {
        status.counters.handshakes_refused > 0 && status.is_mirrored()
    })?;
    let strangers = status.counters.handshakes_refused;
    mirror.wait_identical()?;
    require_copied(&mirror, "meanwhile", "beside strangers")?;

    // A primary with another key, and something to say.
    let before = mirror.outside().join("before");
    exec::run(std::process::Command::new("cp").args(["-a", "--"]).arg(mirror.copy()).arg(&before))?;
    mirror.primary.stop()?;
    let key = mirror.outside().join("other-key");
    node::write_key(&key, "0000000000000000000000000000000000000000000000000000000000000001")?;
    let own = mirror.outside().join("cluster-key");
    mirror.primary.config.set("link.cluster-key-file", key.to_string_lossy().into_owned());
    mirror.primary.start(&mirror.net.a)?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    write_synced(&data.join("secret"), b"not for strangers")?;
    mirror.secondary.wait_for("the wrong key is refused", START_BOUND, |status| {
        status.counters.handshakes_refused > strangers
    })?;
    let found = compare::trees(&before, mirror.copy())?;
    ensure!(found.is_identical(), "a stranger changed the copy: {:?}", found.differences);
    mirror.primary.stop()?;
    mirror.primary.config.set("link.cluster-key-file", own.to_string_lossy().into_owned());
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    mirror.finish(&[PEER_LOST, STRANGER].concat())?;
    passed(format!("{} kinds of garbage, a wrong key; {strangers} refusals counted", words.len()))
}

/// Say it and wait until the other side has had enough.
fn say(port: SocketAddr, words: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(port).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // The other side may close in the middle of it, which is its right.
    let _ = stream.write_all(words);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            anyhow::bail!("the connection is still open after {PATIENCE:?}")
        }
        _ => Ok(()),
    }
}

/// Bits flipped between the nodes.
pub fn run_damaged(context: &Context) -> Result<Outcome> {
    const ROUNDS: u64 = 8;
    // Held, not released: then an fsync that returned means both nodes, whatever breaks in between.
    let options = context.options().with("mirror.when-alone", "hold").with("mirror.hold-limit", "60s");
    let mut mirror = Mirror::build(&options)?;
    mirror.start_secondary()?;
    let mut proxy = Proxy::start(&mirror.net.b, PORT + 1, mirror.net.b.socket(PORT))?;
    mirror.primary.config.set("link.peer", proxy.address.to_string());
    mirror.start_nodes()?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(18);
    for round in 0..ROUNDS {
        // Near: a header; far: the middle of a payload.
        proxy.damage_after(random.below([60, 4000, 200_000][round as usize % 3]) as u32);
        for number in 0..6 {
            let name = format!("f{number}");
            write_synced(&data.join(&name), &random.bytes(60_000))?;
            require_copied(&mirror, &name, &format!("round {round}"))?;
        }
        wait::until("a damaged byte", wait::SHORT, || {
            // The stream carries keep-alives, so the byte comes even if nothing is written.
            Ok((proxy.damaged() > round).then_some(()))
        })?;
        mirror.wait_mirrored()?;
        write_synced(&data.join("afterwards"), &random.bytes(60_000))?;
        require_copied(&mirror, "afterwards", &format!("round {round}"))?;
        mirror.wait_identical()?;
    }
    let connections = proxy.connections();
    proxy.stop(&mirror.net.b)?;
    let found = mirror.finish(&[PEER_LOST, STRANGER, &["checksum", "damaged", "held", "hold"]].concat())?;
    passed(format!("{ROUNDS} damaged bytes, {connections} connections; {} bytes identical", found.bytes))
}
