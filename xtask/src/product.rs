//! The product's own program: built, and where it lies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::lab::exec;

/// Names another program to test than the one that is built here (a guest has no compiler).
pub const PROGRAM_VARIABLE: &str = "REPLICATOR_PROGRAM";

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// The repository's root directory.
#[must_use]
pub fn repository() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().map_or(here.clone(), Path::to_owned)
}

/// `cargo`, as it was called.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

/// Build `replicator` for release and return its path. Nothing is built when [`PROGRAM_VARIABLE`] names one.
///
/// # Errors
/// The build failed; its words are on the terminal.
pub fn build() -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = BUILT.get() {
        return Ok(program.clone());
    }
    let program = match std::env::var_os(PROGRAM_VARIABLE) {
        Some(program) => PathBuf::from(program),
        None => {
            exec::show(cargo().args(["build", "--quiet", "--release", "--package", "replicator"]))
                .context("build replicator")?;
            target()?.join("release/replicator")
        }
    };
    Ok(BUILT.get_or_init(|| program).clone())
}

/// Where cargo puts what it builds for this repository.
///
/// # Errors
/// cargo does not say.
pub fn target() -> Result<PathBuf> {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    if let Some(target) = TARGET.get() {
        return Ok(target.clone());
    }
    let metadata = exec::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("read cargo metadata")?;
    Ok(TARGET.get_or_init(|| metadata.target_directory).clone())
}
