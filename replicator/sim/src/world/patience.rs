//! Machines that are paused, and disks that are slow: nothing is lost, and everything else goes on meanwhile.

/// Of one machine, in steps of the world that would have been its own.
#[derive(Clone, Copy, Default, Debug)]
pub struct Patience {
    paused: usize,
    slow: usize,
}

impl Patience {
    pub fn pause(&mut self, steps: usize) {
        self.paused = self.paused.max(steps);
    }

    pub fn slow_down(&mut self, syncs: usize) {
        self.slow = self.slow.max(syncs);
    }

    pub fn is_paused(&self) -> bool {
        self.paused > 0
    }

    /// It is the machine's turn, and it lets it pass.
    pub fn pauses(&mut self) -> bool {
        let paused = self.is_paused();
        self.paused = self.paused.saturating_sub(1);
        paused
    }

    /// Its disk is to make something durable, and is not done yet.
    pub fn is_slow(&mut self) -> bool {
        let slow = self.slow > 0;
        self.slow = self.slow.saturating_sub(1);
        slow
    }
}
