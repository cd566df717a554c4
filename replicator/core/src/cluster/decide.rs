//! What follows from what is known.

use super::controller::{After, Asking, Controller, Leaving, Wish, Yielding, Yields};
use super::posture::{Haste, Step, Thing};
use super::types::{Action, Cause, CopyState, Policy, Report, Role};
use crate::ids::Term;

impl Controller {
    /// Look at everything once more; append what is to be done.
    pub(super) fn review(&mut self) {
        self.cause = Cause::None;
        self.finish_leaving();
        self.finish_yielding();
        self.fence();
        self.give_back();
        if self.authority.is_some() {
            self.go_on();
            self.fail_back();
        } else {
            self.wish = self.wish.filter(|_| self.peer.alive);
            self.answer_wish();
            self.seek();
        }
        self.finish_yielding();
        self.steps();
        self.publish();
    }

    // ---- leaving -------------------------------------------------------------------------------------------

    fn finish_leaving(&mut self) {
        let Some(leaving) = self.leaving.filter(|_| self.posture.is_off()) else { return };
        // A start that was given up does not count as one that failed.
        self.leaving = None;
        let to = match leaving.yields {
            Yields::No => None,
            Yields::To(term) => Some(term),
            Yields::IfDrained(term) if self.posture.drained == Some(true) && !self.peer_is_behind() => {
                Some(term)
            }
            Yields::IfDrained(_) if self.runs() => {
                // The peer lacks something: this node goes on.
                self.retry_later();
                self.stand_by_no_more();
                return;
            }
            Yields::IfDrained(_) => None,
        };
        if let Some(term) = to {
            // The right to be active ends when that is durable; until then nobody else may have it.
            self.yielding = Some(Yielding { term, ordered: false });
        } else if leaving.after == After::Wait {
            self.authority = None;
            self.suspended = false;
            self.remember();
        }
    }

    fn finish_yielding(&mut self) {
        let Some(yielding) = self.yielding.filter(|yielding| !yielding.ordered) else { return };
        let Some(copy) = self.copy.filter(|_| self.posture.is_off() && self.leaving.is_none()) else {
            return;
        };
        let given = copy.yields().is_some_and(|term| term >= yielding.term);
        // Both at once would leave nobody who may be active: the peer yielded first, or its copy is not whole any more.
        if given || (copy.is_whole() && self.peer_is_behind()) {
            if !given {
                self.stand_by_no_more();
            }
            self.yielding = None;
            self.authority = None;
            self.suspended = false;
            self.remember();
            return;
        }
        if self.retry_at.is_some_and(|at| at > self.now) {
            return;
        }
        (self.asking, self.wish) = (None, None);
        self.yielding = Some(Yielding { ordered: true, ..yielding });
        self.out.push(Action::Outdate(yielding.term));
    }

    /// The peer's copy is durably not whole, and it is not active.
    fn peer_is_behind(&self) -> bool {
        let behind = |report: &Report| {
            report.active.is_none() && report.copy.is_some_and(|copy| !copy.is_whole() && !copy.is_new())
        };
        self.peer.alive && self.peer.report.as_ref().is_some_and(behind)
    }

    // ---- active --------------------------------------------------------------------------------------------

    /// Two are active: one of them was refused, forced aside, or did not run for a while.
    fn fence(&mut self) {
        let (Some(authority), Some(theirs)) =
            (self.authority, self.peer.report.as_ref().and_then(Report::claims))
        else {
            return;
        };
        let fenced = self.leaving.is_some_and(|leaving| leaving.haste == Haste::Fenced);
        let same = theirs == authority.term && !self.goes_first();
        if fenced || self.yielding.is_some() || (theirs <= authority.term && !same) {
            return;
        }
        self.tell(Cause::PeerActive);
        let term = theirs.max(authority.term);
        self.leaving = Some(Leaving { haste: Haste::Fenced, yields: Yields::To(term), after: After::Wait });
    }

    /// While what received was being stopped a session was opened after all, and began a resync: the copy is not any more what the right to be
    /// active was for.
    fn give_back(&mut self) {
        let Some(authority) = self.authority else { return };
        let begun = self.posture.role == Some(Role::Primary) && self.posture.mirror != Thing::Off;
        let behind = self.copy.is_some_and(|copy| !copy.is_whole() && !copy.is_new());
        if behind && !begun && !authority.force && self.leaving.is_none() && self.yielding.is_none() {
            self.tell(Cause::NotWhole);
            self.authority = None;
            self.suspended = false;
            self.remember();
        }
    }

    /// Of two that are the same in all that counts.
    pub(super) fn goes_first(&self) -> bool {
        match self.config.default_primary {
            Some(default) if default == self.config.node => true,
            Some(default) if default == self.config.peer => false,
            _ => self.config.node < self.config.peer,
        }
    }

    /// The mirror holds callers until it may go on alone.
    fn go_on(&mut self) {
        let Some(authority) = self.authority else { return };
        let serves = (self.posture.mirror, self.posture.role) == (Thing::On, Some(Role::Primary));
        let yielded =
            self.peer.report.and_then(|report| report.yields()).filter(|term| *term > authority.term);
        // Who runs alone does not ask; but a peer that yielded to a higher term would refuse it with the one that it has.
        let unrecorded = self.copy.is_some_and(|copy| copy.term < authority.term);
        let behind = (yielded.is_some() || unrecorded) && !self.mirror.connected;
        let asks = self.mirror.asks || behind;
        if self.leaving.is_some() || self.yielding.is_some() || !serves || !asks {
            (self.wish, self.asking) = (None, None);
            return;
        }
        if unrecorded {
            // Granted, and not yet on the mirror's record. A grant is for good, so saying it twice is the same.
            self.out.push(Action::GoAlone(authority.term));
            return;
        }
        let next = authority.term.next();
        if let Some(term) = yielded {
            self.grant(term, Cause::PeerYielded);
        } else if self.config.policy == Policy::Manual {
            self.grant(next, Cause::PolicyAlone);
        } else if self.peer.alive && !self.wish_is_late() {
            self.cause = Cause::WaitsForPeer;
            self.want(next);
        } else {
            self.arbitrate(next);
        }
    }

    fn grant(&mut self, term: Term, cause: Cause) {
        (self.wish, self.asking) = (None, None);
        self.tell(cause);
        if let Some(authority) = &mut self.authority {
            authority.term = term;
        }
        self.out.push(Action::GoAlone(term));
        self.resume();
    }

    pub(super) fn want(&mut self, term: Term) {
        if self.wish.is_none_or(|wish| wish.term != term) {
            self.wish = Some(Wish { term, since: self.now });
        }
    }

    fn wish_is_late(&self) -> bool {
        self.wish.is_some_and(|wish| self.now.since(wish.since) >= self.config.yield_limit)
    }

    pub(super) fn arbitrate(&mut self, term: Term) {
        let availability = self.config.policy == Policy::AvailabilityFirst;
        if !self.config.arbiter {
            if availability {
                self.by_policy(term);
            } else {
                self.cause = Cause::ArbiterMissing;
            }
            return;
        }
        if self.asking.is_some_and(|asking| asking.unreachable) {
            self.cause = Cause::ArbiterSilent;
            if availability {
                self.by_policy(term);
                return;
            }
        }
        // Of one that was given to this node, and of which it does not know, a higher one than the next may be asked for.
        let term = self.asking.map_or(term, |asking| asking.term.max(term));
        let due = self
            .asking
            .is_none_or(|asking| !asking.under_way && (asking.again_at <= self.now || asking.term != term));
        if due {
            let unreachable = self.asking.is_some_and(|asking| asking.unreachable);
            self.asked = self.asked.max(term);
            self.asking = Some(Asking { term, under_way: true, again_at: self.now, unreachable });
            self.out.push(Action::AskArbiter(term));
        }
    }

    /// Without anybody's consent. Both may do so at the same moment: the one that was active takes the higher term.
    fn by_policy(&mut self, term: Term) {
        if self.authority.is_some() {
            self.grant(term.next(), Cause::PolicyAlone);
        } else {
            self.become_active(term, Cause::PolicyAlone);
        }
    }

    /// The arbiter gave this node a term.
    pub(super) fn won(&mut self, term: Term) {
        let whole = self.copy.as_ref().is_some_and(CopyState::is_whole);
        match self.authority {
            Some(authority) if term > authority.term => self.grant(term, Cause::ArbiterWon),
            Some(_) => {}
            // Where a session was opened meanwhile, the peer is there after all.
            None if self.may_seek() && !self.mirror.connected && whole => {
                self.become_active(term, Cause::ArbiterWon);
            }
            None => {}
        }
    }

    /// The arbiter gave a term to another, or to this node when it was another.
    pub(super) fn lost(&mut self, term: Term, own: bool) {
        if own {
            if self.authority.is_some() {
                let again_at = self.now;
                self.asking = Some(Asking { term, under_way: false, again_at, unreachable: false });
            } else {
                self.tell(Cause::RecordOlder);
                self.blocked = Some(Cause::RecordOlder);
            }
            return;
        }
        self.tell(Cause::ArbiterLost);
        if self.peer.alive && !self.wish_is_late() {
            // It was not when the arbiter was asked. The peer may have given up what it was granted, and be about to yield: if both did so,
            // nobody could be active. It says itself whether it is.
            return;
        }
        if self.authority.is_some() {
            let yields = Yields::To(term);
            self.leaving = Some(Leaving { haste: Haste::Fenced, yields, after: After::Wait });
        } else if self.copy.as_ref().is_some_and(CopyState::is_whole) {
            self.yielding = Some(Yielding { term, ordered: false });
        }
    }

    /// A term to leave to the peer, at least this one. One that this node asked for may be its own at the arbiter, though the answer never came: the
    /// peer, if it forgets that it was left to it, would be refused there.
    pub(super) fn free_term(&self, term: Term) -> Term {
        if self.asked >= term { self.asked.next() } else { term }
    }

    /// The configured primary takes its role back.
    fn fail_back(&mut self) {
        let Some((span, since)) = self.config.failback_after.zip(self.mirrored_since) else { return };
        let theirs = self.config.default_primary == Some(self.config.peer);
        let calm = self.leaving.is_none() && self.yielding.is_none() && self.posture.is_at(self.goal());
        if theirs && calm && self.mirror.mirrored && self.peer_is_ready() && self.now.since(since) >= span {
            self.tell(Cause::Failback);
            self.leave_to_peer();
        }
    }

    // ---- steps ---------------------------------------------------------------------------------------------

    fn steps(&mut self) {
        let waits = self.retry_at.is_some_and(|at| at > self.now);
        if self.suspended && self.posture.addresses == Thing::On {
            self.step(Step::GiveUpAddresses);
        }
        if self.restart_application {
            match self.posture.application {
                Thing::On => self.step(Step::StopApplication { force: false }),
                Thing::Starting | Thing::Stopping | Thing::Unclear => {}
                Thing::Off => self.restart_application = false,
            }
        }
        let haste = self.leaving.map_or(Haste::None, |leaving| leaving.haste);
        // Each step changes the posture, and no more can be under way than there are things.
        for _ in 0..6 {
            let Some(step) = self.posture.next(self.goal(), haste) else { return };
            let starts =
                matches!(step, Step::StartMirror { .. } | Step::TakeAddresses | Step::StartApplication);
            let again = matches!(step, Step::StopApplication { force: true }) && haste != Haste::Fenced;
            let uncertain = step == Step::StartApplication && !self.is_proven();
            if (waits && (starts || again)) || (self.suspended && step == Step::TakeAddresses) || uncertain {
                return;
            }
            self.step(step);
        }
    }

    /// Nobody else can be active: the peer receives what this node has, or it is on record that this node does without it. A primary that was
    /// started again and has neither may have been replaced meanwhile.
    fn is_proven(&self) -> bool {
        let alone = self
            .copy
            .zip(self.authority)
            .is_some_and(|(copy, authority)| copy.alone && copy.term >= authority.term);
        !self.suspended && !self.mirror.asks && (self.mirror.connected || alone)
    }

    fn step(&mut self, step: Step) {
        self.posture.begin(step);
        self.out.push(Action::Step(step));
    }
}
