//! Names that change all the time: a comparison of everything has to end nevertheless.

use super::*;

/// Most steps until it ends.
const STEPS_TO_COMPARE: u64 = 200_000;
/// Names change while no more operations wait to be told.
const UNTOLD_MAX: usize = 8;

impl World {
    /// Whether names change while everything is compared, in the world of that seed. Drawn by itself: the faults before stay those of the seed.
    pub(super) fn draw_churn(seed: u64) -> bool {
        Random::new(seed ^ 0xC0_17_AC_7E_D5).chance(25)
    }

    /// The secondary loses what it knows, and everything is compared, while names in a directory go on changing.
    pub(super) fn compare_while_names_change(&mut self) -> Result<(), String> {
        let directory = self.some_directory();
        let before = self.primary.snapshot().counters.sessions;
        self.crash_secondary();
        for _ in 0..STEPS_TO_COMPARE {
            self.step();
            // Nothing holds up names but the disk behind them; all others share the window.
            let has_room = self.primary.snapshot().window_bytes < self.config.window_bytes / 2;
            if self.named.len() < UNTOLD_MAX && has_room {
                self.change_a_name(directory);
            }
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
            let snapshot = self.primary.snapshot();
            if snapshot.phase == Phase::Mirrored && snapshot.counters.sessions > before {
                self.stats.churned += 1;
                return Ok(());
            }
        }
        let (resync, marked) = (self.primary.snapshot().resync, self.unquiet());
        Err(format!("a comparison does not end while names change: {resync:?} {marked:?}"))
    }

    fn change_a_name(&mut self, directory: u64) {
        let (entry, name) = (self.some_entry(directory), self.some_name());
        match entry {
            // A file that gets another name is read anew: not so often that its reads never end.
            Some((_, inode)) if self.primary.is_marked(id(inode)) => {}
            Some((old_name, _)) if self.random.chance(80) => {
                self.rename(directory, &old_name, directory, &name, 10);
            }
            Some((old_name, inode)) if self.files.files[&inode].kind == FileKind::Regular => {
                self.unlink(directory, &old_name);
            }
            _ if !self.files.files[&directory].entries.contains_key(&name) => {
                self.create(directory, &name, FileKind::Regular);
            }
            _ => {}
        }
        self.close_what_has_no_name();
    }

    /// Else what is to be sent would grow and grow.
    fn close_what_has_no_name(&mut self) {
        let nameless = self.files.files.iter().filter(|(_, file)| file.open && file.links == 0);
        let nameless: Vec<u64> = nameless.map(|(inode, _)| *inode).collect();
        for inode in nameless {
            self.files.files.get_mut(&inode).unwrap().open = false;
            self.reap(inode);
        }
    }
}
