//! Stores through shared mappings that nobody syncs: the mapping is taken away, the writers rest, and both trees must still
//! become the same, without any fsync by the application. Beside them buffered writes, truncation and growth of the same files,
//! because a page that is dirty already announces nothing.

use std::os::unix::fs::FileExt;

use anyhow::Result;

use super::files::open;
use super::{Context, Outcome, passed};
use crate::lab::mapping::Mapping;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

const FILES: u64 = 6;
const ROUNDS: u64 = 400;
const SIZE: u64 = 2 << 20;
const LENGTH: usize = 8192;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(19);
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
        mirror.wait_identical()?;
    }
    let found = mirror.finish(&[])?;
    passed(format!("{} rounds without a sync; {} bytes identical", 2 * ROUNDS, found.bytes))
}
