//! Which row of capture a node takes: the best the kernel permits, or the one that is configured.

use std::sync::Arc;

use anyhow::Context;
use replicator_core::ids::VolumeId;
use tracing::{info, warn};

use crate::config::{Capture, Config};
use crate::gate::Passthrough;
use crate::status::HookStatus;
use crate::tracer::{
    HookState, PreparedTracer, ProgramKind, Resolve, Row, Tracer, TracerError, TracerOptions, TracerReport,
    Watch,
};
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

/// The row to try; `None`: no kernel programs are wanted.
fn wanted(config: &Config) -> Option<Row> {
    Some(match config.mirror.capture {
        Capture::Gate => return None,
        Capture::Auto if !config.mirror.gate => Row::Fentry,
        Capture::Auto => Row::Auto,
        Capture::Fentry => Row::Fentry,
        Capture::Tracepoints => Row::Tracepoints,
    })
}

fn options(config: &Config, row: Row, watches: Vec<Watch>) -> TracerOptions {
    TracerOptions {
        row,
        ring_bytes: config.mirror.trace_ring,
        log_programs: true,
        ..TracerOptions::new(watches)
    }
}

/// What a primary needs of the kernel, got ready while another process may still be the secondary in the same directories. Nothing of these stays open.
#[derive(Default)]
pub struct Prepared(Option<PreparedTracer>);

impl Prepared {
    /// Load the kernel programs, attached to nothing. What cannot be had now is tried again at the start.
    #[must_use]
    pub fn new(config: &Config) -> Prepared {
        let Some(row) = wanted(config) else { return Prepared::default() };
        let tracer =
            look(config).and_then(|watches| Ok(PreparedTracer::load(options(config, row, watches))?));
        let tracer = tracer.inspect_err(|error| info!("the kernel programs cannot be prepared: {error:#}"));
        Prepared(tracer.ok())
    }
}

/// What is to be watched of the directories of this configuration, whoever uses them.
fn look(config: &Config) -> anyhow::Result<Vec<Watch>> {
    let directories = (0..).map(VolumeId).zip(&config.mirror.directories);
    directories.map(|(id, directory)| Ok(watch(&Volume::look(id, directory)?))).collect()
}

/// Attach what was prepared, or load it now, if the directories are others since or the kernel does not take it any more.
fn start(prepared: Prepared, options: impl Fn() -> TracerOptions) -> Result<Tracer, TracerError> {
    let TracerOptions { watches, resolve, .. } = options();
    match prepared.0 {
        Some(prepared) if prepared.watches() == watches => match prepared.attach(resolve) {
            Ok(tracer) => return Ok(tracer),
            Err(error) => warn!(%error, "the kernel programs that were prepared are loaded again"),
        },
        Some(_) => info!("the kernel programs were prepared for other directories, and are loaded again"),
        None => {}
    }
    Tracer::start(options())
}

/// Choose, and attach what was chosen. `prepared`: with the same configuration.
///
/// # Errors
/// The configured row cannot be had here.
pub fn select(config: &Config, volumes: &[Arc<Volume>], prepared: Prepared) -> anyhow::Result<Selected> {
    let Some(row) = wanted(config) else { return Ok(by_the_gate("configured".to_owned())) };
    let options = || TracerOptions {
        resolve: Some(resolver(volumes)),
        ..options(config, row, volumes.iter().map(|volume| watch(volume)).collect())
    };
    match start(prepared, options) {
        Ok(tracer) => {
            let report = tracer.report();
            let why = report.reason.clone();
            let row = match report.row {
                Row::Tracepoints => "tracepoints",
                Row::Fentry | Row::Auto => "fentry",
            };
            for uncovered in &report.uncovered {
                // With the gate these are the gate's to see; the kernel programs would only be a second witness.
                info!(
                    filesystem = uncovered.filesystem,
                    change = uncovered.cover.name(),
                    "goes unseen by the kernel programs"
                );
            }
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

/// Decides whether a file of a watched device lies in the volume: known files do; of others the kernel is asked for a name.
fn resolver(volumes: &[Arc<Volume>]) -> Resolve {
    let volumes = volumes.to_vec();
    Box::new(move |file, generation| {
        volumes.get(usize::from(file.volume.0)).is_some_and(|volume| {
            volume.handle(file.inode).is_some() || volume.contains(file.inode, generation)
        })
    })
}

/// The hooks as the status shows them.
pub fn hooks_of(report: &TracerReport) -> Vec<HookStatus> {
    report
        .hooks
        .iter()
        .map(|hook| {
            let (state, why) = match hook.state {
                HookState::Attached => ("attached", String::new()),
                HookState::Refused { errno } => {
                    ("refused", std::io::Error::from_raw_os_error(errno).to_string())
                }
                HookState::Absent => ("absent", "this kernel does not have it".to_owned()),
                HookState::NotNeeded => {
                    ("not needed", "another hook covers it, or nothing watched needs it".to_owned())
                }
            };
            HookStatus {
                name: hook.name.to_owned(),
                kind: kind_name(hook.kind).to_owned(),
                state: state.to_owned(),
                why,
                covers: hook.covers.name().to_owned(),
            }
        })
        .collect()
}

fn kind_name(kind: ProgramKind) -> &'static str {
    match kind {
        ProgramKind::Tracepoint => "btf-tracepoint",
        ProgramKind::Entry => "fentry",
        ProgramKind::Exit => "fexit",
    }
}
