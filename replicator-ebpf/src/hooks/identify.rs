//! Run once by the daemon itself, attached to nothing.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::info;

#[raw_tracepoint]
pub fn identify(context: RawTracePointContext) -> i32 {
    crate::emit::identify(context.tgid());
    info!(&context, "kernel programs answer; the daemon is process {}", context.tgid());
    0
}
