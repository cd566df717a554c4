//! What only the edges can find out, by trying: kernel programs, FUSE protocol and passthrough, notification of
//! changes, io_uring.

use super::finding::Finding;
use crate::{gate, notify, tracer, uring};

/// Whether fentry/fexit programs may be loaded and attached.
pub const TRAMPOLINES: &str = "bpf-fentry";
/// Whether tracepoint programs with types may be loaded and attached.
pub const TRACEPOINTS: &str = "bpf-tracepoints";
/// Whether a FUSE file system can be mounted.
pub const FUSE: &str = "fuse-mount";
/// Whether the FUSE protocol of this kernel has passthrough.
pub const PASSTHROUGH: &str = "fuse-passthrough";
/// Whether others' changes of names and attributes are told by the kernel.
const NOTIFICATION: &str = "change-notification";
/// Whether a ring with all needed operations can be made.
pub const IO_URING: &str = "io-uring";

/// The probes of `tracer`, `gate`, `notify` and `uring`.
pub fn findings() -> Vec<Finding> {
    let mut findings = kernel_programs();
    findings.extend(fuse());
    findings.push(notification());
    findings.extend(io_uring());
    findings
}

/// What loading and attaching programs that do nothing shows.
fn kernel_programs() -> Vec<Finding> {
    let probe = tracer::probe();
    let named = |name, finding: tracer::Finding| Finding::of(name, finding.available, finding.reason);
    vec![
        named("bpf-types", probe.types),
        named("bpf-ring-buffer", probe.ring_buffer),
        named(TRAMPOLINES, probe.functions),
        named(TRACEPOINTS, probe.typed_tracepoint),
        named("bpf-raw-tracepoints", probe.raw_tracepoint),
    ]
}

/// What a test mount in a mount namespace of its own shows.
fn fuse() -> Vec<Finding> {
    let probe = gate::probe();
    let mut findings = match probe.protocol {
        None => vec![
            Finding::no(FUSE, probe.problems.join("; ")),
            Finding::unknown(PASSTHROUGH, "could not be asked without a mount"),
        ],
        Some((major, minor)) => {
            let since = "Linux 6.9 with CONFIG_FUSE_PASSTHROUGH";
            let resend = if probe.resend { "offered" } else { "not offered" };
            vec![
                Finding::yes(
                    FUSE,
                    format!("protocol {major}.{minor}; repeating requests after a crash: {resend}"),
                ),
                Finding::of(PASSTHROUGH, probe.passthrough, format!("data passes by the daemon ({since})")),
            ]
        }
    };
    if probe.protocol.is_some() {
        let problems = probe.problems.into_iter();
        findings.extend(problems.map(|problem| Finding::no("fuse-problem", problem)));
    }
    findings
}

/// Whether names and attributes that others change behind the gate can be seen at once.
fn notification() -> Finding {
    match notify::probe() {
        Ok(()) => {
            Finding::yes(NOTIFICATION, "names and attributes changed behind the gate are seen (fanotify)")
        }
        Err(error) => Finding::no(
            NOTIFICATION,
            format!(
                "{error}: names and attributes changed behind the gate are found by the next comparison only"
            ),
        ),
    }
}

/// Whether a ring can be made, and each part of io_uring a node uses or could use.
fn io_uring() -> Vec<Finding> {
    let features = match uring::probe() {
        Ok(features) => features,
        Err(error) => return vec![Finding::no(IO_URING, error.to_string())],
    };
    let whole = match features.missing() {
        None => Finding::yes(IO_URING, format!("rings are set up as {}", features.setup)),
        Some(part) => {
            let detail = format!("{} is missing ({}); Linux 5.15 has it", part.name, part.purpose);
            Finding::no(IO_URING, detail)
        }
    };
    let parts = features.list.iter().map(|part| {
        let need = if part.required { "needed" } else { "an optimization" };
        Finding::of(format!("io-uring {}", part.name), part.available, format!("{} ({need})", part.purpose))
    });
    std::iter::once(whole).chain(parts).collect()
}
