//! `cargo xtask run`: two nodes on this machine mirror a live directory.

mod applications;
pub mod live;
mod smoke;

use anyhow::Result;

use crate::lab::image::{Filesystem, MIB};
use crate::lab::interrupt;
use crate::lab::mirror::{Mirror, Options};

/// Size of each node's file system: sparse, so only what is written takes space.
const IMAGE: u64 = 2048 * MIB;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {
    /// When an fsync returns: sync, semi-sync, async.
    #[arg(long)]
    mode: Option<String>,
    /// Force a row of the capture table: tracepoints, gate, fentry.
    #[arg(long)]
    capture: Option<String>,
    /// File system of both nodes.
    #[arg(long, value_enum, default_value_t = Filesystem::Ext4)]
    fs: Filesystem,
    /// Leave the file systems mounted after Ctrl-C, until the next run.
    #[arg(long)]
    keep: bool,
    /// Without a person: write, compare, kill, compare; exit code 0 if every promise held.
    #[arg(long)]
    smoke: bool,
}

impl Args {
    fn options(&self) -> Options {
        let mut options = Options { filesystem: self.fs, ..Options::default() }.sized(IMAGE);
        if let Some(row) = &self.capture {
            options = options.with("mirror.capture", row.as_str());
        }
        options
    }
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    if args.smoke {
        let modes = args.mode.as_deref().map_or(vec!["sync", "semi-sync"], |mode| vec![mode]);
        return smoke::run(&args.options(), &modes);
    }
    let mut options = args.options();
    if let Some(mode) = &args.mode {
        options = options.with("mirror.mode", mode.as_str());
    }
    let mut mirror = Mirror::start(&options)?;
    live::introduce(&mirror);
    let watched = live::watch(&mut mirror);
    // In order, so that the primary's unmount still reaches the secondary.
    let stopped = mirror.primary.stop().and(mirror.secondary.stop());
    if args.keep {
        println!("kept until the next run: {}", mirror.outside().display());
        std::mem::forget(mirror);
    }
    watched.and(stopped)
}
