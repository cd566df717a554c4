//! xfs.

use replicator::tracer::Hook;

use crate::fixture::Traced;
use crate::operations::{self, Shape};

#[test]
fn everything() {
    let Some(mut traced) = Traced::new("xfs", &[], "") else { return };
    operations::buffered(&mut traced, Some(Hook::XfsFileBufferedWrite));
    operations::copied(&mut traced, Some(Hook::XfsReflinkRemapRange));
    operations::mapped(&mut traced);
    operations::direct(&mut traced);
    operations::synced(&mut traced);
    operations::shape(
        &mut traced,
        &Shape {
            allocate: Some(Hook::XfsAllocFileSpace),
            punch: Some(Hook::XfsFreeFileSpace),
            zero: Some(Hook::XfsZeroFileSpace),
            collapse: Some(Hook::XfsCollapseFileSpace),
            insert: Some(Hook::XfsInsertFileSpace),
            truncate: Some(Hook::XfsSetattr),
        },
    );
}
