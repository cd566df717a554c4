//! positions: queued >= sent >= received >= applied >= synced.

use super::*;

impl World {
    pub(in crate::world) fn check_positions(&mut self) {
        let p = self.primary.snapshot().positions;
        if !(p.queued >= p.sent && p.sent >= p.received && p.received >= p.applied && p.applied >= p.synced) {
            self.fail(format!("positions: {p:?}"));
        }
    }
}
