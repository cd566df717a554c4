//! What follows from what is known.

use alloc::boxed::Box;

use super::controller::{After, Asking, Authority, Controller, Leaving, Wish, Yielding, Yields};
use super::election::{Candidate, Elected, elect, is_not_behind};
use super::posture::{Haste, Step, Thing};
use super::types::{Action, Cause, CopyState, Policy, Readiness, Report, Role, Word};
use crate::ids::Term;
use crate::reunion::Side;

impl Controller {
    /// Look at everything once more; append what is to be done.
    pub(super) fn review(&mut self) {
        self.cause = Cause::None;
        self.finish_leaving();
        self.finish_yielding();
        self.fence();
        if self.authority.is_some() {
            self.go_on();
            self.fail_back();
        } else {
            self.wish = self.wish.filter(|_| self.peer.alive);
            self.answer_wish();
            self.seek();
        }
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
            Yields::IfDrained(term) if self.posture.drained == Some(true) => Some(term),
            Yields::IfDrained(_) if self.runs() => {
                // The peer lacks something: this node goes on.
                self.retry_later();
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
        if copy.yields().is_some_and(|term| term >= yielding.term) {
            self.yielding = None;
            self.authority = None;
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

    // ---- active --------------------------------------------------------------------------------------------

    /// Two are active: one of them was refused, forced aside, or did not run for a while.
    fn fence(&mut self) {
        let (Some(authority), Some(theirs)) =
            (self.authority, self.peer.report.and_then(|report| report.active))
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

    /// Of two that are the same in all that counts.
    fn goes_first(&self) -> bool {
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
        if self.leaving.is_some() || self.yielding.is_some() || !serves || !self.mirror.asks {
            (self.wish, self.asking) = (None, None);
            return;
        }
        if self.copy.is_some_and(|copy| copy.term < authority.term) {
            // Granted, and not yet on the mirror's record. A grant is for good, so saying it twice is the same.
            self.out.push(Action::GoAlone(authority.term));
            return;
        }
        let next = authority.term.next();
        if let Some(term) = self.peer.report.and_then(|report| report.yields()).filter(|term| *term >= next) {
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

    fn want(&mut self, term: Term) {
        if self.wish.is_none_or(|wish| wish.term != term) {
            self.wish = Some(Wish { term, since: self.now });
        }
    }

    fn wish_is_late(&self) -> bool {
        self.wish.is_some_and(|wish| self.now.since(wish.since) >= self.config.yield_limit)
    }

    fn arbitrate(&mut self, term: Term) {
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
        match self.authority {
            Some(authority) if term > authority.term => self.grant(term, Cause::ArbiterWon),
            Some(_) => {}
            None if self.may_seek() => self.become_active(term, Cause::ArbiterWon),
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
        if self.authority.is_some() {
            let yields = Yields::To(term);
            self.leaving = Some(Leaving { haste: Haste::Fenced, yields, after: After::Wait });
        } else if self.copy.as_ref().is_some_and(CopyState::is_whole) {
            self.yielding = Some(Yielding { term, ordered: false });
        }
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

    // ---- not active ----------------------------------------------------------------------------------------

    /// The mirror is to receive: the peer is active, with a term that this copy knows of or will.
    pub(super) fn receives(&self) -> bool {
        let known = self.copy.map_or(Term(0), |copy| copy.term);
        let running = self.posture.role == Some(Role::Secondary) && self.posture.mirror != Thing::Off;
        match self.peer.report.and_then(|report| report.active) {
            // It would be told that its primacy is over, while it is about to learn the term that was left to it.
            Some(theirs) => theirs >= known,
            None => running,
        }
    }

    pub(super) fn peer_active(&self) -> bool {
        self.peer.alive && self.peer.report.is_some_and(|report| report.active.is_some())
    }

    fn candidate(&self, copy: CopyState) -> Candidate {
        let able = self.runs() && self.blocked.is_none() && self.able;
        Candidate { copy, able, was_active: self.standing.was_active, node: self.config.node }
    }

    fn elected(&self, copy: CopyState, peer: &Report) -> Option<Elected> {
        let able = peer.started && peer.able;
        let theirs =
            Candidate { copy: peer.copy?, able, was_active: peer.was_active, node: self.config.peer };
        Some(elect(&self.candidate(copy), &theirs, self.config.default_primary))
    }

    /// Whether this node may try to become active.
    fn may_seek(&self) -> bool {
        self.runs()
            && self.leaving.is_none()
            && self.yielding.is_none()
            && self.blocked.is_none()
            && self.copy.is_some()
    }

    fn seek(&mut self) {
        if let Some(blocked) = self.blocked {
            self.cause = blocked;
        }
        if !self.may_seek() {
            (self.asking, self.wish) = (None, None);
            return;
        }
        let Some(copy) = self.copy else { return };
        if !self.able {
            self.cause = Cause::NotAble;
            (self.asking, self.wish) = (None, None);
            return;
        }
        match self.peer.report.filter(|_| self.peer.alive) {
            Some(report) => self.seek_with(copy, &report),
            None => self.seek_without(copy),
        }
    }

    /// The peer is there.
    fn seek_with(&mut self, copy: CopyState, peer: &Report) {
        self.asking = None;
        if let Some(theirs) = peer.active {
            (self.wish, self.insists) = (None, false);
            self.cause = if theirs < copy.term { Cause::WaitsForPeer } else { Cause::Syncing };
            return;
        }
        let Some(theirs) = peer.copy else {
            self.cause = Cause::WaitsForPeer;
            return;
        };
        let first = self.insists && copy.is_new() && theirs.is_new();
        let fresh = (copy.is_whole() && is_not_behind(&copy, &theirs)) || first;
        let yielded = peer.yields().filter(|term| *term > copy.term);
        if let Some(term) = yielded.filter(|_| fresh) {
            self.become_active(term, Cause::PeerYielded);
            return;
        }
        if copy.is_whole() && copy.alone && !theirs.alone && is_not_behind(&copy, &theirs) {
            self.become_active(copy.term, Cause::SoleSurvivor);
            return;
        }
        match self.elected(copy, peer) {
            _ if first => self.want(copy.term.max(theirs.term).next()),
            Some(Elected::Side(Side::Here)) => {
                self.cause = Cause::Elected;
                self.want(copy.term.max(theirs.term).next());
            }
            Some(Elected::Side(Side::Peer)) => {
                self.wish = None;
                // A peer that could be active and does not want to: this one may if an operator says so, and both hold the same.
                self.cause = if peer.started && peer.able { Cause::WaitsForPeer } else { Cause::PeerNewer };
            }
            Some(Elected::Operator) | None => {
                self.wish = None;
                self.cause = if copy.is_whole() { Cause::OperatorNeeded } else { Cause::NotWhole };
                if copy.is_new() && theirs.is_new() {
                    self.cause = Cause::OperatorNeeded;
                }
            }
        }
    }

    /// The peer is not heard, or does not hear.
    fn seek_without(&mut self, copy: CopyState) {
        self.wish = None;
        let receiving = (self.posture.mirror, self.posture.role) == (Thing::On, Some(Role::Secondary));
        let waited = match self.peer.lost_at {
            Some(at) => self.now.since(at) >= self.config.handicap,
            None => self.now.since(self.began) >= self.config.boot_wait,
        };
        self.cause = Cause::WaitsForPeer;
        if self.mirror.connected || !waited {
            return;
        }
        if !copy.is_whole() {
            self.cause = if copy.is_new() { Cause::OperatorNeeded } else { Cause::NotWhole };
            return;
        }
        if copy.alone {
            self.become_active(copy.term, Cause::SoleSurvivor);
            return;
        }
        let heard = self.peer.report.and_then(|report| report.active).unwrap_or_default();
        let next = copy.term.max(heard).next();
        match self.config.policy {
            Policy::Manual => self.cause = Cause::OperatorNeeded,
            // Without an arbiter only who was there to the last knows that nobody went on without it.
            Policy::AvailabilityFirst if !self.config.arbiter && !receiving => {
                self.cause = Cause::OperatorNeeded
            }
            Policy::AvailabilityFirst | Policy::ConsistencyFirst => self.arbitrate(next),
        }
    }

    fn become_active(&mut self, term: Term, cause: Cause) {
        (self.wish, self.asking) = (None, None);
        self.insists = false;
        self.tell(cause);
        self.cause = Cause::Starting;
        self.authority = Some(Authority { term, alone: true, force: false });
        self.remember();
    }

    /// The peer wants to be active without this node, or at all.
    fn answer_wish(&mut self) {
        let Some(peer) = self.peer.report else { return };
        let (Some(term), Some(copy)) = (peer.wants, self.copy) else { return };
        let given = copy.yields().is_some_and(|yields| yields >= term);
        if given || term <= copy.term || self.leaving.is_some() || self.yielding.is_some() {
            return;
        }
        let agreed = match (peer.active, self.elected(copy, &peer)) {
            (Some(_), _) => !(copy.is_whole() && copy.alone),
            (None, Some(Elected::Side(Side::Peer))) => true,
            (None, _) => peer.insists && copy.is_new(),
        };
        if agreed {
            (self.asking, self.wish) = (None, None);
            self.yielding = Some(Yielding { term, ordered: false });
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
            if (waits && (starts || again)) || (self.suspended && step == Step::TakeAddresses) {
                return;
            }
            self.step(step);
        }
    }

    fn step(&mut self, step: Step) {
        self.posture.begin(step);
        self.out.push(Action::Step(step));
    }

    // ---- what is said --------------------------------------------------------------------------------------

    fn publish(&mut self) {
        let report = self.describe();
        if self.published != Some(report) {
            self.published = Some(report);
            self.out.push(Action::Publish(Box::new(report)));
        }
    }

    pub(super) fn describe(&self) -> Report {
        let (word, readiness) = self.word();
        Report {
            word,
            readiness,
            cause: self.cause,
            started: self.runs() && self.blocked.is_none(),
            able: self.able,
            active: self.authority.map(|authority| self.durable_term(authority)),
            copy: self.copy,
            mirrored: self.mirror.mirrored,
            wants: self.wish.map(|wish| wish.term),
            insists: self.insists,
            was_active: self.standing.was_active,
        }
    }

    /// A term that was granted while this node is active is told when the mirror has it on record: a secondary that knew it
    /// before would refuse the mirror.
    fn durable_term(&self, authority: Authority) -> Term {
        let serves = (self.posture.mirror, self.posture.role) == (Thing::On, Some(Role::Primary));
        match self.copy {
            Some(copy) if serves => copy.term.min(authority.term),
            _ => authority.term,
        }
    }

    fn word(&self) -> (Word, Readiness) {
        let reached = self.posture.is_at(self.goal()) && self.leaving.is_none() && self.yielding.is_none();
        if self.authority.is_some() {
            let word = if self.mirror.mirrored { Word::Primary } else { Word::Alone };
            let readiness = match () {
                () if !reached || self.suspended => Readiness::Transient,
                () if self.mirror.asks => Readiness::NotReady,
                () => Readiness::Ready,
            };
            return (word, readiness);
        }
        if !self.runs() {
            let readiness = if self.posture.is_off() { Readiness::NotReady } else { Readiness::Transient };
            return (Word::Stopped, readiness);
        }
        if reached && self.receives() {
            let readiness = if self.mirror.mirrored { Readiness::Ready } else { Readiness::Transient };
            return (Word::Secondary, readiness);
        }
        let stuck = matches!(
            self.cause,
            Cause::NotWhole
                | Cause::OperatorNeeded
                | Cause::PeerNewer
                | Cause::NotAble
                | Cause::BudgetSpent
                | Cause::ArbiterMissing
                | Cause::RecordOlder
        );
        (
            Word::Waiting,
            if stuck || self.blocked.is_some() { Readiness::NotReady } else { Readiness::Transient },
        )
    }
}
