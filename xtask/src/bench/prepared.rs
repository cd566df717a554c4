//! The files that the jobs on data work on.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::lab::image::MIB;
use crate::lab::records::Random;

/// Prefix of the large file.
pub const BULK: &str = "bulk";
/// Prefix of the file of the O_DIRECT jobs.
pub const DIRECT: &str = "direct";
/// Prefix of the files that are synced.
pub const SYNCED: &str = "synced";

/// The prepared files: prefix, how many, size of each.
const FILES: &[(&str, u32, u64)] = &[(BULK, 1, 256 * MIB), (DIRECT, 1, 128 * MIB), (SYNCED, 4, 16 * MIB)];

/// Write the prepared files.
///
/// # Errors
/// One cannot be written.
pub fn prepare(directory: &Path) -> Result<()> {
    for (prefix, count, size) in FILES {
        for number in 0..*count {
            let path = directory.join(format!("{prefix}.{number}"));
            let write = || -> std::io::Result<()> {
                // The same bytes everywhere: the first comparison of the nodes then has nothing to send.
                let mut random = Random::new(u64::from(number));
                let mut file = File::create(&path)?;
                for _ in 0..size / MIB {
                    // In small pieces, as pages of an application come into the cache: in a folio of 1 MiB each small
                    // write would walk through all of its blocks, which hides everything else.
                    for piece in random.bytes(MIB as usize).chunks(4096) {
                        file.write_all(piece)?;
                    }
                }
                file.sync_all()
            };
            write().with_context(|| format!("prepare {}", path.display()))?;
        }
    }
    Ok(())
}

/// Sync all of them, so that the next job does not pay for the last one.
///
/// # Errors
/// One cannot be synced.
pub fn sync(directory: &Path) -> Result<()> {
    for (prefix, count, _) in FILES {
        for number in 0..*count {
            File::open(directory.join(format!("{prefix}.{number}")))?.sync_all()?;
        }
    }
    Ok(())
}
