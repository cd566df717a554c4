//! A controller and an obliging world: steps end well, at once, unless a test says otherwise.

use alloc::vec::Vec;
use core::time::Duration;

use super::super::Controller;
use super::super::posture::Step;
use super::super::types::{
    Action, Command, Config, CopyState, Event, MirrorView, NodeId, Refusal, Report, Role, Standing,
};
use crate::action::DataState;
use crate::ids::{Generation, Term, Time};
use crate::lineage::{GenerationId, Lineage, Tag};
use crate::reunion::Account;

pub const HERE: NodeId = NodeId([1; 16]);
pub const PEER: NodeId = NodeId([2; 16]);

/// A copy that both nodes have.
pub fn whole(term: u64) -> CopyState {
    let id = GenerationId { number: Generation(1), tag: Tag(7) };
    let account = Account {
        lineage: Lineage::beginning_with(id),
        data: DataState::UpToDate,
        primary: false,
        crashed: false,
        lost: false,
        marked: false,
    };
    CopyState { account, term: Term(term), alone: false }
}

pub fn outdated(term: u64) -> CopyState {
    let mut copy = whole(term);
    copy.account.data = DataState::Outdated;
    copy
}

pub fn alone(term: u64) -> CopyState {
    let mut copy = whole(term);
    copy.account.lineage.begin_generation(Tag(8), true);
    copy.alone = true;
    copy
}

pub fn new() -> CopyState {
    let mut copy = whole(0);
    copy.account.lineage = Lineage::default();
    copy.account.data = DataState::Inconsistent;
    copy
}

pub fn config() -> Config {
    let mut config = Config::new(HERE, PEER);
    config.arbiter = true;
    config
}

/// What the peer says that runs, is able, and not active.
pub fn says(copy: CopyState) -> Report {
    Report {
        word: Default::default(),
        readiness: Default::default(),
        cause: Default::default(),
        started: true,
        able: true,
        active: None,
        copy: Some(copy),
        mirrored: false,
        wants: None,
        insists: false,
        was_active: false,
    }
}

pub struct Lab {
    pub it: Controller,
    pub now: Time,
    /// What the disk says.
    pub copy: CopyState,
    /// All orders since they were taken last, but those that were answered.
    pub out: Vec<Action>,
    /// Steps are answered at once, well.
    pub obliging: bool,
    numbers: u64,
}

impl Lab {
    /// A node that starts, before what an earlier run left is stopped.
    pub fn cold(config: Config, started: bool, copy: CopyState) -> Lab {
        let standing = Standing { started, ..Standing::default() };
        let it = Controller::new(config, standing, Time(0));
        Lab { it, now: Time(0), copy, out: Vec::new(), obliging: true, numbers: 0 }
    }

    /// The same, afterwards.
    pub fn new(config: Config, started: bool, copy: CopyState) -> Lab {
        let mut lab = Lab::cold(config, started, copy);
        lab.tell(Event::Able(true));
        lab
    }

    pub fn tell(&mut self, event: Event) {
        let mut orders = Vec::new();
        self.it.handle(self.now, event, &mut orders);
        for order in orders {
            match order {
                Action::Step(step) if self.obliging => self.oblige(step),
                Action::Outdate(term) if self.obliging => {
                    self.copy.term = self.copy.term.max(term);
                    self.copy.alone = false;
                    if self.copy.is_whole() {
                        self.copy.account.data = DataState::Outdated;
                    }
                    self.tell(Event::Outdated(term, Ok(())));
                    self.out.push(order);
                }
                order => self.out.push(order),
            }
        }
    }

    fn oblige(&mut self, step: Step) {
        self.out.push(Action::Step(step));
        if let Step::StartMirror { role: Role::Primary, term, alone, .. } = step {
            self.copy.term = self.copy.term.max(term);
            self.copy.account.data = DataState::UpToDate;
            if alone && !self.copy.alone {
                self.copy.account.lineage.begin_generation(Tag(99), true);
            }
            self.copy.alone = alone;
        }
        self.tell(Event::Done(step, Ok(())));
        match step {
            Step::StopMirror => self.mirror(false, false, false),
            Step::StartMirror { .. } => self.mirror(false, false, false),
            _ => {}
        }
    }

    pub fn mirror(&mut self, connected: bool, mirrored: bool, asks: bool) {
        let view = MirrorView { connected, mirrored, asks };
        self.tell(Event::Mirror(view, self.copy));
    }

    /// The peer is there, and says this.
    pub fn peer(&mut self, report: Report) {
        self.tell(Event::Heard(report));
        self.tell(Event::PeerAlive(true));
    }

    pub fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.after(Duration::from_millis(milliseconds));
        self.tell(Event::Tick);
    }

    pub fn command(&mut self, command: Command) -> Result<(), Refusal> {
        self.numbers += 1;
        let number = self.numbers;
        self.tell(Event::Command(number, command));
        let answers: Vec<_> = self
            .out
            .iter()
            .filter_map(|action| match action {
                Action::Answer(to, answer) if *to == number => Some(*answer),
                _ => None,
            })
            .collect();
        assert_eq!(answers.len(), 1, "{command:?}: {:?}", self.out);
        answers[0]
    }

    pub fn take(&mut self) -> Vec<Action> {
        core::mem::take(&mut self.out)
    }

    pub fn has(&self, action: &Action) -> bool {
        self.out.contains(action)
    }

    pub fn has_step(&self, which: impl Fn(&Step) -> bool) -> bool {
        self.out.iter().any(|action| matches!(action, Action::Step(step) if which(step)))
    }

    /// An active node that both mirror with, term 1.
    pub fn primary() -> Lab {
        let mut lab = Lab::new(config(), true, alone(1));
        lab.peer(says(outdated(1)));
        lab.copy = whole(1);
        let mut report = says(whole(1));
        report.mirrored = true;
        lab.mirror(true, true, false);
        lab.peer(report);
        assert!(lab.it.report().active.is_some(), "{:?}", lab.it.report());
        lab.take();
        lab
    }

    /// A secondary of a primary with term 1.
    pub fn secondary() -> Lab {
        let mut lab = Lab::new(config(), true, whole(1));
        let mut report = says(whole(1));
        report.active = Some(Term(1));
        lab.peer(report);
        lab.mirror(true, true, false);
        assert!(lab.it.report().mirrored);
        lab.take();
        lab
    }

    /// It hears nobody any more, and its session is over.
    pub fn part(&mut self, asks: bool) {
        self.tell(Event::PeerAlive(false));
        self.mirror(false, false, asks);
        self.wait(150);
    }
}
