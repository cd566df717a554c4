//! names-in-order: while all changes of names pass the gate, every operation finds on the copy what it says.

use super::*;

impl World {
    pub(in crate::world) fn check_names_in_order(&mut self) {
        // A directory that is listed again is brought up to date by the list, and until then it may be behind.
        if !self.bypassed
            && !self.shape.losses
            && !self.verification.has_asked()
            && !self.listed_again
            && let Some(deviation) = self.replica.deviation.take()
        {
            self.fail(format!("names-in-order: {deviation}"));
        }
    }
}
