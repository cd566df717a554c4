//! What a node says of itself.

use alloc::boxed::Box;

use super::controller::{Authority, Controller};
use super::posture::Thing;
use super::types::{Action, Cause, Readiness, Report, Role, Word};
use crate::ids::Term;

impl Controller {
    pub(super) fn publish(&mut self) {
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
            able: self.is_able(),
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
            // One on standby takes nothing over.
            let ready = self.mirror.mirrored && !self.standing.standby;
            return (Word::Secondary, if ready { Readiness::Ready } else { Readiness::Transient });
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
                | Cause::OnStandby
        );
        (
            Word::Waiting,
            if stuck || self.blocked.is_some() { Readiness::NotReady } else { Readiness::Transient },
        )
    }
}
