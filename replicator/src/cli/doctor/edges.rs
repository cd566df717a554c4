//! What only the edges can find out, by trying: kernel programs, FUSE protocol and passthrough, io_uring.

use super::finding::Finding;

/// Whether fentry/fexit programs may be loaded and attached.
pub const TRAMPOLINES: &str = "bpf-fentry";
/// Whether raw tracepoint programs may be loaded and attached.
pub const RAW_TRACEPOINTS: &str = "bpf-raw-tracepoints";
/// Whether the FUSE protocol of this kernel has passthrough.
pub const PASSTHROUGH: &str = "fuse-passthrough";
/// Whether a ring with all needed operations can be made.
pub const IO_URING: &str = "io-uring";

/// The probes of `tracer`, `gate` and `uring`.
pub fn findings() -> Vec<Finding> {
    let not_probed = "this build has no probe for it";
    [TRAMPOLINES, RAW_TRACEPOINTS, PASSTHROUGH, IO_URING]
        .into_iter()
        .map(|name| Finding::unknown(name, not_probed))
        .collect()
}
