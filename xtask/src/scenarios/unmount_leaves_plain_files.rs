//! An orderly stop unmounts the gate and leaves the same directory with the same files, plain, also while somebody still has a
//! file of it open. Nothing is to be converted, and nothing but the operator's own files is in it.

use std::fs;
use std::io::Write;

use anyhow::{Result, ensure};

use super::files::{open, plant};
use super::{Context, Outcome, passed};
use crate::lab::compare;
use crate::lab::exec;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    plant(&data, &mut Random::new(11), 3, 20, 20_000)?;
    mirror.wait_identical()?;
    // What the gate showed, kept aside, is what the plain directory must show.
    let aside = mirror.outside().join("aside");
    exec::run(std::process::Command::new("cp").args(["-a", "--"]).arg(&data).arg(&aside))?;
    mirror.primary.stop()?;
    mirror.require_plain()?;
    let found = compare::trees(&aside, &data)?;
    ensure!(found.is_identical(), "the plain directory differs from the gate: {:?}", found.differences);

    mirror.start_nodes()?;
    let mut open = open(&data.join("held open"), 0)?;
    open.write_all(b"before the stop")?;
    open.sync_all()?;
    mirror.primary.stop()?;
    mirror.require_plain()?;
    ensure!(fs::read(data.join("held open"))? == b"before the stop", "bytes of a file that is held open");
    drop(open);
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    // A file that is in use is a reason to warn.
    let found = mirror.finish(&["in use", "connection aborted", "peer", "session"])?;
    passed(format!("{} entries, idle and with an open file", found.entries))
}
