//! Each time an fsync or fdatasync returns, the file on the secondary is read at once and holds the same bytes; likewise
//! names after the fsync of a directory. This is the promise acknowledged-is-durable, without any crash.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};

use super::files::{open, require_copied, sync_directory, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

const FILES: u64 = 6;
const ROUNDS: u64 = 150;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(2);
    for round in 0..ROUNDS {
        let name = format!("f{}", random.below(FILES));
        let file = open(&data.join(&name), 0)?;
        for _ in 0..=random.below(4) {
            let length = 1 + random.below(20_000) as usize;
            file.write_all_at(&random.bytes(length), random.below(200_000))?;
        }
        if round % 2 == 0 {
            file.sync_data()?
        } else {
            file.sync_all()?
        }
        require_copied(&mirror, &name, &format!("round {round}, after the sync"))?;
    }
    for round in 0..30 {
        let (directory, name) = (format!("dir{round}"), format!("dir{round}/new"));
        fs::create_dir(data.join(&directory))?;
        write_synced(&data.join(&name), &random.bytes(1000))?;
        require_copied(&mirror, &name, "new file in a new directory")?;
        fs::rename(data.join(&name), data.join(&directory).join("renamed"))?;
        sync_directory(&data.join(&directory))?;
        let copy = mirror.copy().join(&directory);
        ensure!(
            copy.join("renamed").exists(),
            "round {round}: the new name is missing after fsync of the directory"
        );
        ensure!(
            !copy.join("new").exists(),
            "round {round}: the old name is there after fsync of the directory"
        );
    }
    let found = mirror.finish(&[])?;
    passed(format!("{} syncs, each read back on the secondary; {} bytes", ROUNDS + 30, found.bytes))
}
