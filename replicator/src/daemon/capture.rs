//! Which row of capture a node takes: the best the kernel permits, or the one that is configured.

use std::sync::Arc;

use anyhow::Context;
use tracing::warn;

use crate::config::{Capture, Config};
use crate::gate::Passthrough;
use crate::status::HookStatus;
use crate::tracer::{Row, Tracer, TracerOptions, TracerReport, Watch};
use crate::volume::Volume;

/// What was chosen.
pub struct Selected {
    /// The kernel programs, if there are any.
    pub tracer: Option<Tracer>,
    /// How the gate treats reads and writes.
    pub passthrough: Passthrough,
    /// "fentry", "tracepoints" or "gate".
    pub row: &'static str,
    /// Why this and nothing better.
    pub why: String,
}

/// Choose, and attach what was chosen.
///
/// # Errors
/// The configured row cannot be had here.
pub fn select(config: &Config, volumes: &[Arc<Volume>]) -> anyhow::Result<Selected> {
    let row = match config.mirror.capture {
        Capture::Gate => {
            return Ok(by_the_gate("configured".to_owned()));
        }
        Capture::Auto if !config.mirror.gate => Row::Fentry,
        Capture::Auto => Row::Auto,
        Capture::Fentry => Row::Fentry,
        Capture::Tracepoints => Row::Tracepoints,
    };
    let options = TracerOptions {
        row,
        ring_bytes: config.mirror.trace_ring,
        watches: volumes.iter().map(|volume| watch(volume)).collect(),
        ..TracerOptions::default()
    };
    match Tracer::start(options) {
        Ok(tracer) => {
            let report = tracer.report();
            let (row, why) = (report.row, report.why.clone());
            Ok(Selected { tracer: Some(tracer), passthrough: Passthrough::Auto, row, why })
        }
        Err(error) if config.mirror.capture == Capture::Auto && config.mirror.gate => {
            warn!(%error, "no kernel programs: the gate handles each write itself, which is slower");
            Ok(by_the_gate(format!("no kernel programs: {error}")))
        }
        Err(error) => Err(error).context(format!(
            "mirror.capture = \"{}\" is not to be had on this host (see \"replicator doctor\"); use \"auto\"",
            config.mirror.capture
        )),
    }
}

fn by_the_gate(why: String) -> Selected {
    Selected { tracer: None, passthrough: Passthrough::Off, row: "gate", why }
}

fn watch(volume: &Volume) -> Watch {
    Watch {
        volume: volume.id,
        kernel_device: volume.kernel_device,
        filesystem: volume.filesystem.clone(),
        root_inode: volume.root_inode,
        whole_filesystem: volume.whole_filesystem,
    }
}

/// The hooks as the status shows them.
pub fn hooks_of(report: &TracerReport) -> Vec<HookStatus> {
    report
        .hooks
        .iter()
        .map(|hook| HookStatus {
            name: hook.name.to_string(),
            kind: hook.kind.to_string(),
            state: hook.state.to_string(),
            why: hook.state.why(),
            covers: hook.covers.to_string(),
        })
        .collect()
}
