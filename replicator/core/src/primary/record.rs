//! What the primary's state record says, and what may be done only after it does.

use crate::action::{DataState, Notice, Phase};
use crate::config::WhenAlone;
use crate::ids::{Errno, PersistId};

use super::Primary;

impl Primary {
    /// Order the wanted record to be made durable, if it is not.
    pub(super) fn persist(&mut self) {
        let order = self.record.order(self.now);
        self.out.extend(order);
    }

    pub(super) fn on_state_persisted(&mut self, persist: PersistId, result: Result<(), Errno>) {
        let Some(result) = self.record.answered(persist, result, self.now) else { return };
        self.review = true;
        if let Err(errno) = result {
            self.report(Notice::PersistFailed { errno });
        }
        if self.session.is_none() && self.phase == Phase::Holding && self.record.says_alone() && !self.deposed
        {
            self.set_phase(Phase::Alone);
        }
    }

    /// Want the record that both nodes hold everything.
    pub(super) fn want_mirrored(&mut self) {
        let wanted = &mut self.record.wanted;
        wanted.alone = false;
        wanted.data = DataState::UpToDate;
        wanted.lineage.share();
        (wanted.crashed, wanted.lost) = (false, false);
    }

    /// There is no session: go on alone, or hold. `exposed`: the peer may take itself for up to date, so that going on
    /// alone begins a new history.
    pub(super) fn decide_without_peer(&mut self, exposed: bool) {
        if self.deposed {
            self.set_phase(Phase::Holding);
            return;
        }
        let was_alone = self.record.wanted.alone;
        if was_alone && !exposed {
            self.set_phase(if self.record.says_alone() { Phase::Alone } else { Phase::Holding });
            return;
        }
        self.set_phase(Phase::Holding);
        let may = self.config.when_alone == WhenAlone::Release && !self.stopping;
        if may || was_alone {
            let tag = self.draw_tag();
            self.record.wanted.alone = true;
            self.record.wanted.lineage.begin_generation(tag, exposed || !was_alone);
        }
    }
}
