//! ext4, in the modes that differ in which code writes.

use replicator::tracer::Hook;

use crate::fixture::{Traced, kernel_is_at_least, not_run};
use crate::operations::{self, Shape};

const SHAPE: Shape = Shape {
    allocate: Some(Hook::Ext4FallocateExit),
    punch: Some(Hook::Ext4PunchHole),
    zero: Some(Hook::Ext4ZeroRange),
    collapse: Some(Hook::Ext4CollapseRange),
    insert: Some(Hook::Ext4InsertRange),
    truncate: Some(Hook::Ext4TruncateEnter),
};

fn everything(traced: &mut Traced, hook: Hook) {
    operations::buffered(traced, Some(hook));
    operations::copied(traced, Some(hook));
    operations::mapped(traced);
    operations::direct(traced);
    operations::synced(traced);
}

#[test]
fn default_mode() {
    let Some(mut traced) = Traced::new("ext4", &[], "") else { return };
    everything(&mut traced, Hook::Ext4DaWriteEnd);
    operations::shape(&mut traced, &SHAPE);
}

#[test]
fn without_delayed_allocation() {
    let Some(mut traced) = Traced::new("ext4", &[], "nodelalloc") else { return };
    everything(&mut traced, Hook::Ext4WriteEnd);
}

#[test]
fn without_journal() {
    let Some(mut traced) = Traced::new("ext4", &["-O", "^has_journal"], "") else { return };
    everything(&mut traced, Hook::Ext4DaWriteEnd);
}

#[test]
fn journalled_data() {
    if !kernel_is_at_least(6, 3) {
        return not_run(
            "before Linux 6.3, a store to a mapping does not make the folio dirty with data=journal",
        );
    }
    let Some(mut traced) = Traced::new("ext4", &[], "data=journal") else { return };
    everything(&mut traced, Hook::Ext4JournalledWriteEnd);
}

#[test]
fn inline_data() {
    let Some(mut traced) = Traced::new("ext4", &["-I", "512", "-O", "inline_data"], "") else { return };
    everything(&mut traced, Hook::Ext4DaWriteEnd);
}

#[test]
fn small_blocks() {
    let Some(mut traced) = Traced::new("ext4", &["-b", "1024"], "") else { return };
    everything(&mut traced, Hook::Ext4DaWriteEnd);
    operations::shape(&mut traced, &SHAPE);
}
