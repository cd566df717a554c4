//! The primary's daemon alone is killed: its mount stays, dead. The next start recognises and replaces it, the files are
//! there again, both trees end the same, and after an orderly stop the directory is plain.

use std::fs;

use anyhow::{Result, ensure};

use super::files::{CRASHED, PEER_LOST, plant, require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

const CRASHES: usize = 3;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(13);
    plant(&data, &mut random, 3, 20, 20_000)?;
    for crash in 0..CRASHES {
        write_synced(&data.join("synced"), &random.bytes(40_000))?;
        // Not synced and perhaps not yet captured when the daemon dies: only the compare after the start finds it.
        fs::write(data.join("unsynced"), random.bytes(40_000))?;
        mirror.primary.kill()?;
        // Attributes and names may still be shown by the kernel; nothing is opened any more.
        ensure!(fs::File::open(data.join("synced")).is_err(), "the dead mount answers");
        mirror.start_nodes()?;
        write_synced(&data.join("after"), &random.bytes(100))?;
        require_copied(&mirror, "after", &format!("crash {crash}"))?;
        mirror.wait_identical()?;
    }
    let found = mirror.finish(&[PEER_LOST, CRASHED].concat())?;
    passed(format!("{CRASHES} crashes; {} entries identical", found.entries))
}
