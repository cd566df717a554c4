//! Stores through shared mappings: after the fsync the copy holds them, also when the same page is stored into again
//! and again, which no event announces. msync cannot be held; it is counted where it can be seen, and what it wrote
//! arrives all the same.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use anyhow::Result;

use super::files::{open, require_copied};
use super::{Context, Outcome, passed};
use crate::lab::mapping::Mapping;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::wait;

const SIZE: u64 = 1 << 20;
const ROUNDS: u64 = 80;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(4);
    let mut file = open(&data.join("mapped"), 0)?;
    file.write_all(&random.bytes(SIZE as usize))?;
    file.sync_all()?;
    let mut mapping = Mapping::new(&file, 0, SIZE as usize)?;
    for round in 0..ROUNDS {
        // A few pages only, so that most stores meet a page that is dirty already.
        for _ in 0..3 {
            let at = random.below(8) * 4096 + random.below(4000);
            mapping.store(at as usize, &random.bytes(64));
        }
        if round % 2 == 0 {
            file.sync_data()?
        } else {
            file.sync_all()?
        }
        require_copied(&mirror, "mapped", &format!("round {round}, after the sync"))?;
    }
    // A page that a buffered write made dirty already, and whose bytes have travelled: the store makes nothing dirty any
    // more, and no event announces it.
    for round in 0..8_u64 {
        file.write_all_at(&random.bytes(4096), (16 + round) * 4096)?;
        // No longer than until the bytes are there: the page must not be written back meanwhile.
        wait::until("the written bytes on the copy", wait::SHORT, || {
            Ok(require_copied(&mirror, "mapped", "").ok())
        })?;
        mapping.store((16 + round as usize) * 4096 + 7, &random.bytes(64));
        file.sync_data()?;
        require_copied(
            &mirror,
            "mapped",
            &format!("round {round}, stored into a page that was dirty by a write"),
        )?;
    }
    // The mapping outlives its descriptor; the sync comes through another one.
    drop(file);
    mapping.store(SIZE as usize - 100, &random.bytes(100));
    File::open(data.join("mapped"))?.sync_all()?;
    require_copied(&mirror, "mapped", "after the writing descriptor was closed")?;

    mapping.store(5 * 4096, &random.bytes(4096));
    mapping.sync()?;
    drop(mapping);
    mirror.wait_identical()?;
    let unguarded = mirror.primary.status()?.map_or(0, |status| status.counters.unguarded_syncs);
    mirror.finish(&["msync", "nguarded"])?;
    passed(format!("{ROUNDS} syncs read back; 1 msync, {unguarded} seen unguarded"))
}
