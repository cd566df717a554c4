//! **addresses**: they are not on both nodes for longer than it takes to give them up, while both daemons run and hear each other. And who did not
//! run for a while does not keep them for longer, though it hears nobody, if the other is active meanwhile.

use super::Broken;
use crate::cluster::world::{SECOND, World};

/// Giving them up may fail a few times.
const BOUND: u64 = 8 * SECOND;

#[derive(Default)]
pub struct Check {
    both_since: Option<u64>,
    resumed: [u64; 2],
    /// When it went on, the other was active already.
    replaced: [bool; 2],
}

impl Check {
    /// The node goes on.
    pub fn resumed(&mut self, node: usize, now: u64, replaced: bool) {
        (self.resumed[node], self.replaced[node]) = (now, replaced);
    }

    fn both(&mut self, now: u64, both: bool) -> Result<(), Broken> {
        if !both {
            self.both_since = None;
            return Ok(());
        }
        let since = *self.both_since.get_or_insert(now);
        if now - since > BOUND {
            return Err(("addresses", "both nodes have them, and hear each other".into()));
        }
        Ok(())
    }
}

impl World {
    pub(in crate::cluster) fn check_addresses(&mut self) {
        let both = self.nodes.iter().all(|node| node.addresses && node.decides() && node.hears_peer());
        let found = self.checks.addresses.both(self.now, both);
        self.check(found);
        for node in 0..2 {
            let it = &self.nodes[node];
            let check = &mut self.checks.addresses;
            check.replaced[node] &= it.addresses && it.up;
            let keeps = it.decides() && check.replaced[node] && self.now - check.resumed[node] > BOUND;
            if keeps && !self.checks.histories_may_part() {
                self.fail("addresses", &format!("{node} was paused and replaced, and keeps them"));
            }
        }
    }

    /// The other node serves with a higher term.
    pub(in crate::cluster) fn is_replaced(&self, node: usize) -> bool {
        let term = |node: usize| {
            let node = &self.nodes[node];
            let serves = node.process.as_ref().filter(|process| process.is_primary() && node.application);
            serves.map(|process| process.durable.term)
        };
        term(node).is_some() && term(1 - node) > term(node)
    }
}
