//! Clients: numbered writes to whoever has the address.

use super::world::{Happening, MS, World};

impl World {
    pub(super) fn write(&mut self) {
        let pause = self.between(60 * MS, 400 * MS);
        self.after(pause, Happening::Write);
        let serving: Vec<usize> = (0..2).filter(|node| self.serves(*node)).collect();
        let Some(node) = self.random.one(&serving) else { return };
        self.writes += 1;
        let number = self.writes;
        self.nodes[node].disk.data.push(number);
        if let Some(process) = &mut self.nodes[node].process {
            process.outstanding.push((number, false));
        }
        self.replicate(node, number);
        self.advance(node);
    }

    fn serves(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        let primary = node.process.as_ref().is_some_and(|process| process.is_primary());
        node.runs() && node.addresses && node.application && primary
    }
}
