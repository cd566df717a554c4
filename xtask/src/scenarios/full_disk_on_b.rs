//! The secondary's disk is full. That never becomes an acknowledgement: the primary records that it is alone, its fsyncs go
//! on, the alarm (ERROR) is raised. When there is room again the secondary is brought up to date.

use std::fs;

use anyhow::{Result, ensure};

use super::files::{PEER_LOST, fallocate, open, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::image::MIB;
use crate::lab::mirror::{Mirror, Options};
use crate::lab::node::START_BOUND;
use crate::lab::records::Random;
use crate::lab::{log, wait};

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&Options { ..context.options() })?;
    let data = mirror.data().to_owned();
    // On the secondary's file system, but outside the mirrored directory.
    let ballast = mirror.copy().with_file_name("ballast");
    let file = open(&ballast, 0)?;
    let mut size = 0;
    for step in [64 * MIB, 16 * MIB, 4 * MIB, MIB] {
        while fallocate(&file, 0, size, step).is_ok() {
            size += step;
        }
    }
    drop(file);
    let mut random = Random::new(15);
    let bytes = random.bytes(MIB as usize);
    for number in 0..16 {
        write_synced(&data.join(format!("f{number}")), &bytes)?;
    }
    mirror.primary.wait_for("not mirrored", START_BOUND, |status| !status.is_mirrored())?;
    wait::until("an alarm in a log", START_BOUND, || {
        let mut lines = log::complaints(&mirror.secondary.log)?;
        lines.extend(log::complaints(&mirror.primary.log)?);
        Ok(lines.iter().any(|(severity, _)| *severity == log::Severity::Error).then_some(()))
    })?;
    write_synced(&data.join("while full"), &bytes)?;
    fs::remove_file(&ballast)?;
    mirror.wait_mirrored()?;
    mirror.wait_identical()?;
    write_synced(&data.join("afterwards"), &bytes)?;
    super::files::require_copied(&mirror, "afterwards", "with room again")?;
    let words = ["space", "full", "apply", "durable", "resync"];
    let found = mirror.finish(&[PEER_LOST, &words].concat())?;
    ensure!(found.bytes >= 18 * MIB, "{} bytes", found.bytes);
    passed(format!("alone while full; {} bytes identical after {size} bytes were freed", found.bytes))
}
