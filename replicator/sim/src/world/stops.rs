//! Nodes that are stopped in order: what they knew is kept, and what was changed while nobody watched is found by what the files
//! look like.

use replicator_core::checkpoint::Checkpoint;

use super::*;
use crate::files::File;

/// So often something is done before a stop gives up waiting for the rest.
const ROUNDS: usize = 60;

impl World {
    /// The primary is told to stop, and has the time to do what is under way.
    pub(super) fn come_to_rest(&mut self) {
        for volume in (0..self.shape.volumes).map(VolumeId) {
            // Its result is that of any other sync.
            let _ = self.sync_local(SyncScope::Volume(volume));
        }
        self.drain_capture();
        self.tell_primary(Event::Stop);
        for _ in 0..ROUNDS {
            if self.primary.is_at_rest() {
                break;
            }
            self.do_something();
        }
    }

    /// No mapping is left, because the gate is gone; files change until the next start.
    pub(super) fn stop_primary(&mut self) {
        self.come_to_rest();
        self.drain_capture();
        let checkpoint = self.primary.checkpoint().map(|checkpoint| reread(&checkpoint));
        self.primary_disk.checkpoint.replace(checkpoint, Reached::Synced);
        // From here on nobody asks before files are changed.
        self.make_void();
        let before = self.files.clone();
        self.change_unseen();
        self.restart_primary();
        let Some(checkpoint) = self.primary_disk.checkpoint.get().clone() else { return };
        // It is used once, whatever happens from here on.
        let lasting = self.sabotage != Sabotage::UnsyncedRemoval;
        let reached = if lasting { Reached::Synced } else { Reached::Renamed };
        self.primary_disk.checkpoint.replace(None, reached);
        self.stats.checkpoints += 1;
        self.primary.restore(checkpoint);
        for inode in self.files.files.keys().copied().collect::<Vec<_>>() {
            self.learn(inode);
        }
        if self.sabotage == Sabotage::UnseenChanges {
            return;
        }
        if self.random.chance(5) {
            // It cannot be told what changed.
            return self.tell_primary(Event::Untold { lasting: false });
        }
        let mut found: Vec<Event> =
            self.files.files.iter().flat_map(|(inode, file)| differs(&before, *inode, file)).collect();
        let gone = before.files.keys().filter(|inode| !self.files.files.contains_key(inode));
        found.extend(gone.map(|inode| Event::CaptureLost { file: id(*inode) }));
        while !found.is_empty() {
            let event = found.swap_remove(self.random.below(found.len()));
            self.tell_primary(event);
        }
        // A saboteur is not spared.
        let danger = if self.sabotage == Sabotage::UnsyncedRemoval { 90 } else { 30 };
        if self.shape.power_cuts && self.random.chance(danger) {
            self.cut_before_it_connects();
        }
    }

    /// The machine loses its power after its node went on from what it kept, and before anybody was connected to.
    fn cut_before_it_connects(&mut self) {
        for _ in 0..self.random.below(20) {
            self.application();
            self.capture();
            self.files.note_names();
        }
        self.cut_primary();
    }

    /// Nobody watches.
    fn change_unseen(&mut self) {
        self.running = false;
        let changes = if self.random.chance(50) { self.random.below(6) } else { 0 };
        for _ in 0..changes {
            self.application();
        }
        self.running = true;
    }

    pub(super) fn stop_secondary(&mut self) {
        self.tell_secondary(Event::Stop);
        for _ in 0..ROUNDS {
            if self.secondary.is_at_rest() {
                break;
            }
            self.serve_something();
        }
        let Some(checkpoint) = self.secondary.checkpoint() else { return self.restart_secondary() };
        self.stats.checkpoints += 1;
        let checkpoint = reread(&checkpoint);
        let failed = self.secondary_failed;
        self.end_secondary();
        self.forget_register();
        self.secondary_failed = failed;
        self.secondary.restore(checkpoint);
        if self.random.chance(10) {
            self.replica.restart();
            self.tell_secondary(Event::CopyChanged);
        }
    }
}

/// What is read of what was written.
fn reread(checkpoint: &Checkpoint) -> Checkpoint {
    Checkpoint::decode(&checkpoint.encode()).unwrap()
}

/// What is to be told of a file that does not look as it did. What is gone shows in the directories it was in.
fn differs(before: &Files, inode: u64, file: &File) -> Vec<Event> {
    let looks = |file: &File| {
        (file.uid, file.kind, file.cells.clone(), file.attributes, file.entries.clone(), file.links)
    };
    let file_id = id(inode);
    match before.files.get(&inode) {
        None => Vec::new(),
        Some(former) if looks(former) == looks(file) => Vec::new(),
        Some(_) => match file.kind {
            FileKind::Regular => vec![Event::CaptureLost { file: file_id }],
            FileKind::Directory => vec![
                Event::DirectoryChanged { directory: file_id },
                Event::AttributesChanged { file: file_id },
            ],
            _ => vec![Event::AttributesChanged { file: file_id }],
        },
    }
}
