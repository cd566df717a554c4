//! What the primary's state record says, and what may be done only after it does.

use crate::action::{CloseReason, DataState, Notice, Phase};
use crate::config::WhenAlone;
use crate::ids::{Errno, PersistId, Term};

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
        let deposed = self.deposed.is_some();
        if self.session.is_none() && self.phase == Phase::Holding && self.is_alone() && !deposed {
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
        // What was permitted was so until now.
        self.permitted = self.config.when_alone != WhenAlone::Ask;
    }

    /// Whether callers are answered without the peer: that is on record, and nobody is to be asked.
    pub(super) fn is_alone(&self) -> bool {
        self.permitted && self.record.says_alone()
    }

    /// Before the peer may take itself for up to date: the record must not say any more that this node runs alone, or a crash would let it go
    /// on by that record beside a peer that was promoted. Whether that is durable.
    pub(super) fn forsakes_alone(&mut self) -> bool {
        if self.config.when_alone != WhenAlone::Ask {
            return true;
        }
        self.record.wanted.alone = false;
        self.record.says_not_alone()
    }

    /// The peer did not come to be up to date: what was permitted is so still.
    pub(super) fn take_back_alone(&mut self) {
        if self.config.when_alone == WhenAlone::Ask && self.permitted {
            self.record.wanted.alone = true;
        }
    }

    /// There is no session: go on alone, or hold. `exposed`: the peer may take itself for up to date, so that going on
    /// alone begins a new history.
    pub(super) fn decide_without_peer(&mut self, exposed: bool) {
        let asks = self.config.when_alone == WhenAlone::Ask;
        if asks && exposed {
            // The peer may be promoted now: another absence begins, for which nobody has said anything.
            self.permitted = false;
            self.record.wanted.alone = false;
            self.absence += 1;
        }
        if self.deposed.is_some() {
            self.set_phase(Phase::Holding);
            return;
        }
        let was_alone = self.record.wanted.alone;
        if was_alone && !exposed {
            self.set_phase(if self.is_alone() { Phase::Alone } else { Phase::Holding });
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

    /// A peer with this higher term was heard.
    pub(super) fn depose(&mut self, term: Term) {
        if self.deposed.is_none_or(|known| known < term) {
            self.deposed = Some(term);
            self.report(Notice::Deposed { term });
        }
    }

    /// The number of the absence for which this node has to be told that it may go on alone, if it has.
    pub(super) fn asks(&self) -> Option<u64> {
        let asks = self.config.when_alone == WhenAlone::Ask && !self.stopping;
        let told = self.permitted && self.record.wanted.alone && self.deposed.is_none();
        let ending = self.session.as_ref().is_some_and(|session| session.resync.holds_callers());
        (asks && !told && !ending && !self.is_exposed()).then_some(self.absence)
    }

    /// Whether the peer may take itself for up to date in the present session.
    fn is_exposed(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.resync.is_exposed())
    }

    /// It was told so and it is on record, and nobody is there whom it could be exposed to: a higher term takes nothing from anybody.
    fn is_alone_for_good(&self) -> bool {
        self.config.when_alone == WhenAlone::Ask
            && !self.stopping
            && self.session.is_none()
            && self.deposed.is_none()
            && self.is_alone()
    }

    pub(super) fn on_go_alone(&mut self, term: Term, absence: Option<u64>) {
        let heard = self.deposed.unwrap_or_default().max(self.record.wanted.term);
        let present = self.asks().is_some_and(|asks| absence.is_none_or(|absence| absence == asks));
        if !(present || absence == Some(0) && self.is_alone_for_good() && term > heard) || term < heard {
            return;
        }
        // Whoever spoke of this term spoke of this primacy.
        self.deposed = None;
        // What was told of this node's data and its term is not so any more.
        self.end_greeting(CloseReason::GoingAlone);
        self.close(CloseReason::GoingAlone);
        let (was_alone, tag) = (self.record.wanted.alone, self.draw_tag());
        let wanted = &mut self.record.wanted;
        wanted.term = term;
        wanted.alone = true;
        wanted.lineage.begin_generation(tag, !was_alone);
        (self.permitted, self.review) = (true, true);
        self.set_phase(Phase::Holding);
    }
}
