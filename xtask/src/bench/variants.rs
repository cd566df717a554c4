//! In which surroundings the jobs run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::image::{Filesystem, LoopImage};
use crate::lab::mirror::{Mirror, Options};
use crate::lab::node::START_BOUND;
use crate::lab::status::Status;

/// Longest time until nothing is dirty after a job, and until both trees are the same after all of them.
pub const SETTLE_BOUND: Duration = Duration::from_secs(180);
/// Words in the logs that the variants explain: the mirror is without its peer, and overrun on purpose.
const EXPECTED: &[&str] = &["lost", "widened", "peer", "session", "link", "connect", "alone"];

/// One of the things that are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Variant {
    /// A plain directory on the same kind of file system.
    Native,
    /// The mirror, `sync`, with the peer connected and applying on the same processors.
    Mirror,
    /// The same with the link encrypted.
    Encrypted,
    /// The mirror, `semi-sync`; only jobs that wait for an fsync.
    SemiSync,
    /// The gate with tracing on, without a peer.
    Alone,
    /// The mirror with the daemon handling every WRITE: no passthrough, no kernel programs.
    NoPassthrough,
}

/// All of them.
pub const VARIANTS: &[Variant] = &[
    Variant::Native,
    Variant::Mirror,
    Variant::Encrypted,
    Variant::SemiSync,
    Variant::Alone,
    Variant::NoPassthrough,
];

impl Variant {
    /// Its heading in the table.
    pub fn heading(self) -> &'static str {
        match self {
            Variant::Native => "native",
            Variant::Mirror => "mirror",
            Variant::Encrypted => "encrypted",
            Variant::SemiSync => "semi-sync",
            Variant::Alone => "no peer",
            Variant::NoPassthrough => "no passthrough",
        }
    }
}

/// The file systems and the two nodes that all variants use.
pub struct Bench {
    /// The two nodes.
    pub mirror: Mirror,
    native: LoopImage,
}

impl Bench {
    /// Make file systems of so many bytes, and let `prepare` write what the jobs need on each of the plain directories.
    pub fn build(filesystem: Filesystem, bytes: u64, prepare: impl Fn(&Path) -> Result<()>) -> Result<Bench> {
        let mirror = Mirror::build(&Options { filesystem, ..Options::default() }.sized(bytes))?;
        let native = LoopImage::new(mirror.outside(), "native", filesystem, bytes)?;
        for directory in [native.path(), mirror.data(), mirror.copy()] {
            prepare(directory).with_context(|| format!("prepare {}", directory.display()))?;
        }
        Ok(Bench { mirror, native })
    }

    /// Where a variant works.
    pub fn directory(&self, variant: Variant) -> &Path {
        if variant == Variant::Native { self.native.path() } else { self.mirror.data() }
    }

    /// Bring a variant up; returns where to work.
    pub fn enter(&mut self, variant: Variant) -> Result<PathBuf> {
        let (mode, capture) = match variant {
            Variant::Native | Variant::Mirror | Variant::Encrypted | Variant::Alone => ("sync", "auto"),
            Variant::SemiSync => ("semi-sync", "auto"),
            Variant::NoPassthrough => ("sync", "gate"),
        };
        for node in [&mut self.mirror.primary, &mut self.mirror.secondary] {
            node.config.set("mirror.mode", mode);
            node.config.set("mirror.capture", capture);
        }
        self.mirror.encrypt(variant == Variant::Encrypted);
        match variant {
            Variant::Native => {}
            Variant::Alone => {
                self.mirror.start_primary()?;
                self.mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
            }
            _ => self.mirror.start_nodes()?,
        }
        Ok(self.directory(variant).to_owned())
    }

    /// Wait until what was done is on the copy, where there is one.
    pub fn settle(&mut self, variant: Variant) -> Result<()> {
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
        self.mirror.finish(EXPECTED).map(drop)
    }
}
