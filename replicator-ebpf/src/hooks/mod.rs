//! The hooks. A program's name is the one that [`replicator_common::Hook`] gives.

mod attributes;
mod btrfs_sync;
mod copy;
mod create;
mod direct_io;
mod dirty_folio;
mod ext4_range;
mod ext4_sync;
mod ext4_write;
mod fallocate;
mod fault;
mod fsync;
mod generic_write_checks;
mod identify;
mod link;
mod open;
mod remove;
mod rename;
mod truncate;
mod vfs_write;
mod write_iter;
mod xfs_range;
mod xfs_sync;
mod xfs_write;

/// A program at a tracepoint: gets the tracepoint's [`Arguments`](crate::kernel::Arguments).
macro_rules! tracepoint {
    ($(#[$doc:meta])* $hook:ident, $name:ident => $body:expr) => {
        $(#[$doc])*
        #[aya_ebpf::macros::btf_tracepoint]
        pub fn $name(context: aya_ebpf::programs::BtfTracePointContext) -> i32 {
            let _: Option<()> =
                ($body)($crate::kernel::Arguments::new(&context, replicator_common::Hook::$hook));
            0
        }
    };
}
use tracepoint;

/// A program at the entry of a function.
macro_rules! on_entry {
    ($(#[$doc:meta])* $hook:ident, $name:ident => $body:expr) => {
        $(#[$doc])*
        #[aya_ebpf::macros::fentry]
        pub fn $name(context: aya_ebpf::programs::FEntryContext) -> i32 {
            let _: Option<()> =
                ($body)($crate::kernel::Arguments::new(&context, replicator_common::Hook::$hook));
            0
        }
    };
}
use on_entry;

/// A program at the exit of a function: its parameters, and what it returns as one more.
macro_rules! on_exit {
    ($(#[$doc:meta])* $hook:ident, $name:ident => $body:expr) => {
        $(#[$doc])*
        #[aya_ebpf::macros::fexit]
        pub fn $name(context: aya_ebpf::programs::FExitContext) -> i32 {
            let _: Option<()> =
                ($body)($crate::kernel::Arguments::new(&context, replicator_common::Hook::$hook));
            0
        }
    };
}
use on_exit;
