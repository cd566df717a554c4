//! Small files are made, rewritten, moved and deleted without a single fsync; once the writers rest, both trees are the
//! same, and so they are after the stop. The plainest case: what fails here fails everywhere.

use std::fs;

use anyhow::Result;

use super::files::plant;
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(1);
    plant(&data, &mut random, 10, 40, 9000)?;
    mirror.wait_identical()?;
    for directory in 0..10 {
        let directory = data.join(format!("d{directory}"));
        for file in 0..10 {
            fs::write(directory.join(format!("f{file}")), random.bytes(100))?;
            fs::remove_file(directory.join(format!("f{}", file + 10)))?;
            fs::rename(directory.join(format!("f{}", file + 20)), directory.join(format!("moved{file}")))?;
        }
    }
    fs::rename(data.join("d3"), data.join("d4").join("inside"))?;
    fs::remove_dir_all(data.join("d5"))?;
    mirror.wait_identical()?;
    let found = mirror.finish(&[])?;
    passed(format!("{} entries, {} bytes identical", found.entries, found.bytes))
}
