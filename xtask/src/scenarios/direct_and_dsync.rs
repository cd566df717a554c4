//! O_DSYNC and O_SYNC: each write that returned is on both nodes. O_DIRECT: its bytes, of whatever alignment the file
//! system takes, are on both after an fsync, also beside buffered writes to the same file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result};

use super::files::{open, require_copied};
use super::{Context, Outcome, passed};
use crate::lab::aligned::{Aligned, BLOCK};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(5);
    let mut writes = 0;
    for (name, flags) in [("dsync", libc::O_DSYNC), ("sync", libc::O_SYNC)] {
        let file = open(&data.join(name), flags)?;
        for round in 0..40 {
            let length = 1 + random.below(30_000) as usize;
            file.write_all_at(&random.bytes(length), random.below(100_000))
                .with_context(|| format!("write to {name}"))?;
            require_copied(&mirror, name, &format!("{name} write {round}"))?;
            writes += 1;
        }
    }
    let direct = open(&data.join("direct"), libc::O_DIRECT)?;
    let buffered = open(&data.join("direct"), 0)?;
    for round in 0..40 {
        let pages = 1 + random.below(16) as usize;
        let block = Aligned::new(&random.bytes(pages * BLOCK));
        write_direct(&direct, block.bytes(), random.below(64) * BLOCK as u64)?;
        if round % 4 == 0 {
            buffered.write_all_at(&random.bytes(500), random.below(200_000))?;
        }
        direct.sync_data()?;
        require_copied(&mirror, "direct", &format!("O_DIRECT round {round}"))?;
    }
    // Both at once: every write itself is the promise.
    let both = open(&data.join("both"), libc::O_DIRECT | libc::O_DSYNC)?;
    for round in 0..20 {
        let block = Aligned::new(&random.bytes(BLOCK));
        write_direct(&both, block.bytes(), round * BLOCK as u64)?;
        require_copied(&mirror, "both", &format!("O_DIRECT|O_DSYNC write {round}"))?;
        writes += 1;
    }
    drop((direct, buffered, both));
    mirror.wait_identical()?;
    let found = mirror.finish(&[])?;
    passed(format!("{writes} synchronous writes and 40 direct rounds read back; {} bytes", found.bytes))
}

fn write_direct(file: &File, bytes: &[u8], at: u64) -> Result<()> {
    let written = file.write_at(bytes, at).context("O_DIRECT write")?;
    if written != bytes.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero)).context("O_DIRECT write was short");
    }
    Ok(())
}
