//! In which surroundings the jobs run.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::image::{Filesystem, LoopImage, MIB};
use crate::lab::mirror::{Mirror, Options};
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;
use crate::lab::status::Status;

/// Prefix of the large file.
pub const BULK: &str = "bulk";
/// Prefix of the file of the O_DIRECT jobs.
pub const DIRECT: &str = "direct";
/// Prefix of the files that are synced.
pub const SYNCED: &str = "synced";

/// The prepared files: prefix, how many, size of each.
const FILES: &[(&str, u32, u64)] = &[(BULK, 1, 256 * MIB), (DIRECT, 1, 128 * MIB), (SYNCED, 4, 16 * MIB)];
const IMAGE: u64 = 1024 * MIB;
const SETTLE_BOUND: Duration = Duration::from_secs(120);

/// One of the things that are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Variant {
    /// A plain directory on the same kind of file system.
    Native,
    /// The mirror, `sync`, with the peer connected and applying on the same processors.
    Mirror,
    /// The mirror, `semi-sync`; only jobs that wait for an fsync.
    SemiSync,
    /// The gate with tracing on, without a peer.
    Alone,
    /// The mirror with the daemon handling every WRITE: no passthrough, no kernel programs.
    NoPassthrough,
}

/// All of them.
pub const VARIANTS: &[Variant] =
    &[Variant::Native, Variant::Mirror, Variant::SemiSync, Variant::Alone, Variant::NoPassthrough];

impl Variant {
    /// Its heading in the table.
    pub fn heading(self) -> &'static str {
        match self {
            Variant::Native => "native",
            Variant::Mirror => "mirror",
            Variant::SemiSync => "semi-sync",
            Variant::Alone => "no peer",
            Variant::NoPassthrough => "no passthrough",
        }
    }
}

/// The file systems and the two nodes that all variants use.
pub struct Bench {
    mirror: Mirror,
    native: LoopImage,
}

impl Bench {
    /// Make the file systems and write the prepared files, on the plain directories.
    pub fn build(filesystem: Filesystem) -> Result<Bench> {
        let options = Options { filesystem, ..Options::default() }.sized(IMAGE);
        let mirror = Mirror::build(&options)?;
        let native = LoopImage::new(mirror.outside(), "native", filesystem, IMAGE)?;
        for directory in [native.path(), mirror.data(), mirror.copy()] {
            prepare(directory)?;
        }
        Ok(Bench { mirror, native })
    }

    /// Bring a variant up; returns where to work.
    pub fn enter(&mut self, variant: Variant) -> Result<PathBuf> {
        let (mode, capture) = match variant {
            Variant::Native => return Ok(self.native.path().to_owned()),
            Variant::Mirror | Variant::Alone => ("sync", "auto"),
            Variant::SemiSync => ("semi-sync", "auto"),
            Variant::NoPassthrough => ("sync", "gate"),
        };
        for node in [&mut self.mirror.primary, &mut self.mirror.secondary] {
            node.config.set("mirror.mode", mode);
            node.config.set("mirror.capture", capture);
        }
        if variant == Variant::Alone {
            self.mirror.start_primary()?;
            self.mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
        } else {
            self.mirror.start_nodes()?;
        }
        Ok(self.mirror.data().to_owned())
    }

    /// Wait until what a job left behind is done, so that the next job does not pay for it.
    pub fn settle(&mut self, variant: Variant) -> Result<()> {
        let directory = if variant == Variant::Native { self.native.path() } else { self.mirror.data() };
        for (prefix, count, _) in FILES {
            for number in 0..*count {
                File::open(directory.join(format!("{prefix}.{number}")))?.sync_all()?;
            }
        }
        if ![Variant::Native, Variant::Alone].contains(&variant) {
            self.mirror.primary.wait_for("nothing is dirty", SETTLE_BOUND, Status::is_settled)?;
        }
        Ok(())
    }

    /// Take a variant down.
    pub fn leave(&mut self, variant: Variant) -> Result<()> {
        if variant != Variant::Native {
            self.mirror.primary.stop()?;
            self.mirror.secondary.stop()?;
        }
        Ok(())
    }

    /// After all rounds: the fast mirror must also have been a right one.
    pub fn finish(mut self) -> Result<()> {
        self.mirror.start_nodes()?;
        self.mirror.wait_identical_within(SETTLE_BOUND).context("after the measurements")?;
        self.mirror.finish(&["lost", "widened", "peer", "session", "link", "connect", "alone"]).map(drop)
    }
}

fn prepare(directory: &Path) -> Result<()> {
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
