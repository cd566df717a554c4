//! What an operator types: `doctor`, `check-config`, `status`, `stop`. They answer with and without a daemon, for people and as
//! JSON, with the exit codes they promise.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::node::STOP_BOUND;

/// `status`: nobody answers.
const NO_DAEMON: i32 = 3;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options())?;
    let program = mirror.primary.program.clone();
    let call = |arguments: &[&str]| -> Result<(i32, String, String)> {
        let output = Command::new(&program).args(arguments).output().context("start replicator")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let words = (text(&output.stdout), text(&output.stderr));
        ensure!(!words.1.contains("panicked"), "replicator {arguments:?}: {}", words.1);
        let code =
            output.status.code().with_context(|| format!("replicator {arguments:?}: {}", output.status))?;
        Ok((code, words.0, words.1))
    };
    let socket = mirror.primary.socket.to_string_lossy().into_owned();

    let (code, said, _) = call(&["doctor", "--json"])?;
    let doctor: serde_json::Value = serde_json::from_str(&said).context("doctor --json")?;
    ensure!(doctor.is_object() && code <= 1, "doctor ends with {code}: {said}");
    let (_, said, _) = call(&["doctor"])?;
    ensure!(said.contains("fuse") || said.contains("FUSE"), "doctor does not speak of FUSE: {said}");
    let (code, _, words) = call(&["status", "--socket", &socket])?;
    ensure!(code == NO_DAEMON && !words.is_empty(), "status without a daemon: {code}, {words}");

    mirror.start_nodes()?;
    let file = mirror.primary.config_file().to_string_lossy().into_owned();
    let (code, _, words) = call(&["check-config", &file])?;
    ensure!(code == 0, "check-config of a running node's configuration: {code}, {words}");
    let (code, said, _) = call(&["status", "--socket", &socket])?;
    ensure!(code == 0 && said.contains("primary"), "status of a whole mirror: {code}, {said}");
    let (code, _, words) = call(&["stop", "--socket", &socket])?;
    ensure!(code == 0, "stop: {code}, {words}");
    let ended = mirror.primary.wait_end(STOP_BOUND)?;
    ensure!(ended.success(), "after `replicator stop` the daemon ended with {ended}");
    mirror.require_plain()?;
    mirror.finish(&["peer", "session"])?;
    passed("doctor, check-config, status, stop")
}
