//! **one-acknowledger**: once a node has acknowledged, or has started its application, with a term, no other node acknowledges with
//! that term or a lower one. What the peer confirms counts as acknowledged by the primary at the moment in which it is confirmed.
//!
//! A restart of the application on a node that has not noticed yet that its session is over does not count: it acknowledges nothing.
//! Where histories may part nothing is promised.

use replicator_core::ids::Term;

use super::Broken;

#[derive(Default)]
pub struct Check {
    top: Option<(Term, usize)>,
    pub off: bool,
}

impl Check {
    pub fn acts(&mut self, node: usize, term: Term, what: &str) -> Result<(), Broken> {
        match self.top {
            Some((top, other)) if !self.off && other != node && term <= top => {
                Err(("one-acknowledger", format!("{node} {what} with term {term}; {other} did with {top}")))
            }
            Some((top, _)) if term < top => Ok(()),
            _ => {
                self.top = Some((term, node));
                Ok(())
            }
        }
    }
}
