//! The promises, each in a file. They know what happened, and nothing of how it was decided.

mod acknowledged_is_durable;
mod addresses;
mod answered_once;
mod never_two_applications;
mod no_flap;
mod one_acknowledger;
mod one_step;
mod stale_never_promotes;

use replicator_core::cluster::Policy;

use super::shape::Shape;

/// A promise that does not hold, and why.
pub type Broken = (&'static str, String);

/// What is promised depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// There is one history.
    Consistent,
    /// By policy, or by an operator's force, histories may part.
    Parting,
}

/// All of them.
pub struct Checks {
    pub kind: Kind,
    pub one_acknowledger: one_acknowledger::Check,
    pub durable: acknowledged_is_durable::Check,
    pub stale_never_promotes: stale_never_promotes::Check,
    pub applications: never_two_applications::Check,
    pub addresses: addresses::Check,
    pub no_flap: no_flap::Check,
    pub answered_once: answered_once::Check,
    pub one_step: one_step::Check,
}

impl Checks {
    pub fn new(shape: &Shape) -> Checks {
        let parting = shape.policy == Policy::AvailabilityFirst;
        Checks {
            kind: if parting { Kind::Parting } else { Kind::Consistent },
            one_acknowledger: one_acknowledger::Check::default(),
            durable: acknowledged_is_durable::Check::default(),
            stale_never_promotes: stale_never_promotes::Check,
            applications: never_two_applications::Check::default(),
            addresses: addresses::Check::default(),
            no_flap: no_flap::Check::new(shape.failback),
            answered_once: answered_once::Check,
            one_step: one_step::Check::default(),
        }
    }

    pub fn histories_may_part(&self) -> bool {
        self.kind == Kind::Parting
    }
}
