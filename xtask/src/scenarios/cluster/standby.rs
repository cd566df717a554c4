//! An operator puts a node on standby: the application goes to the other node and stays there; when that one dies too nobody takes over before the operator
//! says so. Meanwhile scripts' logs of both nodes can be read on one of them, and a snapshot has both, and no secret.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Situation, wait_alone, wait_answers};
use crate::lab::cluster::{Cluster, MODULE, Options, SETTLE_BOUND};
use crate::lab::{exec, wait};
use crate::scenarios::{Context, Outcome, passed};

/// Bytes that are in two files by no chance, if they are not always the same (room that is not used).
const WINDOW: usize = 16;
const DIFFERENT: usize = 4;
/// What a snapshot has of each node.
const PIECES: &[&str] = &["status.json", "versions", "kernel", "mounts", "cluster.toml"];
/// The same of its module.
const OF_MODULE: &[&str] = &["module.toml", "mirror.toml", "mirror.json", "standing.json", "events.jsonl"];

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    cluster.order(0, &["standby", MODULE])?;
    cluster.wait_for(1, MODULE, "primary, ready", SETTLE_BOUND, |found| found.here.is_ready("primary"))?;
    cluster.wait_for(0, MODULE, "the copy, on standby", SETTLE_BOUND, |found| {
        found.here.state == "secondary" && found.here.cause.contains("standby")
    })?;
    wait_answers(client, 200)?;
    let refused = cluster.order(0, &["swap", MODULE, "--node", "b"]);
    ensure!(refused.is_err(), "a node on standby is given the application: {refused:?}");
    logs(cluster)?;
    let bytes = snapshot(cluster)?;
    cluster.kill(1)?;
    wait::until("a to miss b", SETTLE_BOUND, || {
        Ok(cluster.status(0)?.filter(|status| !status.peer_alive).map(drop))
    })?;
    cluster.order(0, &["standby", MODULE, "off"])?;
    wait_alone(cluster, 0)?;
    wait_answers(client, 200)?;
    let told = cluster.order(0, &["events", MODULE])?;
    let at = |words: &str| told.rfind(words).with_context(|| format!("{words:?} is not told: {told}"));
    ensure!(at("ends the standby")? < at("the arbiter gave this node")?, "it took over before: {told}");
    cluster.come_back(1)?;
    let answered = situation.end(0)?;
    passed(format!("{answered} answered, 0 lost; a snapshot of {bytes} bytes, without a secret"))
}

/// Those of both nodes, asked on one.
fn logs(cluster: &Cluster) -> Result<()> {
    for more in [&[][..], &["--node", "b"]] {
        let told = cluster.order(0, &[&["logs", MODULE], more].concat())?;
        ensure!(
            told.contains("==> start-primary@") && told.contains("the ledger is started"),
            "{more:?}: {told}"
        );
    }
    Ok(())
}

/// Everything of both nodes is in it, and no part of a file of their cluster directories but the description. Its size.
fn snapshot(cluster: &Cluster) -> Result<usize> {
    let file = cluster.hosts[0].file("snapshot.tar.gz");
    let mut command = cluster.hosts[0].command(cluster.namespace(0), &["cluster", "snapshot"])?;
    exec::run(command.arg("--output").arg(&file))?;
    let names = exec::output(Command::new("tar").arg("-tzf").arg(&file))?;
    for node in ["a", "b"] {
        let of_module = OF_MODULE.iter().map(|piece| format!("modules/{MODULE}/{piece}"));
        for piece in PIECES.iter().map(|piece| (*piece).to_owned()).chain(of_module) {
            let name = format!("/{node}/{piece}\n");
            ensure!(names.contains(&name), "{name:?} is not in the snapshot: {names}");
        }
        ensure!(
            names.contains(&format!("/{node}/modules/{MODULE}/logs/start-primary@")),
            "no log of {node}: {names}"
        );
    }
    let mut told = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(&file)?).read_to_end(&mut told)?;
    let told: HashSet<&[u8]> = told.windows(WINDOW).collect();
    let telling = |part: &&[u8]| part.iter().collect::<HashSet<_>>().len() >= DIFFERENT;
    let mut secrets = 0;
    for host in &cluster.hosts {
        let public = fs::read(host.file("cluster/cluster.toml"))?;
        let public: HashSet<&[u8]> = public.windows(WINDOW).collect();
        for entry in fs::read_dir(host.file("cluster"))? {
            let entry = entry?;
            let bytes =
                if entry.file_name() == "cluster.toml" { Vec::new() } else { fs::read(entry.path())? };
            secrets += usize::from(!bytes.is_empty());
            let found = bytes
                .windows(WINDOW)
                .filter(telling)
                .find(|part| told.contains(part) && !public.contains(part));
            ensure!(found.is_none(), "a part of {} is in the snapshot", entry.path().display());
        }
    }
    ensure!(secrets >= 12, "only {secrets} files with secrets were compared");
    Ok(fs::metadata(&file)?.len() as usize)
}
