//! Both nodes went on alone, each as the primary. When they meet nothing is overwritten by itself: an operator says whose data both
//! shall have. What the other one alone had (bytes in files, whole files) is then kept aside there before it is replaced, is
//! listed, and comes back bit-exact, also when the node was killed in the middle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::files::{CRASHED, PEER_LOST, plant, write_synced};
use super::reunion::{REFUSED, contents, exchange_roles, json, order_overwrite, wait_refused};
use super::{Context, Outcome, passed};
use crate::lab::mirror::{MIRRORED_BOUND, Mirror};
use crate::lab::node::{Node, START_BOUND};
use crate::lab::records::Random;
use crate::lab::status::Status;
use crate::lab::wait;

const LARGE_BYTES: usize = 4 << 20;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::build(&context.options())?;
    let mut random = Random::new(71);
    let (at_a, at_b) = (mirror.data().to_owned(), mirror.copy().to_owned());
    plant(&at_a, &mut random, 4, 12, 20_000)?;
    fs::write(at_a.join("large"), random.bytes(LARGE_BYTES))?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;

    // b leaves, a goes on alone.
    mirror.secondary.stop()?;
    mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    change(&at_a.join("large"), &[(10_000, 5000), (2 << 20, 300_000)], &mut random)?;
    change(&at_a.join("d0/f0"), &[(0, 100)], &mut random)?;
    write_synced(&at_a.join("d1/f1"), &random.bytes(40_000))?;
    write_synced(&at_a.join("d1/only-on-a"), &random.bytes(30_000))?;
    fs::create_dir(at_a.join("of-a"))?;
    write_synced(&at_a.join("of-a/inside"), &random.bytes(7000))?;
    fs::remove_file(at_a.join("d2/f2"))?;
    mirror.primary.stop()?;
    let of_a = contents(&at_a)?;

    // The roles are exchanged, and b goes on alone from what it had.
    exchange_roles(&mut mirror);
    mirror.secondary.start(&mirror.net.b)?;
    mirror.secondary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
    change(&at_b.join("large"), &[(1 << 20, 4096)], &mut random)?;
    fs::remove_file(at_b.join("d0/f0"))?;
    write_synced(&at_b.join("d3/only-on-b"), &random.bytes(9000))?;

    // They meet, and neither touches anything.
    mirror.primary.start(&mirror.net.a)?;
    let status = wait_refused(&mut mirror.secondary)?;
    ensure!(status.reunion.relation == "diverged", "{:?}", status.reunion);
    mirror.primary.wait_for("it says so, too", START_BOUND, |status| status.reunion.refused)?;
    ensure!(contents(&at_a)? == of_a, "the refused node's files were changed");

    order_overwrite(&mirror.secondary, "b has the customers' orders")?;
    wait::until("something to be kept aside", START_BOUND, || {
        let set = at_a.join(".replicator/diverged");
        Ok(set.exists().then_some(()))
    })?;
    mirror.primary.kill()?;
    mirror.primary.start(&mirror.net.a)?;
    mirror.secondary.wait_for("Mirrored", MIRRORED_BOUND, Status::is_mirrored)?;
    mirror.primary.wait_for("Following", MIRRORED_BOUND, Status::is_mirrored)?;
    mirror.secondary.wait_for("nothing is dirty", START_BOUND, |status| status.is_settled())?;
    let found = mirror.compare()?;
    ensure!(found.is_identical(), "{:?}", found.differences);

    let figures = kept(&mirror, &of_a, &contents(&at_a)?)?;
    // Nothing more is kept from now on, and what is kept is not mirrored.
    change(&at_b.join("large"), &[(3 << 20, 4096)], &mut random)?;
    discard(&mut mirror)?;
    // The times that follow from a write travel a little later, and it is the copy's node that is stopped first.
    mirror.wait_same_trees(MIRRORED_BOUND)?;
    let found = mirror.finish(&[PEER_LOST, CRASHED, REFUSED].concat())?;
    passed(format!("{figures}; {} entries identical", found.entries))
}

fn change(path: &Path, ranges: &[(usize, usize)], random: &mut Random) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    for (offset, length) in ranges {
        file.write_all_at(&random.bytes(*length), *offset as u64)?;
    }
    Ok(file.sync_all()?)
}

fn divergence(node: &Node, arguments: &[&str]) -> Result<serde_json::Value> {
    let mut command = std::process::Command::new(&node.program);
    command.arg("divergence").args(arguments).arg("--json").arg("--config").arg(node.config_file());
    let output = command.output()?;
    ensure!(output.status.success(), "divergence {arguments:?}: {output:?}");
    json(&output)
}

/// Everything that a alone had is listed and comes back.
fn kept(
    mirror: &Mirror,
    before: &BTreeMap<PathBuf, Vec<u8>>,
    now: &BTreeMap<PathBuf, Vec<u8>>,
) -> Result<String> {
    let node = &mirror.primary;
    let sets = divergence(node, &["list"])?;
    let sets = sets.as_array().context("a list")?;
    let [set] = sets.as_slice() else { anyhow::bail!("not one set: {sets:?}") };
    ensure!(set["incomplete"] == false, "{set}");
    let id = set["id"].as_str().context("a name")?;
    let files = divergence(node, &["show", id])?;
    let files = files.as_array().context("a list")?;
    let lost = before.iter().filter(|(path, bytes)| now.get(*path) != Some(bytes));
    let mut restored = 0;
    for (path, bytes) in lost {
        let name = path.to_string_lossy();
        let entry = files.iter().find(|file| file["path"] == name.as_ref());
        let entry = entry.with_context(|| format!("nothing is kept of {name}: {files:?}"))?;
        let (what, number) = (&entry["what"], entry["number"].to_string());
        let wanted = if now.contains_key(path) { "overwritten" } else { "removed" };
        ensure!(what == wanted, "{name}: {entry}");
        let to = mirror.outside().join(format!("restored-{number}"));
        let mut command = std::process::Command::new(&node.program);
        command.args(["divergence", "restore", id, &number, "--config"]).arg(node.config_file());
        let output = command.arg("--to").arg(&to).output()?;
        ensure!(output.status.success(), "{name}: {output:?}");
        ensure!(fs::read(&to)? == *bytes, "{name} is not what it was on the node");
        restored += 1;
    }
    ensure!(restored >= 5, "{restored} files differ: too few to prove anything");
    Ok(format!("{restored} files restored bit-exact, {} kept", files.len()))
}

fn discard(mirror: &mut Mirror) -> Result<()> {
    let sets = divergence(&mirror.primary, &["list"])?;
    let id = sets[0]["id"].as_str().context("a name")?.to_owned();
    let mut command = std::process::Command::new(&mirror.primary.program);
    command.args(["divergence", "discard", &id, "--config"]).arg(mirror.primary.config_file());
    let output = command.output()?;
    ensure!(output.status.success(), "discard: {output:?}");
    wait::until("what was kept to be deleted", START_BOUND, || {
        let sets = divergence(&mirror.primary, &["list"])?;
        Ok(sets.as_array().is_some_and(Vec::is_empty).then_some(()))
    })
}
