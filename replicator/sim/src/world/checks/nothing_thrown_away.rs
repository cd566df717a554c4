//! nothing-thrown-away: what a losing node had is kept aside before it is overwritten.

use super::*;

impl World {
    /// A primary that does not know what the secondary has replaces it by an operator's word alone, and then what the secondary has is
    /// kept aside.
    pub(in crate::world) fn check_begin(&mut self, session: SessionId, sequence: Sequence) {
        let Some((header, _)) = self.payloads.get(&(session, sequence)) else { return };
        let present = self.link.as_ref().is_some_and(|link| link.secondary == session && link.primary_up);
        if !matches!(header.kind, Kind::ResyncBegin | Kind::ResumeBegin) || !present {
            return;
        }
        self.restored = false;
        // One that was the primary, and has what the present one has not.
        let had = self.controller.as_mut().and_then(|controller| controller.loser_had.take());
        if !self.stale && had.is_none() {
            return;
        }
        let kept = self.secondary_disk.record.get().keeping;
        if kept.is_none() || kept != self.keeping {
            let found = self.primary.snapshot().reunion;
            return self.fail(format!(
                "nothing-thrown-away: {found:?}, keeping {:?}, {kept:?}; {had:?}",
                self.keeping
            ));
        }
        self.stats.overruled += u64::from(self.stale);
        self.stale = false;
    }
}
