//! Two mirrored directories of one node keep to themselves: same names in both, an fsync in one while the other is busy. And a mirrored
//! directory may be the root of its file system, where the kernel's filter needs no path.

use std::fs;

use anyhow::{Result, ensure};

use super::files::{plant, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::{Mirror, Options};
use crate::lab::records::Random;

/// Two directories beside each other.
pub fn run(context: &Context) -> Result<Outcome> {
    let options = Options { directories: vec!["one", "two"], ..context.options() };
    let mut mirror = Mirror::start(&options)?;
    let directories = mirror.primary.directories.clone();
    let copies = mirror.secondary.directories.clone();
    let mut random = Random::new(8);
    for directory in &directories {
        plant(directory, &mut random, 3, 20, 20_000)?;
    }
    for (round, (directory, copy)) in directories.iter().zip(&copies).cycle().take(40).enumerate() {
        let bytes = random.bytes(3000);
        write_synced(&directory.join("same-name"), &bytes)?;
        ensure!(fs::read(copy.join("same-name"))? == bytes, "round {round}: the copy is not what was synced");
    }
    mirror.wait_identical()?;
    let found = mirror.finish(&[])?;
    passed(format!("{} entries in two directories", found.entries))
}

/// The directory is a file system's root.
pub fn run_root(context: &Context) -> Result<Outcome> {
    let options = Options { directories: vec![""], ..context.options() };
    let mut mirror = Mirror::start(&options)?;
    let mut random = Random::new(9);
    let data = mirror.data().to_owned();
    plant(&data, &mut random, 4, 25, 20_000)?;
    write_synced(&data.join("synced"), b"at the top")?;
    super::files::require_copied(&mirror, "synced", "at the top")?;
    mirror.wait_identical()?;
    let found = mirror.finish(&[])?;
    passed(format!("{} entries, lost+found among them", found.entries))
}
