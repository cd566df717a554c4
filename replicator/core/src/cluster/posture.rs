//! What runs on a node, what shall run, and the next steps from the one to the other.
//!
//! | goal | mirror | addresses | application |
//! |---|---|---|---|
//! | [`Goal::Nothing`] | off | off | off |
//! | [`Goal::Secondary`] | secondary | off | off |
//! | [`Goal::Active`] | primary | on | on |
//!
//! Up: the mirror first, the addresses beside it, and the application when the mirror serves its directories and the addresses are there. Down in order: the application,
//! the addresses, what is not sent yet, the mirror. Down at once ([`Haste::Fenced`]: somebody else is active, or may be): the addresses, and the
//! application by force beside it.

use super::types::Role;
use crate::ids::Term;

/// The state of one of the things that run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Thing {
    /// It does not run.
    #[default]
    Off,
    /// It is being started.
    Starting,
    /// It runs.
    On,
    /// It is being stopped.
    Stopping,
    /// Whether it runs is not known: it did not start or stop as it should, and has to be stopped (again).
    Unclear,
}

/// What runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Posture {
    /// The mirror's process.
    pub mirror: Thing,
    /// In which role it was started; of one that is off: last.
    pub role: Option<Role>,
    /// The virtual addresses.
    pub addresses: Thing,
    /// The application.
    pub application: Thing,
    /// What was not sent is being sent.
    pub draining: bool,
    /// It was tried; what came of it.
    pub drained: Option<bool>,
    /// The application was to be stopped and did not stop in order.
    pub by_force: bool,
}

/// What shall run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Goal {
    /// Nothing.
    #[default]
    Nothing,
    /// The mirror, receiving.
    Secondary,
    /// Everything, with this term; `alone`: callers may be answered without the peer.
    Active {
        /// The term.
        term: Term,
        /// The mirror may go on alone from its start.
        alone: bool,
        /// Whatever its copy is.
        force: bool,
    },
}

/// How quickly it has to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Haste {
    /// In order.
    #[default]
    None,
    /// In order, and what the peer lacks is sent before the mirror ends.
    Drain,
    /// At once: another node is active, or may be.
    Fenced,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Start the mirror's process; done when it serves, or listens.
    StartMirror {
        /// In this role.
        role: Role,
        /// A primary: with this term.
        term: Term,
        /// A primary: it may go on alone.
        alone: bool,
        /// Whatever its copy is: an operator says so.
        force: bool,
    },
    /// Stop it.
    StopMirror,
    /// Send all that the peer lacks; done when it is durable there.
    Drain,
    /// Take the addresses.
    TakeAddresses,
    /// Give them up.
    GiveUpAddresses,
    /// Start the application.
    StartApplication,
    /// Stop it; a start that is under way is broken off.
    StopApplication {
        /// By all means.
        force: bool,
    },
}

impl Posture {
    /// What an earlier run left is not known: everything has to be stopped first.
    #[must_use]
    pub fn unclear() -> Posture {
        let unclear = Thing::Unclear;
        Posture { mirror: unclear, addresses: unclear, application: unclear, ..Posture::default() }
    }

    /// Nothing runs.
    #[must_use]
    pub fn is_off(&self) -> bool {
        (self.mirror, self.addresses, self.application) == (Thing::Off, Thing::Off, Thing::Off)
    }

    /// The goal is reached.
    #[must_use]
    pub fn is_at(&self, goal: Goal) -> bool {
        let all = (self.mirror, self.addresses, self.application);
        match goal {
            Goal::Nothing => self.is_off(),
            Goal::Secondary => {
                all == (Thing::On, Thing::Off, Thing::Off) && self.role == Some(Role::Secondary)
            }
            Goal::Active { .. } => {
                all == (Thing::On, Thing::On, Thing::On) && self.role == Some(Role::Primary)
            }
        }
    }

    /// The next step, if one can be taken now. `haste` counts on the way down.
    #[must_use]
    pub fn next(&self, goal: Goal, haste: Haste) -> Option<Step> {
        match goal {
            Goal::Active { term, alone, force } => {
                self.up(Step::StartMirror { role: Role::Primary, term, alone, force })
            }
            Goal::Secondary if self.is_receiving_only() => self.receive(),
            Goal::Secondary | Goal::Nothing => self.down(haste),
        }
    }

    fn is_receiving_only(&self) -> bool {
        (self.addresses, self.application) == (Thing::Off, Thing::Off)
            && (self.mirror == Thing::Off || self.role == Some(Role::Secondary))
    }

    fn receive(&self) -> Option<Step> {
        match self.mirror {
            Thing::Off => {
                Some(Step::StartMirror { role: Role::Secondary, term: Term(0), alone: false, force: false })
            }
            Thing::Unclear => Some(Step::StopMirror),
            Thing::Starting | Thing::On | Thing::Stopping => None,
        }
    }

    fn up(&self, start: Step) -> Option<Step> {
        match (self.mirror, self.role) {
            (Thing::Off, _) => return Some(start),
            (Thing::On | Thing::Starting | Thing::Unclear, Some(Role::Secondary)) | (Thing::Unclear, _) => {
                return Some(Step::StopMirror);
            }
            _ => {}
        }
        match self.addresses {
            // Beside the mirror's start: the search for duplicates takes its time. But not before the former role is over.
            Thing::Off if self.role == Some(Role::Primary) && self.mirror != Thing::Stopping => {
                return Some(Step::TakeAddresses);
            }
            Thing::Unclear => return Some(Step::GiveUpAddresses),
            _ => {}
        }
        if self.application == Thing::Unclear {
            return Some(Step::StopApplication { force: true });
        }
        let serves = self.mirror == Thing::On && self.role == Some(Role::Primary);
        let may = serves && self.addresses == Thing::On && self.application == Thing::Off;
        may.then_some(Step::StartApplication)
    }

    fn down(&self, haste: Haste) -> Option<Step> {
        let fenced = haste == Haste::Fenced;
        let addresses_leave = matches!(self.addresses, Thing::On | Thing::Unclear);
        if fenced && addresses_leave {
            return Some(Step::GiveUpAddresses);
        }
        match self.application {
            Thing::On | Thing::Starting => return Some(Step::StopApplication { force: fenced }),
            Thing::Unclear => return Some(Step::StopApplication { force: true }),
            // A stop in order that is under way takes too long for one who is fenced.
            Thing::Stopping if fenced && !self.by_force => {
                return Some(Step::StopApplication { force: true });
            }
            // What waits in the kernel for the peer cannot be ended before the mirror lets it go.
            Thing::Stopping if fenced && self.addresses == Thing::Off => {
                let runs = matches!(self.mirror, Thing::On | Thing::Starting | Thing::Unclear);
                return runs.then_some(Step::StopMirror);
            }
            Thing::Stopping => return None,
            Thing::Off => {}
        }
        if addresses_leave {
            return Some(Step::GiveUpAddresses);
        }
        if self.addresses != Thing::Off || self.draining {
            return None;
        }
        let drains = haste == Haste::Drain && self.role == Some(Role::Primary) && self.drained.is_none();
        match self.mirror {
            Thing::On if drains => Some(Step::Drain),
            Thing::On | Thing::Starting | Thing::Unclear => Some(Step::StopMirror),
            Thing::Off | Thing::Stopping => None,
        }
    }

    /// A step was ordered.
    pub fn begin(&mut self, step: Step) {
        match step {
            Step::StartMirror { role, .. } => {
                (self.mirror, self.role) = (Thing::Starting, Some(role));
                self.drained = None;
            }
            Step::StopMirror => (self.mirror, self.draining) = (Thing::Stopping, false),
            Step::Drain => self.draining = true,
            Step::TakeAddresses => self.addresses = Thing::Starting,
            Step::GiveUpAddresses => self.addresses = Thing::Stopping,
            Step::StartApplication => self.application = Thing::Starting,
            Step::StopApplication { force } => {
                (self.application, self.by_force) = (Thing::Stopping, force);
            }
        }
    }

    /// A step has ended. Whether that changed anything: the end of a start that was broken off does not.
    pub fn end(&mut self, step: Step, well: bool) -> bool {
        let (thing, during, then) = match step {
            Step::StartMirror { .. } => (&mut self.mirror, Thing::Starting, Thing::On),
            Step::StopMirror => (&mut self.mirror, Thing::Stopping, Thing::Off),
            Step::Drain => {
                let was = core::mem::take(&mut self.draining);
                if was {
                    self.drained = Some(well);
                }
                return was;
            }
            Step::TakeAddresses => (&mut self.addresses, Thing::Starting, Thing::On),
            Step::GiveUpAddresses => (&mut self.addresses, Thing::Stopping, Thing::Off),
            Step::StartApplication => (&mut self.application, Thing::Starting, Thing::On),
            Step::StopApplication { force } => {
                if force != self.by_force {
                    return false;
                }
                (&mut self.application, Thing::Stopping, Thing::Off)
            }
        };
        if *thing != during {
            return false;
        }
        *thing = if well { then } else { Thing::Unclear };
        true
    }
}
