//! What an operator sees of a primary.

use crate::ids::FileId;
use crate::snapshot::{Counters, ResyncProgress, Snapshot};

use super::Primary;

impl Primary {
    pub fn snapshot(&self) -> Snapshot {
        let session = self.session.as_ref();
        let marked = self.marks.files.values().filter(|marks| !marks.is_clean());
        let bytes = self.marks.files.values().map(|marks| {
            marks.dirty.bytes()
                + marks.recorded.bytes()
                + marks.mapped.bytes()
                + marks.compare.bytes()
                + marks.syncing.iter().map(|syncing| syncing.stored.bytes()).sum::<u64>()
        });
        Snapshot {
            phase: self.phase,
            record: self.record.durable(),
            account: self.account(),
            asks: self.asks(),
            deposed: self.deposed,
            positions: session.map(|session| session.positions).unwrap_or_default(),
            dirty_files: marked.count() as u64,
            dirty_bytes: bytes.sum(),
            in_flight_bytes: self.in_flight_bytes,
            window_bytes: self.reading_bytes + session.map_or(0, |session| session.unapplied_bytes),
            waiting: self.waiting_callers() as u64,
            resync: session.map_or_else(ResyncProgress::default, |session| ResyncProgress {
                directories_left: self.names.directories_left() as u64,
                files_found: self.names.found,
                names_listed: self.names.seen,
                files_left: session.compare_files.len() as u64,
                files_compared: session.files_compared,
                bytes_compared: session.bytes_compared,
                bytes_sent: session.bytes_sent,
            }),
            unapplied_frames: 0,
            asked: self.asked.as_ref().map(|asked| asked.progress),
            verify: self.verify.as_ref().map(|verify| verify.progress),
            beginning: self.beginning,
            reunion: self.meeting.found,
            refused: self.meeting.is_refused(),
            counters: Counters { widened: self.marks.widened, ..self.counters },
        }
    }

    pub fn is_marked(&self, file: FileId) -> bool {
        let listing = self.names.is_marked(file);
        // What was logged and not yet looked at may mark any file.
        !self.log.is_empty() || listing || self.marks.get(file).is_some_and(|marks| !marks.is_clean())
    }
}
