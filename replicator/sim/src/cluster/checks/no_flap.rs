//! **no-flap**: the application moves only when something gives it a reason: an order, a node or a process that ended or was paused, or a peer
//! that was not heard on any path for the dead time, nor by a session of the mirror. A mirror's link that breaks, and paths that break one by one, or for less than that, alone never
//! are one; and one reason is good for one move.

use super::Broken;

pub struct Check {
    last: Option<usize>,
    reasons: u32,
    always: bool,
    /// The last start was a move.
    pub changed: bool,
}

impl Check {
    pub fn new(always: bool) -> Check {
        Check { last: None, reasons: 0, always, changed: false }
    }

    pub fn reason(&mut self) {
        self.reasons += 1;
    }

    pub fn starts(&mut self, node: usize) -> Result<(), Broken> {
        let former = self.last.replace(node);
        self.changed = former.is_some_and(|former| former != node);
        let reasons = if self.changed { std::mem::take(&mut self.reasons) } else { 1 };
        if reasons == 0 && !self.always {
            return Err(("no-flap", format!("the application moves to {node} without a reason")));
        }
        Ok(())
    }
}
