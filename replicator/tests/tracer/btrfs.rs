//! btrfs: in the tracepoint row a folio that becomes dirty is the only sign of a buffered write.

use std::os::unix::fs::FileExt;

use replicator::tracer::{Hook, Row};
use replicator_core::extent::Extent;

use crate::fixture::{Traced, assert_covered, file, row};
use crate::operations::{self, filled};

#[test]
fn everything() {
    let Some(mut traced) = Traced::new("btrfs", &[], "") else { return };
    if row() == Row::Tracepoints {
        let path = traced.image.directory("clean").join("file");
        let target = filled(&path, 100_000);
        let seen = traced.during(|| target.write_all_at(b"abc", 5000).expect("pwrite"));
        let hook = Some(Hook::WritebackDirtyFolio);
        assert_covered("a write to a clean page", &seen, file(&path), Extent::at(5000, 3), hook);
    } else {
        operations::buffered(&mut traced, None);
        operations::copied(&mut traced, None);
    }
    operations::mapped(&mut traced);
    operations::direct(&mut traced);
    operations::synced(&mut traced);
}
