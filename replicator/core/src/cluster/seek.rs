//! What a node does that is not active: it receives, waits, or tries to become active.

use super::controller::{Authority, Controller, Yielding};
use super::election::{Candidate, Elected, elect, is_not_behind};
use super::posture::Thing;
use super::types::{Cause, CopyState, Policy, Report, Role};
use crate::ids::Term;
use crate::reunion::Side;

impl Controller {
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
        let able = self.runs() && self.blocked.is_none() && self.is_able();
        Candidate { copy, able, was_active: self.standing.was_active, node: self.config.node }
    }

    fn elected(&self, copy: CopyState, peer: &Report) -> Option<Elected> {
        let able = peer.started && peer.able;
        let theirs =
            Candidate { copy: peer.copy?, able, was_active: peer.was_active, node: self.config.peer };
        Some(elect(&self.candidate(copy), &theirs, self.config.default_primary))
    }

    /// Whether this node may try to become active.
    pub(super) fn may_seek(&self) -> bool {
        self.runs()
            && self.leaving.is_none()
            && self.yielding.is_none()
            && self.blocked.is_none()
            && !self.standing.standby
            && self.copy.is_some()
    }

    pub(super) fn seek(&mut self) {
        if self.standing.standby {
            self.cause = Cause::OnStandby;
        }
        if let Some(blocked) = self.blocked {
            self.cause = blocked;
        }
        // What receives has ended, and its record is about to be read.
        let Some(copy) = self.copy else { return };
        if !self.may_seek() {
            (self.asking, self.wish, self.deaf) = (None, None, false);
            return;
        }
        if !self.able {
            self.cause = Cause::NotAble;
            (self.asking, self.wish, self.deaf) = (None, None, false);
            return;
        }
        match self.peer.report.filter(|_| self.peer.alive) {
            Some(report) => self.seek_with(copy, &report),
            None => self.seek_without(copy),
        }
    }

    /// The peer is there.
    fn seek_with(&mut self, copy: CopyState, peer: &Report) {
        (self.asking, self.deaf) = (None, false);
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
        let receiving =
            self.posture.role == Some(Role::Secondary) && (self.posture.mirror == Thing::On || self.deaf);
        let waited = match self.peer.lost_at {
            // Lost is who is heard neither by heartbeats nor by the mirror.
            Some(at) => {
                let at = self.parted_at.map_or(at, |parted| parted.max(at));
                self.now.since(at) >= self.config.handicap
            }
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
        if self.peer.report.and_then(|report| report.active) > Some(copy.term) {
            // The peer went on without this node, which has nothing of that yet. To ask for a term beyond the peer's would leave that out.
            self.cause = Cause::PeerNewer;
            return;
        }
        let next = copy.term.next();
        match self.config.policy {
            Policy::Manual => self.cause = Cause::OperatorNeeded,
            // Without an arbiter only who was there to the last knows that nobody went on without it.
            Policy::AvailabilityFirst if !self.config.arbiter && !receiving => {
                self.cause = Cause::OperatorNeeded
            }
            Policy::ConsistencyFirst if !self.config.arbiter => self.cause = Cause::ArbiterMissing,
            Policy::AvailabilityFirst | Policy::ConsistencyFirst => {
                // What receives ends first, so that no session is opened, and no resync begun, while the grant is on its way: the copy is
                // still what it was when the grant comes.
                self.deaf = true;
                if self.posture.mirror == Thing::Off {
                    self.arbitrate(next);
                }
            }
        }
    }

    pub(super) fn become_active(&mut self, term: Term, cause: Cause) {
        debug_assert!(!self.standing.standby, "on standby, and becomes active");
        (self.wish, self.asking, self.deaf) = (None, None, false);
        self.insists = false;
        self.tell(cause);
        self.cause = Cause::Starting;
        self.authority = Some(Authority { term, alone: true, force: false });
        self.remember();
    }

    /// The peer wants to be active without this node, or at all.
    pub(super) fn answer_wish(&mut self) {
        // A wish of one who is not there any more may be over: it may have been refused by the arbiter since.
        let Some(peer) = self.peer.report.filter(|_| self.peer.alive) else { return };
        let (Some(term), Some(copy)) = (peer.wants, self.copy) else { return };
        let given = copy.yields().is_some_and(|yields| yields >= term);
        if given || term <= copy.term || self.leaving.is_some() || self.yielding.is_some() {
            return;
        }
        let agreed = match (peer.active, self.elected(copy, &peer)) {
            (Some(_), _) => !(copy.is_whole() && copy.alone),
            (None, Some(Elected::Side(Side::Peer))) => true,
            // Where both were told to be active the same one goes first on both.
            (None, _) => peer.insists && copy.is_new() && !(self.insists && self.goes_first()),
        };
        if agreed {
            (self.asking, self.wish, self.insists) = (None, None, false);
            self.yielding = Some(Yielding { term: self.free_term(term), ordered: false });
        }
    }
}
