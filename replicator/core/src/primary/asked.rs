//! What an operator asks for beside what happens by itself: compare this, send what is marked now.

use crate::ids::FileId;

use super::Primary;

impl Primary {
    /// All of the file is to be compared, of a directory all below it.
    pub(super) fn on_compare_requested(&mut self, file: FileId) {
        // What has no name at the peer is sent as a whole when it gets one.
        if self.session.is_none() || self.is_known(file) {
            self.compare_all_of(file);
        }
    }

    /// Neither marks nor attempts to connect rest any longer.
    pub(super) fn on_hurry(&mut self) {
        let now = self.now;
        if self.session.is_none() {
            return self.dial.hurry(now);
        }
        self.queues.settling.iter_mut().for_each(|(due, _)| *due = now);
        let rested = core::mem::take(&mut self.queues.delayed);
        self.queues.delayed = rested.into_iter().map(|(_, file)| (now, file)).collect();
        let mapped = core::mem::take(&mut self.queues.mapped);
        self.queues.mapped = mapped.into_iter().map(|(_, file)| (now, file)).collect();
    }
}
