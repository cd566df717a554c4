//! `semi-sync`: an fsync returns when this node holds the data on disk and the other has received it. So after the primary
//! is killed, and the secondary has applied what it received, every acknowledged record is there.

use anyhow::Result;

use super::files::{CRASHED, PEER_LOST};
use super::{Context, Outcome, passed, primary_killed_under_load};
use crate::lab::mirror::Mirror;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options().with("mirror.mode", "semi-sync"))?;
    let found = primary_killed_under_load::rounds(&mut mirror, 2, 4)?;
    mirror.finish(&[PEER_LOST, CRASHED].concat())?;
    passed(format!("2 rounds: {} acknowledged, {} found", found.acknowledged, found.records))
}
