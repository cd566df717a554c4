//! A state of the model, what can happen in it, and what comes of it.

use core::time::Duration;
use std::collections::VecDeque;

use replicator_core::action::{DataState, StateRecord};
use replicator_core::begin::Start;
use replicator_core::cluster::posture::Step;
use replicator_core::cluster::{Action, Controller, Event, Role, Verdict};
use replicator_core::config::WhenAlone;
use replicator_core::ids::{Term, Time};
use replicator_core::lineage::Tag;
use replicator_core::reunion::{self, Side};

use super::node::{End, Node, Order, config};
use crate::cluster::arbiter::{Register, decide};
use crate::cluster::node::{copy_of, is_whole};

/// What may still happen to it from outside.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub faults: u8,
    pub time: u8,
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug)]
pub enum Happening {
    /// The node hears what its peer says now.
    Hears(usize),
    /// The node takes its peer for lost, or for there again.
    Alive(usize, bool),
    /// The node's end of the session is over.
    Loses(usize),
    /// A session begins; a resync comes one stage further.
    Opens,
    Advances,
    /// The first order that was given is carried out.
    Carries(usize),
    /// The arbiter's answer is lost.
    Unanswered(usize),
    Crashes(usize),
    /// Ten seconds, for both.
    TimePasses,
}

#[derive(Clone, Debug)]
pub struct State {
    nodes: [Node; 2],
    register: Option<Register>,
    /// The highest term in which somebody acknowledged, and who.
    top: Option<(Term, usize)>,
    now: Time,
    tag: u64,
    budget: Budget,
    sabotage: bool,
    told: VecDeque<(usize, Event)>,
    telling: bool,
    pub broken: Option<String>,
}

impl State {
    /// Both nodes hold the same, and one is active.
    pub fn mirrored(budget: Budget, sabotage: bool) -> Result<State, Vec<String>> {
        let mut state = State {
            nodes: [Node::new(0), Node::new(1)],
            register: None,
            top: None,
            now: Time(0),
            tag: 100,
            budget,
            sabotage,
            told: VecDeque::new(),
            telling: false,
            broken: None,
        };
        for node in 0..2 {
            state.tell(node, Event::Able(true));
            state.happen(Happening::Alive(node, true));
        }
        for _ in 0..40 {
            for node in 0..2 {
                state.happen(Happening::Hears(node));
                if !state.nodes[node].orders.is_empty() {
                    state.happen(Happening::Carries(node));
                }
            }
            if state.may_open() {
                state.happen(Happening::Opens);
            } else if state.may_advance() {
                state.happen(Happening::Advances);
            }
        }
        state.budget = budget;
        let same = state.nodes.iter().all(|node| node.session == Some(End::Same));
        match state.broken.take() {
            None if same => Ok(state),
            broken => Err(vec![format!("the nodes do not come to mirror: {broken:?}"), format!("{state:?}")]),
        }
    }

    pub fn is_alone(&self) -> bool {
        self.nodes.iter().any(Node::answers_alone)
    }

    pub fn possible(&self) -> Vec<Happening> {
        let mut all = Vec::new();
        let faults = self.budget.faults > 0;
        for node in 0..2 {
            let (it, peer) = (&self.nodes[node], &self.nodes[1 - node]);
            if peer.say.is_some() && peer.say != it.heard {
                all.push(Happening::Hears(node));
            }
            if !it.orders.is_empty() {
                all.push(Happening::Carries(node));
            }
            if !it.alive {
                all.push(Happening::Alive(node, true));
            }
            let half_open = it.session.is_some() && peer.session.is_none();
            if half_open || (faults && it.session.is_some()) {
                all.push(Happening::Loses(node));
            }
            if faults {
                if it.alive {
                    all.push(Happening::Alive(node, false));
                }
                if matches!(it.orders.front(), Some(Order::Ask(_) | Order::Answer(..))) {
                    all.push(Happening::Unanswered(node));
                }
                all.push(Happening::Crashes(node));
            }
        }
        if self.may_open() {
            all.push(Happening::Opens);
        }
        if self.may_advance() {
            all.push(Happening::Advances);
        }
        if self.budget.time > 0 {
            all.push(Happening::TimePasses);
        }
        all
    }

    pub fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Hears(node) => {
                let report = self.nodes[1 - node].say;
                self.nodes[node].heard = report;
                if let Some(report) = report {
                    self.tell(node, Event::Heard(report));
                }
            }
            Happening::Alive(node, alive) => {
                self.spend(!alive);
                self.nodes[node].alive = alive;
                self.tell(node, Event::PeerAlive(alive));
            }
            Happening::Loses(node) => {
                self.spend(self.nodes[1 - node].session.is_some());
                self.lose(node);
            }
            Happening::Opens => self.open(),
            Happening::Advances => self.advance(),
            Happening::Carries(node) => self.carry(node),
            Happening::Unanswered(node) => self.unanswered(node),
            Happening::Crashes(node) => self.crash(node),
            Happening::TimePasses => {
                self.budget.time = self.budget.time.saturating_sub(1);
                self.now = self.now.after(Duration::from_secs(10));
                (0..2).for_each(|node| self.tell(node, Event::Tick));
            }
        }
        self.acknowledge();
    }

    fn spend(&mut self, fault: bool) {
        self.budget.faults = self.budget.faults.saturating_sub(u8::from(fault));
    }

    /// Whoever can answer callers does.
    fn acknowledge(&mut self) {
        for node in 0..2 {
            let both = self.nodes.iter().all(|node| node.session == Some(End::Same));
            let primary = self.nodes[node].role == Some(Role::Primary);
            if self.nodes[node].answers_alone() || (both && primary) {
                self.acts(node, "acknowledges");
            }
        }
    }

    fn acts(&mut self, node: usize, what: &str) {
        let term = self.nodes[node].record.term;
        match self.top {
            Some((top, other)) if other != node && term <= top => {
                self.broken = Some(format!("{node} {what} with {term}, after {other} did with {top}"));
            }
            Some((top, _)) if term < top => {}
            _ => self.top = Some((term, node)),
        }
    }

    // ---- the controller ---------------------------------------------------------------------------------------

    /// One after another: what an order leads to is told when all that were given with it are carried out.
    fn tell(&mut self, node: usize, event: Event) {
        self.told.push_back((node, event));
        if self.telling {
            return;
        }
        self.telling = true;
        while let Some((node, event)) = self.told.pop_front() {
            self.take(node, event);
        }
        self.telling = false;
    }

    fn take(&mut self, node: usize, event: Event) {
        let mut actions = Vec::new();
        self.nodes[node].it.handle(self.now, event, &mut actions);
        for action in actions {
            let orders = &mut self.nodes[node].orders;
            match action {
                Action::Publish(report) => self.nodes[node].say = Some(*report),
                Action::Remember(standing) => self.nodes[node].standing = standing,
                Action::Step(step) => self.step(node, step),
                Action::GoAlone(term) if !orders.contains(&Order::GoAlone(term)) => {
                    orders.push_back(Order::GoAlone(term));
                }
                Action::Outdate(term) => orders.push_back(Order::Outdate(term)),
                Action::AskArbiter(term) => orders.push_back(Order::Ask(term)),
                _ => {}
            }
        }
    }

    fn look(&mut self, node: usize) {
        let it = &self.nodes[node];
        let (view, copy) = (it.view(), copy_of(&it.record, it.role == Some(Role::Primary)));
        self.tell(node, Event::Mirror(view, copy));
    }

    fn step(&mut self, node: usize, step: Step) {
        let mut result = Ok(());
        match step {
            Step::StartMirror { role: Role::Secondary, .. } => {
                let it = &mut self.nodes[node];
                it.record = StateRecord::begin_secondary(Some(it.record));
                it.role = Some(Role::Secondary);
            }
            Step::StartMirror { role: Role::Primary, term, alone, .. } => {
                if is_whole(&self.nodes[node].record) {
                    self.start_primary(node, term, alone);
                } else {
                    result = Err(());
                }
            }
            Step::StopMirror => {
                let it = &mut self.nodes[node];
                (it.role, it.session, it.record.running) = (None, None, false);
                it.orders.retain(|order| !matches!(order, Order::GoAlone(_)));
            }
            Step::StartApplication => self.acts(node, "starts the application"),
            Step::Drain => {
                let same = self.nodes.iter().all(|node| node.session == Some(End::Same));
                result = if same { Ok(()) } else { Err(()) };
            }
            _ => {}
        }
        self.tell(node, Event::Done(step, result));
        if matches!(step, Step::StartMirror { .. } | Step::StopMirror) {
            self.look(node);
        }
    }

    fn start_primary(&mut self, node: usize, term: Term, alone: bool) {
        let tag = self.draw();
        let it = &mut self.nodes[node];
        let start =
            Start { tag, term: Some(term), when_alone: WhenAlone::Ask, go_alone: alone, forced: false };
        // A copy that is not whole is not started: the controller does not ask for it.
        let Ok(mut record) = StateRecord::begin_primary(Some(it.record), start) else { return };
        record.alone = alone;
        (it.record, it.role) = (record, Some(Role::Primary));
    }

    fn draw(&mut self) -> Tag {
        self.tag += 1;
        Tag(self.tag)
    }

    fn crash(&mut self, node: usize) {
        self.spend(true);
        let now = self.now;
        let it = &mut self.nodes[node];
        it.it = Controller::new(config(node), it.standing, now);
        (it.role, it.session, it.say, it.heard, it.alive) = (None, None, None, None, false);
        it.orders.clear();
        self.tell(node, Event::Able(true));
    }

    // ---- what was ordered --------------------------------------------------------------------------------------

    fn carry(&mut self, node: usize) {
        let tag = self.draw();
        let Some(order) = self.nodes[node].orders.pop_front() else { return };
        let it = &mut self.nodes[node];
        match order {
            Order::GoAlone(term) => {
                if it.role != Some(Role::Primary) || it.session.is_some() || it.record.term > term {
                    return;
                }
                it.record.term = term;
                if !it.record.alone {
                    it.record.alone = true;
                    it.record.lineage.begin_generation(tag, true);
                }
                self.look(node);
            }
            Order::Outdate(term) => {
                it.record.term = it.record.term.max(term);
                it.record.alone = false;
                if is_whole(&it.record) {
                    it.record.data = DataState::Outdated;
                }
                self.tell(node, Event::Outdated(term, Ok(())));
            }
            Order::Ask(term) => {
                let verdict =
                    if self.sabotage { Verdict::Won } else { decide(&mut self.register, node, term) };
                self.nodes[node].orders.push_front(Order::Answer(term, verdict));
            }
            Order::Answer(term, verdict) => self.tell(node, Event::Arbiter(term, verdict)),
        }
    }

    fn unanswered(&mut self, node: usize) {
        self.spend(true);
        if let Some(Order::Ask(term) | Order::Answer(term, _)) = self.nodes[node].orders.pop_front() {
            self.tell(node, Event::Arbiter(term, Verdict::Unreachable));
        }
    }

    // ---- the session -------------------------------------------------------------------------------------------

    fn primary(&self) -> Option<usize> {
        let is = |node: usize| {
            self.nodes[node].role == Some(Role::Primary) && self.nodes[1 - node].role == Some(Role::Secondary)
        };
        (0..2).find(|node| is(*node))
    }

    fn may_open(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let (one, two) = (&self.nodes[primary], &self.nodes[1 - primary]);
        let accounts = (copy_of(&one.record, true).account, copy_of(&two.record, false).account);
        one.session.is_none()
            && two.session.is_none()
            && two.record.term <= one.record.term
            && reunion::decide(&accounts.0, &accounts.1).source == Some(Side::Here)
    }

    fn open(&mut self) {
        let Some(primary) = self.primary() else { return };
        let term = self.nodes[primary].record.term;
        self.nodes[primary].session = Some(End::Syncing);
        let two = &mut self.nodes[1 - primary];
        two.session = Some(End::Syncing);
        (two.record.data, two.record.alone) = (DataState::Inconsistent, false);
        two.record.term = two.record.term.max(term);
        self.look(primary);
        self.look(1 - primary);
    }

    fn may_advance(&self) -> bool {
        let open = self.nodes.iter().all(|node| node.session.is_some());
        open && self.nodes.iter().any(|node| node.session != Some(End::Same))
    }

    /// The primary exposes itself, the secondary is whole, the primary knows it: one after another.
    fn advance(&mut self) {
        let Some(primary) = self.primary() else { return };
        let lineage = self.nodes[primary].record.lineage;
        match (self.nodes[primary].session, self.nodes[1 - primary].session) {
            (Some(End::Syncing), _) => {
                self.nodes[primary].session = Some(End::Exposed);
                self.nodes[primary].record.alone = false;
                self.look(primary);
            }
            (Some(End::Exposed), Some(End::Syncing)) => {
                let two = &mut self.nodes[1 - primary];
                two.session = Some(End::Same);
                two.record.lineage.adopt(&lineage);
                (two.record.data, two.record.crashed) = (DataState::UpToDate, false);
                self.look(1 - primary);
            }
            (Some(End::Exposed), _) => {
                let one = &mut self.nodes[primary];
                one.session = Some(End::Same);
                one.record.lineage.share();
                one.record.crashed = false;
                self.look(primary);
            }
            _ => {}
        }
    }

    fn lose(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.session = None;
        if it.role == Some(Role::Secondary) && it.record.data == DataState::UpToDate {
            it.record.data = DataState::Consistent;
        }
        self.look(node);
    }
}
