//! What is written cannot be seen between the nodes if the link is encrypted, and can if it is not (so the eyes are good). A primary with
//! certificates of another authority changes nothing. Certificates are replaced while the nodes run: the session goes on, and the next one is
//! made with the new ones.

use std::path::Path;

use anyhow::{Result, ensure};

use super::files::{PEER_LOST, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::{Mirror, PORT};
use crate::lab::node::START_BOUND;
use crate::lab::papers::Papers;
use crate::lab::proxy::Proxy;
use crate::lab::{compare, exec};

/// Words in logs that refused peers explain.
const REFUSED: &[&str] = &["refused", "certificate", "accept each other"];
/// In a file, and in a name.
const CONTENT: &[u8] = b"the content that eyes on the wire look for";
const NAME: &str = "the-name-that-eyes-on-the-wire-look-for";

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut looked_at = Vec::new();
    for encrypted in [false, true] {
        let mut options = context.options();
        options.encrypted = encrypted;
        let mut mirror = Mirror::build(&options)?;
        mirror.start_secondary()?;
        let mut proxy = Proxy::start(&mirror.net.b, PORT + 1, mirror.net.b.socket(PORT))?;
        proxy.record();
        mirror.primary.config.set("link.peer", proxy.address.to_string());
        mirror.start_nodes()?;
        // Many times, so that it is seen however it is cut.
        write_synced(&mirror.data().join(NAME), &CONTENT.repeat(5000))?;
        require_copied(&mirror, NAME, "while somebody looks")?;
        let [seen, name] = [CONTENT, NAME.as_bytes()].map(|word| proxy.saw(word));
        ensure!(seen != encrypted, "content seen on the wire: {seen}, encrypted: {encrypted}");
        ensure!(name != encrypted, "name seen on the wire: {name}, encrypted: {encrypted}");
        looked_at.push(proxy.recorded());
        if encrypted {
            replace_while_running(&mut mirror)?;
            a_stranger_changes_nothing(&mut mirror)?;
        }
        mirror.wait_identical()?;
        mirror.primary.stop()?;
        mirror.secondary.stop()?;
        proxy.stop(&mirror.net.b)?;
        mirror.finish(&[PEER_LOST, REFUSED].concat())?;
    }
    passed(format!("{looked_at:?} bytes looked at without and with encryption; renewal and a stranger"))
}

fn replace_while_running(mirror: &mut Mirror) -> Result<()> {
    let sessions = mirror.primary.fresh_status()?.counters.sessions;
    mirror.issue_certificates()?;
    write_synced(&mirror.data().join("after-renewal"), &CONTENT.repeat(100))?;
    require_copied(mirror, "after-renewal", "the session goes on")?;
    let status = mirror.primary.fresh_status()?;
    ensure!(status.is_mirrored() && status.counters.sessions == sessions, "the renewal ended the session");
    mirror.primary.stop()?;
    mirror.start_nodes()?;
    write_synced(&mirror.data().join("next-session"), &CONTENT.repeat(100))?;
    require_copied(mirror, "next-session", "with the new certificates")
}

fn a_stranger_changes_nothing(mirror: &mut Mirror) -> Result<()> {
    let before = mirror.outside().join("before");
    exec::run(std::process::Command::new("cp").args(["-a", "--"]).arg(mirror.copy()).arg(&before))?;
    mirror.primary.stop()?;
    let own = mirror.primary.config.clone();
    // It knows the secret and is called like the primary, but another authority says so.
    let papers = Papers::new(&mirror.outside().join("strange-papers"))?;
    papers.issue("a")?;
    papers.use_in(&mut mirror.primary.config, "a", "b");
    let refused = mirror.secondary.fresh_status()?.counters.handshakes_refused;
    mirror.primary.start(&mirror.net.a)?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    write_synced(&mirror.data().join("strange"), b"of a stranger")?;
    mirror.secondary.wait_for("the stranger is refused", START_BOUND, |status| {
        status.counters.handshakes_refused > refused
    })?;
    require_same(&before, mirror.copy())?;
    mirror.primary.stop()?;
    mirror.primary.config = own;
    mirror.start_nodes()
}

fn require_same(before: &Path, copy: &Path) -> Result<()> {
    let found = compare::trees(before, copy)?;
    ensure!(found.is_identical(), "a stranger changed the copy: {:?}", found.differences);
    Ok(())
}
