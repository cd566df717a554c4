//! What may be changed while a cluster serves: the secret of its heartbeats, on one node or on both at once, and its modules. A client is answered all the time,
//! no node misses the other, and the term is the one from before.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{Situation, wait_answers};
use crate::lab::cluster::{
    Cluster, MODULE, ModuleStatus, Options, SETTLE_BOUND, SecretStatus, module_name, prepare_module,
};
use crate::lab::{exec, wait};
use crate::scenarios::{Context, Outcome, passed};

/// Number of the module that is installed later.
const NEW: usize = 1;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut situation = Situation::begin(&Options { filesystem: context.fs, ..Options::default() })?;
    let Situation { cluster, client } = &mut situation;
    let term = term(cluster)?;
    let before = [told(cluster, 0)?, told(cluster, 1)?];
    rotate(cluster, &[0])?;
    wait_secret(cluster, |number| number == 2)?;
    wait_answers(client, 200)?;
    rotate(cluster, &[1, 0])?;
    wait_secret(cluster, |number| number > 2)?;
    wait_answers(client, 200)?;
    new_module(cluster)?;
    changed_module(cluster)?;
    wait_answers(client, 200)?;
    ensure!(self::term(cluster)? == term, "the term has changed");
    let after = [told(cluster, 0)?, told(cluster, 1)?];
    ensure!(before == after, "something has happened to the module: {before:?} {after:?}");
    // What the stops of the new module let the mirrors say; nothing of heartbeats.
    let answered = situation.finish(0, &["session closed", "the peer is not reached"])?;
    passed(format!("{answered} answered, 0 lost, in the same term; no node missed the other"))
}

fn term(cluster: &mut Cluster) -> Result<Option<u64>> {
    let found = cluster
        .wait_for(0, MODULE, "primary, ready", SETTLE_BOUND, |found| found.here.is_ready("primary"))?;
    Ok(found.here.active_term)
}

/// What happened to the module that serves, among it that a node misses the other; not what its checker thinks.
fn told(cluster: &Cluster, node: usize) -> Result<Vec<String>> {
    let told = cluster.order(node, &["events", MODULE])?;
    Ok(told.lines().filter(|line| !line.contains("checker")).map(str::to_owned).collect())
}

/// `replicator cluster rotate` on nodes at the same time. Where both do it, one may be refused: it came while the other's was not over.
fn rotate(cluster: &Cluster, nodes: &[usize]) -> Result<()> {
    let mut running = Vec::new();
    for node in nodes {
        let mut command = cluster.hosts[*node].command(cluster.namespace(*node), &["cluster", "rotate"])?;
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        running.push(command.spawn().context("replicator cluster rotate")?);
    }
    let mut done = 0;
    let mut said = Vec::new();
    for child in running {
        let output = child.wait_with_output()?;
        done += usize::from(output.status.success());
        said.push(String::from_utf8_lossy(&output.stdout).into_owned());
        said.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    ensure!(done >= 1, "nothing was rotated: {said:?}");
    Ok(())
}

/// Both nodes use the same secret, accept no other, and have never missed each other.
fn wait_secret(cluster: &mut Cluster, is_it: impl Fn(u64) -> bool) -> Result<()> {
    let mut last = None;
    let rotated = wait::until("both nodes to use the new secret alone", SETTLE_BOUND, || {
        let mut secrets: Vec<SecretStatus> = Vec::new();
        for node in 0..2 {
            let status = cluster.status(node)?.context("a daemon does not answer")?;
            ensure!(status.peer_alive, "a node misses the other");
            secrets.push(status.secret);
        }
        let over = secrets.iter().all(|secret| (secret.next, secret.previous) == (None, None));
        let same = secrets.windows(2).all(|pair| pair[0] == pair[1]);
        let new = secrets.iter().all(|secret| is_it(secret.number));
        last = Some(secrets);
        Ok((over && same && new).then_some(()))
    });
    rotated.with_context(|| format!("{last:?}"))?;
    let [one, other] = [0, 1].map(|node| fs::read(cluster.hosts[node].file("cluster/secrets")));
    ensure!(one? == other?, "the nodes have different secrets");
    Ok(())
}

/// The directory from which the module is installed on a node.
fn source(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.hosts[node].file("source")
}

/// A module is installed on both nodes while the other runs, and started.
fn new_module(cluster: &mut Cluster) -> Result<()> {
    let name = module_name(NEW);
    for node in 0..2 {
        let source = source(cluster, node);
        prepare_module(&cluster.hosts[node], NEW, &source, "")?;
        let said = cluster.order(node, &["install", &source.to_string_lossy()])?;
        ensure!(said.contains("the daemon has it"), "the daemon has not taken it: {said}");
        cluster.order(node, &["start", &name])?;
    }
    both(cluster)?;
    let mut refused = String::new();
    let promoted = wait::until("the nodes to meet over the new module", SETTLE_BOUND, || {
        let promoted = cluster.order(0, &["promote", &name]);
        Ok(promoted.map_err(|error| refused = format!("{error:#}")).ok().map(drop))
    });
    promoted.with_context(|| refused.clone())?;
    wait_ready(cluster, 0, "primary")?;
    wait_ready(cluster, 1, "secondary").map(drop)
}

/// One command on one node installs a module on both, and leaves it as it is where the other refuses it.
fn both(cluster: &mut Cluster) -> Result<()> {
    let name = module_name(NEW + 1);
    let source = cluster.hosts[0].file("for-both");
    prepare_module(&cluster.hosts[0], NEW + 1, &source, "")?;
    // Both nodes see the same directories here, and this one nobody has.
    let file = source.join("module.toml");
    let text = fs::read_to_string(&file)?;
    let own = cluster.hosts[0].data(NEW + 1);
    let missing = cluster.hosts[0].file("nobody-has-this");
    fs::write(&file, text.replace(&*own.to_string_lossy(), &missing.to_string_lossy()))?;
    let install = ["install", "--both", "--replace", &source.to_string_lossy()];
    let refused = cluster.order(0, &install);
    let said = format!("{:#}", refused.err().context("b has taken a module without its directory")?);
    ensure!(said.contains("NOT on b") && said.contains("is not there"), "{said}");
    ensure!(
        cluster.order(1, &["list"])?.lines().all(|line| !line.starts_with(&name)),
        "b has it nevertheless"
    );
    fs::write(&file, text)?;
    let said = cluster.order(0, &install)?;
    ensure!(said.contains(&format!("{name} is installed on b")), "{said}");
    for node in 0..2 {
        cluster.wait_for(node, &name, "to be there", SETTLE_BOUND, |found| found.here.state == "stopped")?;
        wait_stopped(cluster, node, NEW + 1)?;
        cluster.order(node, &["remove", &name])?;
    }
    Ok(())
}

/// Its description is changed while it runs, and taken with its next start; then it is removed.
fn changed_module(cluster: &mut Cluster) -> Result<()> {
    let name = module_name(NEW);
    for node in 0..2 {
        let source = source(cluster, node);
        prepare_module(
            &cluster.hosts[node],
            NEW,
            &source,
            "restart-budget = { count = 7, period = \"1h\" }",
        )?;
        cluster.order(node, &["install", "--replace", &source.to_string_lossy()])?;
        cluster
            .wait_for(node, &name, "a change that waits", SETTLE_BOUND, |found| found.pending.is_some())?;
        let refused = cluster.order(node, &["remove", &name]);
        ensure!(refused.is_err(), "a module that runs is removed: {refused:?}");
    }
    for node in [1, 0] {
        cluster.order(node, &["stop", &name])?;
        wait_stopped(cluster, node, NEW)?;
        cluster.order(node, &["start", &name])?;
        let found = cluster
            .wait_for(node, &name, "to be started", SETTLE_BOUND, |found| found.here.state != "stopped")?;
        ensure!(found.pending.is_none(), "the change is not taken: {found:?}");
        wait_ready(cluster, node, "secondary")?;
    }
    wait_ready(cluster, 1, "primary")?;
    for node in [0, 1] {
        cluster.order(node, &["stop", &name])?;
    }
    for node in [0, 1] {
        wait_stopped(cluster, node, NEW)?;
        cluster.order(node, &["remove", &name])?;
        let status = cluster.status(node)?.context("a daemon does not answer")?;
        ensure!(status.modules.iter().all(|found| found.module != name), "it is still there: {status:?}");
        // Nothing of it runs any more.
        let line = format!("{}/mirror.toml", cluster.hosts[node].file("run").join(&name).display());
        let processes = exec::output(std::process::Command::new("ps").args(["-eo", "args"]))?;
        ensure!(!processes.contains(&line), "a process of it is left: {processes}");
    }
    Ok(())
}

fn wait_ready(cluster: &mut Cluster, node: usize, state: &str) -> Result<ModuleStatus> {
    cluster.wait_for(node, &module_name(NEW), state, SETTLE_BOUND, |found| found.here.is_ready(state))
}

fn wait_stopped(cluster: &mut Cluster, node: usize, number: usize) -> Result<ModuleStatus> {
    cluster.wait_for(node, &module_name(number), "stopped, at rest", SETTLE_BOUND, |found| {
        found.here.state == "stopped" && found.here.readiness == "not ready"
    })
}
