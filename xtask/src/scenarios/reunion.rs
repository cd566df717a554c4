//! What scenarios about two nodes' data share: roles exchanged, a refused session overruled, trees as they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::mirror::{MIRRORED_BOUND, Mirror, PORT};
use crate::lab::node::{Node, START_BOUND};
use crate::lab::status::Status;

/// Words in logs that a refused and then overruled session explains.
pub const REFUSED: &[&str] = &["no session begins", "as an operator said"];

/// All regular files below a directory and what they hold, but replicator's own.
///
/// # Errors
/// A file cannot be read.
pub fn contents(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let name = path.strip_prefix(root)?.to_owned();
            if name == Path::new(".replicator") {
                continue;
            }
            match kind? {
                kind if kind.is_dir() => directories.push(path),
                kind if kind.is_file() => {
                    found.insert(name, fs::read(&path)?);
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Node a becomes the secondary and node b the primary. Both are stopped.
pub fn exchange_roles(mirror: &mut Mirror) {
    let at = mirror.net.a.socket(PORT).to_string();
    mirror.primary.config.set("node.role", "secondary");
    mirror.primary.config.set("link.listen", at.as_str());
    mirror.secondary.config.set("node.role", "primary");
    mirror.secondary.config.set("link.peer", at.as_str());
}

/// Ask a node's program something about a running node.
///
/// # Errors
/// It cannot be started.
pub fn ask(node: &Node, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(&node.program);
    command.args(arguments).arg("--socket").arg(&node.socket);
    command.output().context("start replicator")
}

/// What a command printed as JSON, whatever its exit code.
///
/// # Errors
/// It printed something else.
pub fn json(output: &Output) -> Result<serde_json::Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

/// Wait until a primary has found that it must not overwrite its peer, and check that this is shown. Returns the status.
///
/// # Errors
/// It does not come to that.
pub fn wait_refused(primary: &mut Node) -> Result<Status> {
    let status = primary.wait_for("it refuses a session", START_BOUND, |status| status.reunion.refused)?;
    let output = ask(primary, &["resync", "--dry-run", "--json"])?;
    let plan = json(&output)?;
    ensure!(output.status.code() == Some(1), "the dry run ends with {}", output.status);
    ensure!(plan["decision"]["refused"] == true, "the dry run says {plan}");
    ensure!(plan["decision"]["source"] != "primary", "the dry run says {plan}");
    Ok(status)
}

/// Say that the primary's data is what both shall have.
///
/// # Errors
/// It is refused, or not recorded.
pub fn order_overwrite(primary: &Node, reason: &str) -> Result<()> {
    let output = ask(primary, &["resync", "--overwrite-peer", "--reason", reason])?;
    if !output.status.success() {
        bail!("overwrite-peer: {output:?}");
    }
    let decisions = fs::read_to_string(primary.state_directory.join("decisions.log"))?;
    ensure!(decisions.lines().last().is_some_and(|line| line.ends_with(reason)), "recorded: {decisions}");
    Ok(())
}

/// The same, and wait until both have it.
///
/// # Errors
/// It is refused, or does not come to that.
pub fn overwrite_peer(primary: &mut Node, secondary: &mut Node, reason: &str) -> Result<()> {
    order_overwrite(primary, reason)?;
    primary.wait_for("Mirrored", MIRRORED_BOUND, Status::is_mirrored)?;
    secondary.wait_for("Following", MIRRORED_BOUND, Status::is_mirrored)?;
    Ok(())
}
