//! `cargo xtask run`: a cluster of two nodes on this machine, or only two nodes that mirror a live directory.

pub mod applications;
pub mod cluster;
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
    /// Only the mirror: no daemon decides who is the primary, and there is a directory to write in.
    #[arg(long)]
    mirror: bool,
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
    if !args.mirror {
        let filesystem = args.kind.surroundings.fs;
        return cluster::show(&crate::lab::cluster::Options { filesystem, ..Default::default() });
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
