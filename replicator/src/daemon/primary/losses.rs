//! What was not told, or told by others: it is compared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use replicator_core::event::Event;
use replicator_core::ids::FileId;
use tracing::warn;

use super::super::engine::Core;
use super::Primary;
use crate::notify::Change;
use crate::volume::Volume;

/// After a comparison of everything was asked for, the next is not asked for before this has passed.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

impl Primary {
    /// Events were lost: files that were opened for writing are compared first, because somebody may wait for them; then everything,
    /// because what was lost may be about a file that nobody opened through the gate.
    pub(super) fn on_lost(&mut self, core: &mut Core, lost: u64) {
        warn!(
            lost,
            "kernel events were lost: everything is compared, files that were opened for writing first"
        );
        core.publisher().on_lost(lost);
        if self.trace_only {
            // Names may have been lost with them; only a session that lists them all sets that right.
            compare_anew(core, "kernel events were lost");
            return;
        }
        for volume in &self.volumes {
            for inode in volume.writers().into_iter().filter(|inode| !volume.is_outside(*inode)) {
                core.mark(Event::CaptureLost { file: volume.file(inode) });
            }
        }
        self.compare_everything(core);
    }

    /// Have all trees listed and compared, without ending the session. What is lost in quick succession is followed by one
    /// comparison that begins after the last of it.
    pub(super) fn compare_everything(&mut self, core: &mut Core) {
        if self.compared_at.is_some_and(|at| at.elapsed() < COMPARE_EVERY) {
            self.compare_due = true;
            return;
        }
        self.compared_at = Some(Instant::now());
        core.safe_set().make_void();
        self.compare_due = false;
        for volume in &self.volumes {
            // In the order of events. Without a session it is remembered for the next, if that does not compare all anyway.
            core.tell(Event::CaptureLost { file: volume.root_file() });
        }
    }

    /// Others than this process made changes, of which no operation tells.
    pub(super) fn on_behind(&mut self, core: &mut Core, changes: &[Change], last: Option<String>) {
        core.publisher().on_behind(changes, last);
        for change in changes {
            match *change {
                Change::Names { directory, .. } => core.mark(Event::DirectoryChanged { directory }),
                // After the lists of the directories it left and came to were asked for.
                Change::Moved { file } => core.tell(Event::CaptureLost { file }),
                Change::Attributes { file } | Change::Closed { file } | Change::Content { file }
                    if is_outside_now(&self.volumes, file) => {}
                Change::Attributes { file } | Change::Closed { file } => {
                    core.mark(Event::AttributesChanged { file });
                }
                Change::Content { file } => core.mark(Event::CaptureLost { file }),
                Change::Lost | Change::Ended => {
                    warn!("changes behind the gate were lost: everything is compared");
                    if matches!(change, Change::Ended) {
                        // Nobody tells of any more.
                        core.tell(Event::Untold { lasting: true });
                    }
                    self.compare_everything(core);
                }
            }
        }
    }

    /// Files that became known are told of from now on, though they were found outside before; what they hold is not known.
    pub(super) fn admit_learnt(&mut self, core: &mut Core) {
        let Some(tracer) = &mut self.tracer else { return };
        for volume in &self.volumes {
            for inode in volume.take_learnt() {
                if tracer.found_inside(volume.id, inode) {
                    core.mark(Event::CaptureLost { file: volume.file(inode) });
                }
            }
        }
    }
}

/// Begin a session that compares everything.
pub(super) fn compare_anew(core: &mut Core, why: &str) {
    core.tell(Event::Untold { lasting: false });
    core.break_session(why);
}

/// Whether all names of a file are left out of the tree, so that its changes concern nobody.
pub(super) fn is_outside(volumes: &[Arc<Volume>], file: FileId) -> bool {
    volumes.get(usize::from(file.volume.0)).is_some_and(|volume| volume.is_outside(file.inode))
}

/// The same of a file, or a directory, that nobody opened for writing.
pub(super) fn is_outside_now(volumes: &[Arc<Volume>], file: FileId) -> bool {
    volumes.get(usize::from(file.volume.0)).is_some_and(|volume| volume.is_outside_now(file.inode))
}
