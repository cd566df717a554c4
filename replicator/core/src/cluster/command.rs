//! What an operator orders.

use super::controller::{After, Authority, Controller, Leaving, Yielding, Yields};
use super::posture::Haste;
use super::types::{Action, Cause, Command, CopyState, Refusal, Report};
use crate::ids::Term;

impl Controller {
    pub(super) fn command(&mut self, command: Command) -> Result<(), Refusal> {
        match command {
            Command::Start => self.start(),
            Command::Stop => self.stop(),
            Command::Swap => self.swap(),
            Command::Standby { on: true } => self.stand_by(),
            Command::Standby { on: false } => self.end_standby(),
            Command::Restart => self.restart(),
            Command::Promote { force: false } => self.promote(),
            Command::Promote { force: true } => self.force(),
        }
    }

    fn start(&mut self) -> Result<(), Refusal> {
        self.blocked = None;
        self.restarts.clear();
        self.retry_at = None;
        self.standing.started = true;
        self.standing.standby = false;
        self.out.push(Action::Remember(self.standing));
        self.tell(Cause::OperatorStart);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Refusal> {
        self.standing.started = false;
        self.insists = false;
        self.out.push(Action::Remember(self.standing));
        self.tell(Cause::OperatorStop);
        self.end_here();
        Ok(())
    }

    /// The daemon ends.
    pub(super) fn shut_down(&mut self) {
        self.ending = true;
        self.insists = false;
        self.tell(Cause::Stopping);
        self.end_here();
    }

    /// Nothing of the module is to run here.
    fn end_here(&mut self) {
        if self.authority.is_some() {
            if self.peer_is_ready() {
                self.leave_to_peer();
            } else {
                let yields = Yields::No;
                self.leaving = Some(Leaving { haste: Haste::Drain, yields, after: After::Wait });
            }
        } else if let Some(term) = self.peer.report.filter(|_| self.peer.alive).and_then(|peer| peer.active)
            && self.yielding.is_none()
            && self.copy.as_ref().is_some_and(CopyState::is_whole)
        {
            // The peer goes on without having to ask anybody.
            self.yielding = Some(Yielding { term: self.free_term(term.next()), ordered: false });
        }
    }

    fn swap(&mut self) -> Result<(), Refusal> {
        if self.authority.is_none() {
            return Err(Refusal::NotActive);
        }
        if self.leaving.is_some() {
            return Err(Refusal::Busy);
        }
        if !self.peer_is_ready() || !self.mirror.mirrored {
            return Err(Refusal::PeerNotReady);
        }
        self.tell(Cause::OperatorSwap);
        self.leave_to_peer();
        Ok(())
    }

    /// What is under way goes first: a peer that was asked to yield, and an arbiter that was asked for a term, may have given it already, and nobody
    /// else could be active then.
    fn stand_by(&mut self) -> Result<(), Refusal> {
        if !self.runs() {
            return Err(Refusal::Stopped);
        }
        if self.leaving.is_some() || self.wish.is_some() || self.asking.is_some() {
            return Err(Refusal::Busy);
        }
        if self.authority.is_some() && !(self.peer_is_ready() && self.mirror.mirrored) {
            return Err(Refusal::PeerNotReady);
        }
        self.insists = false;
        self.standing.standby = true;
        self.out.push(Action::Remember(self.standing));
        self.tell(Cause::OnStandby);
        self.leave_to_peer();
        Ok(())
    }

    fn end_standby(&mut self) -> Result<(), Refusal> {
        if core::mem::take(&mut self.standing.standby) {
            self.out.push(Action::Remember(self.standing));
            self.tell(Cause::OperatorStandbyOff);
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Refusal> {
        if self.authority.is_none() {
            return Err(Refusal::NotActive);
        }
        if self.leaving.is_some() {
            return Err(Refusal::Busy);
        }
        self.restarts.clear();
        self.restart_application = true;
        Ok(())
    }

    /// What both nodes can agree on: the peer is there and yields.
    fn promote(&mut self) -> Result<(), Refusal> {
        self.may_promote()?;
        if self.peer_active() {
            return Err(Refusal::PeerActive);
        }
        if !self.peer.alive || self.peer.report.is_none() {
            return Err(Refusal::PeerNotReady);
        }
        let copy = self.copy.ok_or(Refusal::Busy)?;
        if !copy.is_whole() && !copy.is_new() {
            return Err(Refusal::NotWhole);
        }
        self.insists = true;
        self.take_up(Cause::OperatorPromote);
        Ok(())
    }

    fn force(&mut self) -> Result<(), Refusal> {
        self.may_promote()?;
        let copy = self.copy.ok_or(Refusal::Busy)?;
        let theirs = self.peer.report.as_ref().map_or(Term(0), |report: &Report| {
            report.active.into_iter().chain(report.copy.map(|copy| copy.term)).max().unwrap_or_default()
        });
        self.take_up(Cause::OperatorForce);
        (self.asking, self.wish, self.yielding) = (None, None, None);
        self.authority =
            Some(Authority { term: copy.term.max(theirs).next(), alone: true, force: !copy.is_whole() });
        self.remember();
        Ok(())
    }

    fn may_promote(&self) -> Result<(), Refusal> {
        if self.authority.is_some() {
            return Err(Refusal::Active);
        }
        if self.leaving.is_some() || self.yielding.is_some_and(|yielding| yielding.ordered) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    fn take_up(&mut self, cause: Cause) {
        self.blocked = None;
        self.restarts.clear();
        (self.standing.started, self.standing.standby) = (true, false);
        self.out.push(Action::Remember(self.standing));
        self.tell(cause);
    }
}
