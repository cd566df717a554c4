//! Sizes go down and up, ranges are punched, zeroed, preallocated and, where the file system can, collapsed and inserted.
//! Both files end the same, and a file with large holes stays one: the copy does not fill the disk with zeros.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, bail, ensure};
use libc::{
    FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
};

use super::files::{fallocate, open, require_copied};
use super::{Context, Outcome, passed};
use crate::lab::image::MIB;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// A size that does not fit on the disk if its holes are filled.
const SPARSE: u64 = 1 << 30;
/// What file systems may allocate differently.
const SLACK: u64 = 2 * MIB;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(3);

    let file = open(&data.join("sparse"), 0)?;
    for at in [0, SPARSE / 2 + 123, SPARSE - 4096] {
        file.write_all_at(&random.bytes(4096), at)?;
    }
    file.sync_all()?;
    drop(file);
    require_sparse(&mirror, "sparse")?;

    let file = open(&data.join("changed"), 0)?;
    let mut refused = Vec::new();
    for round in 0..60 {
        file.write_all_at(&random.bytes(50_000), random.below(600_000))?;
        let page = |random: &mut Random| random.below(100) * 4096;
        let (at, length) = (page(&mut random), 4096 + page(&mut random));
        let result = match round % 8 {
            0 => file.set_len(random.below(700_000)),
            1 => file.set_len(700_000 + random.below(100_000)),
            2 => fallocate(&file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at + 17, length),
            3 => fallocate(&file, FALLOC_FL_ZERO_RANGE, at + 5, length),
            4 => fallocate(&file, FALLOC_FL_KEEP_SIZE, at, length),
            5 => fallocate(&file, 0, at, length),
            6 => fallocate(&file, FALLOC_FL_COLLAPSE_RANGE, at % 65536, 4096),
            _ => fallocate(&file, FALLOC_FL_INSERT_RANGE, at % 65536, 4096),
        };
        match result {
            Ok(()) => (),
            // Collapse and insert are refused by FUSE, and beyond the end by everybody.
            Err(error) if [Some(libc::EOPNOTSUPP), Some(libc::EINVAL)].contains(&error.raw_os_error()) => {
                refused.push(round % 8);
            }
            Err(error) => bail!("round {round}: {error}"),
        }
        if round % 3 == 0 {
            file.sync_data()?;
            require_copied(&mirror, "changed", &format!("round {round}"))?;
        }
    }
    ensure!(refused.iter().all(|kind| *kind >= 6), "more than collapse and insert was refused: {refused:?}");
    file.set_len(0)?;
    drop(file);
    open(&data.join("sparse"), 0)?.set_len(SPARSE / 4)?;
    mirror.wait_identical()?;
    require_sparse(&mirror, "sparse")?;
    let found = mirror.finish(&[])?;
    passed(format!("{} bytes compared; holes kept", found.bytes))
}

fn require_sparse(mirror: &Mirror, name: &str) -> Result<()> {
    let allocated = |path: std::path::PathBuf| Ok::<_, anyhow::Error>(fs::metadata(path)?.blocks() * 512);
    let (data, copy) = (allocated(mirror.data().join(name))?, allocated(mirror.copy().join(name))?);
    ensure!(copy <= data + SLACK, "{name} takes {data} bytes of disk and its copy {copy}: holes were filled");
    Ok(())
}
