//! **acknowledged-is-durable**, across failovers: whoever starts the application holds every write that anybody was told to be done, and so do
//! both nodes at the end. What was kept aside where histories parted is counted as that.

use std::collections::BTreeSet;

use super::Broken;

#[derive(Default)]
pub struct Check {
    acknowledged: BTreeSet<u64>,
}

impl Check {
    pub fn acknowledged(&mut self, number: u64) {
        self.acknowledged.insert(number);
    }

    /// The loser's copy was replaced by the winner's, and kept.
    pub fn kept_aside(&mut self, loser: &[u64], winner: &[u64]) {
        let winner: BTreeSet<u64> = winner.iter().copied().collect();
        for number in loser.iter().filter(|number| !winner.contains(number)) {
            self.acknowledged.remove(number);
        }
    }

    pub fn holds(&self, data: &[u64], when: &str, node: usize) -> Result<(), Broken> {
        let data: BTreeSet<u64> = data.iter().copied().collect();
        let lost: Vec<u64> = self.acknowledged.difference(&data).take(5).copied().collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(("acknowledged-is-durable", format!("{when} {node} lacks {lost:?} that were acknowledged")))
    }
}
