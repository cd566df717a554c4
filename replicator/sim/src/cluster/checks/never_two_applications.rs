//! **never-two-applications**: the application does not run on two nodes whose daemons both run and have heard each other for longer than it takes
//! to fence. So both run it only where one of them was paused, isolated or without its daemon, and not for long after; and never in an
//! orderly swap.

use super::Broken;
use crate::cluster::world::{SECOND, World};

/// Fencing: the stop by force, which may fail a few times.
const BOUND: u64 = 12 * SECOND;

#[derive(Default)]
pub struct Check {
    /// Both daemons run and hear each other since.
    hearing_since: Option<u64>,
    /// And the application runs on both.
    both_since: Option<u64>,
}

impl Check {
    /// `parting`: somebody may have ordered it; then it is not for long.
    pub fn look(&mut self, now: u64, hear: bool, both: bool, parting: bool) -> Result<(), Broken> {
        if !hear {
            (self.hearing_since, self.both_since) = (None, None);
            return Ok(());
        }
        let hearing = *self.hearing_since.get_or_insert(now);
        self.both_since = both.then(|| self.both_since.unwrap_or(now));
        let since = if parting { self.both_since.unwrap_or(now) } else { hearing };
        if both && now - since > BOUND {
            return Err((
                "never-two-applications",
                "the application runs on both nodes, and they hear each other".into(),
            ));
        }
        Ok(())
    }
}

impl World {
    pub(in crate::cluster) fn check_applications(&mut self) {
        let hear = self.nodes.iter().all(|node| node.decides() && node.hears_peer());
        let both = self.nodes.iter().all(|node| node.application);
        let found = self.checks.applications.look(self.now, hear, both, self.checks.histories_may_part());
        self.check(found);
    }

    /// The application begins to run.
    pub(in crate::cluster) fn application_starts(&mut self, node: usize) {
        if self.nodes[node].application {
            self.fail("never-two-applications", "it is started beside itself");
        }
        self.nodes[node].application = true;
        self.check_applications();
        let flap = self.checks.no_flap.starts(node);
        if !self.checks.histories_may_part() {
            self.check(flap);
        }
        self.stats.failovers += u64::from(self.checks.no_flap.changed);
        if self.checks.histories_may_part() {
            self.checks.one_acknowledger.off = true;
            return;
        }
        // A restart by one that has not noticed yet that its session is over: it cannot acknowledge, and will notice within the dead time.
        let session = |node: usize| self.nodes[node].process.as_ref().and_then(|process| process.session);
        let half_open = session(node).map(|(open, _)| open) != session(1 - node).map(|(open, _)| open);
        if session(node).is_some() && half_open {
            return;
        }
        if let Some(process) = &self.nodes[node].process {
            let term = process.durable.term;
            let one = self.checks.one_acknowledger.acts(node, term, "starts the application");
            self.check(one);
        }
        let held = self.checks.durable.holds(&self.nodes[node].disk.data, "at its start", node);
        self.check(held);
    }
}
