//! `cargo xtask run`: two nodes on this machine mirror a live directory.

pub mod applications;
pub mod live;
mod smoke;

use anyhow::Result;

use crate::lab::image::MIB;
use crate::lab::interrupt;
use crate::lab::mirror::{Kind, Mirror};

/// Size of each node's file system: sparse, so only what is written takes space.
const IMAGE: u64 = 2048 * MIB;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    kind: Kind,
    /// Leave the file systems mounted after Ctrl-C, until the next run.
    #[arg(long)]
    keep: bool,
    /// Without a person: write, compare, kill, compare; exit code 0 if every promise held.
    #[arg(long)]
    smoke: bool,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    interrupt::watch();
    let options = args.kind.options(IMAGE);
    if args.smoke {
        let modes = args.kind.mode.as_deref().map_or(vec!["sync", "semi-sync"], |mode| vec![mode]);
        return smoke::run(&options, &modes);
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
