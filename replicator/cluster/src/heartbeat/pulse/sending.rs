//! What is sent.

use std::time::Duration;

use super::super::config::PATHS_MAX;
use super::super::wire::{Answer, Header, Heard, PIECE_BYTES, Piece, Session, pieces_of, seal};
use super::{Output, Pulse};

impl Pulse {
    /// Send on all paths: who this is, what it has heard, and the payload unless the peer holds it.
    pub(super) fn send_round(&mut self, now: Duration, tick: bool, out: &mut Vec<Output>) {
        self.haste = None;
        let carries = self.version > 0 && self.peer.as_ref().is_some_and(|peer| peer.holds != self.version);
        let first = self.sequence + 1;
        let steady = self.alive && self.candidates.is_empty();
        let (key, id, other_key) = self.keys.select(steady);
        let answer = self.candidates.next_answer();
        let payload = std::mem::take(&mut self.payload);
        for index in 0..if carries { pieces_of(payload.len()) } else { 1 } {
            self.sequence += 1;
            let piece = if carries {
                Piece::of(self.version, payload.len(), index)
            } else {
                Piece::none(self.version)
            };
            let begin = if carries { index * PIECE_BYTES } else { 0 };
            let bytes = payload.get(begin..begin + usize::from(piece.length)).unwrap_or_default();
            for path in 0..self.paths.len() {
                let header = Header { key: id, other_key, piece, ..self.header(now, path, answer) };
                let datagram = seal(&header, bytes, &self.settings.peer, &key);
                out.push(Output::Send { path, datagram });
            }
        }
        self.payload = payload;
        self.rounds.push(first, self.sequence, now, tick);
        for watch in &mut self.paths {
            watch.counters.sent += self.sequence + 1 - first;
        }
    }

    fn header(&self, now: Duration, path: usize, answer: Answer) -> Header {
        Header {
            // At most `PATHS_MAX`.
            path: path as u8,
            cluster: self.settings.cluster,
            sender: self.settings.node,
            session: self.session,
            sequence: self.sequence,
            ticks: self.ticks,
            interval_us: u32::try_from(self.settings.interval.as_micros()).unwrap_or(u32::MAX),
            era: self.era,
            heard: self.heard(now, path),
            answer,
            ..Header::default()
        }
    }

    fn heard(&self, now: Duration, path: usize) -> Heard {
        let Some(peer) = &self.peer else { return Heard { session: Session::NONE, ..Heard::default() } };
        let mut sequences = [0; PATHS_MAX];
        for (sequence, watch) in sequences.iter_mut().zip(&self.paths) {
            *sequence = watch.window.highest();
        }
        let heard_at = self.paths.get(path).and_then(|watch| watch.heard_at);
        let held = heard_at.map(|at| now.saturating_sub(at).as_micros());
        let held = held.and_then(|held| u32::try_from(held).ok()).filter(|held| *held != u32::MAX);
        let version = self.assembly.complete();
        Heard { session: peer.session, era: peer.era, held, version, sequences }
    }
}
