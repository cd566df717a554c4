//! Stores through shared mappings that nobody syncs: the mapping is taken away, the writers rest, and both trees must still
//! become the same, without any fsync by the application. Beside them buffered writes, truncation and growth of the same files,
//! because a page that is dirty already announces nothing.

use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result};

use super::files::{open, require_copied};
use super::{Context, Outcome, passed};
use crate::lab::mapping::Mapping;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;
use crate::lab::wait;

const FILES: u64 = 6;
const ROUNDS: u64 = 400;
const SIZE: u64 = 2 << 20;
const LENGTH: usize = 8192;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(19);
    for page in 0..8 {
        // The write makes the page dirty and its bytes travel; then the store makes nothing dirty any more.
        let file = open(&data.join("dirty by a write"), 0)?;
        file.write_all_at(&random.bytes(4096), page * 4096)?;
        wait::until("the written bytes on the copy", wait::SHORT, || {
            Ok(require_copied(&mirror, "dirty by a write", "").ok())
        })?;
        Mapping::new(&file, page * 4096, 4096)?.store(100, &random.bytes(64));
        drop(file);
        mirror.wait_identical().with_context(|| format!("page {page}, stored into after a write"))?;
    }
    for mixed in [false, true] {
        for round in 0..ROUNDS {
            let file = open(&data.join(format!("f{}", random.below(FILES))), 0)?;
            let at = random.below(SIZE) / 4096 * 4096;
            match if mixed { random.below(4) } else { 0 } {
                1 => file.write_all_at(&random.bytes(5000), random.below(SIZE))?,
                2 if round % 8 == 0 => file.set_len(random.below(SIZE))?,
                _ => {
                    if file.metadata()?.len() < at + LENGTH as u64 {
                        file.set_len(at + LENGTH as u64)?;
                    }
                    Mapping::new(&file, at, LENGTH)?.store(0, &random.bytes(LENGTH));
                }
            }
        }
        mirror.wait_identical().context(if mixed { "stores among writes" } else { "stores alone" })?;
    }
    let found = mirror.finish(&[])?;
    passed(format!("{} rounds without a sync; {} bytes identical", 2 * ROUNDS, found.bytes))
}
