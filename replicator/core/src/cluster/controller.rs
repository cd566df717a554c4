//! The controller's state, and what comes in.

use alloc::vec::Vec;

use super::posture::{Goal, Haste, Posture, Step, Thing};
use super::types::{
    Action, Cause, CheckAction, Config, CopyState, Event, MirrorView, Report, Role, Standing, Verdict,
};
use crate::action::DataState;
use crate::ids::{Term, Time};

/// One module on one node: events in, actions out.
///
/// The caller keeps these rules:
///
/// * `now` never goes back, and [`Event::Tick`] comes at [`Controller::next_deadline`].
/// * Actions are carried out in the order given, and those that name an answer get exactly one. A step that is broken off is answered, as failed,
///   before the one that breaks it off; a drain, or a start, of a mirror that ends before [`Event::MirrorEnded`].
/// * What the mirror says comes in the order in which it says it, and nothing of it after its end. After each end ([`Event::MirrorEnded`], a
///   [`Step::StopMirror`] that is done) its record is read, and told by [`Event::Mirror`]: until then nothing is begun.
///   So it is after an [`Action::Outdate`] that failed: it may be on the disk all the same, and is made durable before it is told.
#[derive(Clone, Debug)]
pub struct Controller {
    pub(super) config: Config,
    pub(super) now: Time,
    pub(super) began: Time,
    pub(super) standing: Standing,
    pub(super) posture: Posture,
    pub(super) mirror: MirrorView,
    pub(super) copy: Option<CopyState>,
    pub(super) peer: Peer,
    /// This node is active.
    pub(super) authority: Option<Authority>,
    /// What runs is being taken down.
    pub(super) leaving: Option<Leaving>,
    /// The copy is to be outdated with that term, for the peer.
    pub(super) yielding: Option<Yielding>,
    pub(super) wish: Option<Wish>,
    pub(super) asking: Option<Asking>,
    /// The highest term that this run asked the arbiter for.
    pub(super) asked: Term,
    /// An operator wants this node to be active.
    pub(super) insists: bool,
    /// The application can run here.
    pub(super) able: bool,
    /// Until an operator says something, nothing is begun here, because of that.
    pub(super) blocked: Option<Cause>,
    /// Nothing is received: the arbiter is asked, or is about to be.
    pub(super) deaf: bool,
    /// This node did not run for a while and does not know yet whether it is active still.
    pub(super) suspended: bool,
    pub(super) restart_application: bool,
    /// The daemon ends.
    pub(super) ending: bool,
    pub(super) restarts: Vec<Time>,
    pub(super) retry_at: Option<Time>,
    pub(super) mirrored_since: Option<Time>,
    /// When the last session of the mirror ended.
    pub(super) parted_at: Option<Time>,
    /// Why it is not ready.
    pub(super) cause: Cause,
    pub(super) published: Option<Report>,
    pub(super) out: Vec<Action>,
}

/// The other node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    pub report: Option<Report>,
    /// Each hears the other.
    pub alive: bool,
    /// Since it was lost; none: it was never heard, or is.
    pub lost_at: Option<Time>,
}

/// The right to be active.
#[derive(Clone, Copy, Debug)]
pub(super) struct Authority {
    pub term: Term,
    /// It came with the right to do without the peer.
    pub alone: bool,
    pub force: bool,
}

/// Why and how what runs is taken down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub haste: Haste,
    pub yields: Yields,
    pub after: After,
}

/// Whether the peer may be active afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Yields {
    No,
    /// With that term, if it was sent all there is; else this node goes on.
    IfDrained(Term),
    To(Term),
}

/// What follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// The right to be active is kept, and all is started again.
    Again,
    /// It is given up.
    Wait,
}

/// An outdating that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yielding {
    pub term: Term,
    pub ordered: bool,
}

/// What the peer is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub term: Term,
    pub since: Time,
}

/// What the arbiter is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub term: Term,
    /// An answer is to come.
    pub under_way: bool,
    pub again_at: Time,
    pub unreachable: bool,
}

impl Controller {
    /// The controller of a node that starts, with what it remembers. What an earlier run left is stopped first.
    #[must_use]
    pub fn new(config: Config, standing: Standing, now: Time) -> Controller {
        Controller {
            config,
            now,
            began: now,
            standing,
            posture: Posture::unclear(),
            mirror: MirrorView::default(),
            copy: None,
            peer: Peer::default(),
            authority: None,
            leaving: None,
            yielding: None,
            wish: None,
            asking: None,
            asked: Term(0),
            insists: false,
            able: true,
            blocked: None,
            deaf: false,
            suspended: false,
            restart_application: false,
            ending: false,
            restarts: Vec::new(),
            retry_at: None,
            mirrored_since: None,
            parted_at: None,
            cause: Cause::Starting,
            published: None,
            out: Vec::new(),
        }
    }

    /// Take in one event and append the orders that follow from it.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.take(event);
        self.review();
        actions.append(&mut self.out);
    }

    /// When to come again with a tick if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let failback = self.config.failback_after.zip(self.mirrored_since);
        [
            self.retry_at,
            self.asking.filter(|asking| !asking.under_way).map(|asking| asking.again_at),
            self.wish.map(|wish| wish.since.after(self.config.yield_limit)),
            self.peer.lost_at.max(self.parted_at).map(|at| at.after(self.config.handicap)),
            Some(self.began.after(self.config.boot_wait)),
            failback.map(|(span, since)| since.after(span)),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > self.now)
        .min()
    }

    /// What this node says of itself now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.describe()
    }

    /// Everything is down that was to be taken down, and said to the peer: the process may end.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.posture.is_off() && self.leaving.is_none() && self.yielding.is_none()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Heard(report) => self.peer.report = Some(report),
            Event::Echoed => self.resume(),
            Event::PeerAlive(alive) => self.peer_alive(alive),
            Event::Late => self.late(),
            Event::Mirror(view, copy) => self.mirror_says(view, copy),
            Event::MirrorEnded => self.mirror_ended(),
            Event::Done(step, result) => self.done(step, result.is_ok()),
            Event::Outdated(term, result) => self.outdated(term, result.is_ok()),
            Event::Arbiter(term, verdict) => self.arbiter(term, verdict),
            Event::Command(number, command) => {
                let answer = self.command(command);
                self.out.push(Action::Answer(number, answer));
            }
            Event::Check(action) => self.check(action),
            Event::Able(able) => self.able = able,
            Event::Shutdown => self.shut_down(),
            Event::Rival => {
                if self.authority.is_some() && !self.suspended {
                    self.out.push(Action::Announce);
                }
            }
        }
    }

    fn peer_alive(&mut self, alive: bool) {
        if alive == self.peer.alive {
            return;
        }
        self.peer.alive = alive;
        self.peer.lost_at = (!alive).then_some(self.now);
        if !alive {
            self.wish = None;
            if self.authority.is_some() || self.runs() {
                self.tell(Cause::PeerLost);
            }
        }
    }

    /// Who did not run may have been replaced. A node that is recorded to be alone was not: nobody else can be active then.
    fn late(&mut self) {
        self.tell(Cause::Late);
        let alone = self.copy.is_some_and(|copy| copy.alone);
        if self.authority.is_some() && !alone {
            self.suspended = true;
        }
        // What was found before is not to be acted upon.
        self.asking = None;
        self.wish = None;
        if self.peer.lost_at.is_some() {
            self.peer.lost_at = Some(self.now);
        }
    }

    /// It is known again that this node is active.
    pub(super) fn resume(&mut self) {
        if core::mem::take(&mut self.suspended) && self.posture.addresses == Thing::On {
            self.out.push(Action::Announce);
        }
    }

    fn mirror_says(&mut self, view: MirrorView, copy: CopyState) {
        if self.mirror.connected && !view.connected {
            self.parted_at = Some(self.now);
        }
        self.mirror = view;
        self.copy = Some(copy);
        self.mirrored_since = view.mirrored.then(|| self.mirrored_since.unwrap_or(self.now));
    }

    fn mirror_ended(&mut self) {
        self.forget_mirror();
        if !matches!(self.posture.mirror, Thing::Starting | Thing::On) {
            return;
        }
        self.posture.mirror = Thing::Off;
        self.posture.draining = false;
        if self.authority.is_some() && self.leaving.is_none() {
            self.begin_again(Cause::MirrorFailed);
        } else {
            self.retry_later();
        }
    }

    /// The process is gone. What its last record says is not known before somebody has looked: it may have said more than was told.
    fn forget_mirror(&mut self) {
        if self.mirror.connected {
            self.parted_at = Some(self.now);
        }
        self.mirror = MirrorView::default();
        self.mirrored_since = None;
        self.copy = None;
    }

    fn done(&mut self, step: Step, well: bool) {
        if !self.posture.end(step, well) {
            return;
        }
        match step {
            Step::StartMirror { role: Role::Primary, term, alone, .. } if well => {
                // It serves, so that is on record.
                if let Some(copy) = &mut self.copy {
                    (copy.term, copy.alone) = (copy.term.max(term), alone);
                }
                // From now on the record tells whether it is alone.
                if let Some(authority) = &mut self.authority {
                    (authority.alone, authority.force) = (false, false);
                }
            }
            Step::StopMirror if well => self.forget_mirror(),
            Step::StartMirror { role: Role::Secondary, .. } | Step::TakeAddresses if !well => {
                let secondary = step != Step::TakeAddresses;
                self.tell(if secondary { Cause::MirrorFailed } else { Cause::AddressFailed });
                self.retry_later();
            }
            Step::StartMirror { .. } if !well => self.failed(Cause::MirrorFailed),
            Step::StartApplication if !well => self.failed(Cause::ApplicationFailed),
            Step::StopApplication { .. } if !well => {
                self.tell(Cause::ApplicationFailed);
                self.retry_later();
            }
            _ if !well => self.retry_later(),
            _ => {}
        }
    }

    /// Something of the active node did not start.
    fn failed(&mut self, cause: Cause) {
        self.tell(cause);
        self.retry_later();
        if self.leaving.is_none() && !self.spend() {
            self.give_up(Cause::BudgetSpent);
        }
    }

    /// Take everything down by force and start it again.
    fn begin_again(&mut self, cause: Cause) {
        self.tell(cause);
        self.retry_later();
        if self.spend() {
            self.leaving = Some(Leaving { haste: Haste::Fenced, yields: Yields::No, after: After::Again });
        } else {
            self.give_up(Cause::BudgetSpent);
        }
    }

    /// One more automatic restart, if there may be.
    pub(super) fn spend(&mut self) -> bool {
        let (now, budget) = (self.now, self.config.budget);
        self.restarts.retain(|at| now.since(*at) < budget.period);
        let may = self.restarts.len() < budget.count;
        if may {
            self.restarts.push(now);
        }
        may
    }

    pub(super) fn retry_later(&mut self) {
        self.retry_at = Some(self.now.after(self.config.retry));
    }

    /// Nothing more is tried here; the peer goes on if it can.
    pub(super) fn give_up(&mut self, cause: Cause) {
        self.tell(cause);
        self.blocked = Some(cause);
        let yields = self.handover();
        let haste = if self.mirror.mirrored { Haste::Drain } else { Haste::None };
        self.leaving = Some(Leaving { haste, yields, after: After::Wait });
    }

    /// How an active node whose own application cannot go on leaves: what was acknowledged is on the peer if its copy is whole and this node never did without
    /// it, however little more could be sent.
    fn handover(&self) -> Yields {
        let alone = self.copy.is_none_or(|copy| copy.alone);
        match (self.authority, self.peer_is_ready()) {
            (Some(authority), true) if !alone => Yields::To(self.free_term(authority.term.next())),
            _ => Yields::No,
        }
    }

    /// The peer could take over at once.
    pub(super) fn peer_is_ready(&self) -> bool {
        let willing = |report: &Report| {
            report.started
                && report.able
                && report.mirrored
                && report.copy.is_some_and(|copy| copy.is_whole())
        };
        self.peer.alive && self.peer.report.as_ref().is_some_and(willing)
    }

    fn outdated(&mut self, term: Term, well: bool) {
        let Some(yielding) = self.yielding.filter(|yielding| yielding.ordered && yielding.term == term)
        else {
            return;
        };
        if well {
            self.yielding = None;
            if let Some(copy) = &mut self.copy {
                copy.term = copy.term.max(term);
                copy.alone = false;
                if copy.is_whole() {
                    copy.account.data = DataState::Outdated;
                }
            }
            self.authority = None;
            self.suspended = false;
            self.remember();
        } else {
            // Not durable, so not said: tried again.
            self.yielding = Some(Yielding { ordered: false, ..yielding });
            self.retry_later();
        }
    }

    fn arbiter(&mut self, term: Term, verdict: Verdict) {
        let Some(asking) = self.asking.filter(|asking| asking.under_way && asking.term == term) else {
            return;
        };
        let again_at = self.now.after(self.config.ask_again);
        self.asking = None;
        match verdict {
            Verdict::Won => self.won(term),
            Verdict::Lost { term: given, own } => self.lost(given, own),
            Verdict::Unreachable => {
                self.asking = Some(Asking { under_way: false, again_at, unreachable: true, ..asking });
            }
        }
    }

    fn check(&mut self, action: CheckAction) {
        if self.authority.is_none() || self.leaving.is_some() {
            return;
        }
        self.tell(Cause::Checker);
        match action {
            CheckAction::Restart => self.restart_counted(),
            CheckAction::Swap if self.peer_is_ready() && self.spend() => self.leave_to_peer(),
            CheckAction::Swap => self.restart_counted(),
            CheckAction::StopStart if !self.spend() => self.give_up(Cause::BudgetSpent),
            CheckAction::StopStart if self.peer_is_ready() => self.leave_to_peer(),
            CheckAction::StopStart => {
                self.leaving = Some(Leaving { haste: Haste::None, yields: Yields::No, after: After::Again });
            }
            CheckAction::Wait => {
                self.able = false;
                if self.peer_is_ready() {
                    self.leave_to_peer();
                } else {
                    let yields = Yields::No;
                    self.leaving = Some(Leaving { haste: Haste::None, yields, after: After::Wait });
                }
            }
        }
    }

    fn restart_counted(&mut self) {
        if self.spend() {
            self.restart_application = true;
        } else {
            self.give_up(Cause::BudgetSpent);
        }
    }

    /// A planned end: the peer gets all, and takes over.
    pub(super) fn leave_to_peer(&mut self) {
        let Some(authority) = self.authority else { return };
        let yields = Yields::IfDrained(self.free_term(authority.term.next()));
        self.leaving = Some(Leaving { haste: Haste::Drain, yields, after: After::Wait });
    }

    /// The module is to run on this node.
    pub(super) fn runs(&self) -> bool {
        self.standing.started && !self.ending
    }

    /// The application may be started here.
    pub(super) fn is_able(&self) -> bool {
        self.able && !self.standing.standby
    }

    /// This node stays active after all.
    pub(super) fn stand_by_no_more(&mut self) {
        if core::mem::take(&mut self.standing.standby) {
            self.out.push(Action::Remember(self.standing));
            self.tell(Cause::StandbyFailed);
        }
    }

    pub(super) fn remember(&mut self) {
        self.standing.was_active = self.authority.is_some();
        self.out.push(Action::Remember(self.standing));
    }

    pub(super) fn tell(&mut self, cause: Cause) {
        self.out.push(Action::Tell(cause));
    }

    pub(super) fn goal(&self) -> Goal {
        if self.leaving.is_some() || self.yielding.is_some() {
            return Goal::Nothing;
        }
        match self.authority {
            // How it starts depends on its record.
            _ if self.copy.is_none() => Goal::Nothing,
            Some(Authority { term, alone, force }) => {
                // The right to do without the peer that came with the term is used up when the record has the term and says nothing of being
                // alone: then both have held the same since.
                let used = self.copy.is_some_and(|copy| copy.term >= term && !copy.alone);
                let alone = self.copy.is_some_and(|copy| copy.alone) || (alone && !used);
                Goal::Active { term, alone, force }
            }
            None if self.runs() && self.receives() && !self.deaf => Goal::Secondary,
            None => Goal::Nothing,
        }
    }
}
