//! What is believed of what comes.

use std::time::Duration;

use super::super::event::Event;
use super::super::pieces::Offered;
use super::super::wire::{Header, Refusal, Unproven};
use super::{Output, Peer, Pulse};

/// What an authenticated datagram is worth.
enum Standing {
    /// Of the session that is believed, and new.
    Fresh,
    /// Of the session that is believed, and perhaps not new.
    Replay,
    /// Of another session, made after the last one was believed.
    Proven,
    /// Of another session, made who knows when.
    Unproven,
}

impl Pulse {
    pub(super) fn on_datagram(&mut self, now: Duration, path: usize, bytes: &[u8], out: &mut Vec<Output>) {
        let authentic = self.authenticate(bytes);
        let Some(watch) = self.paths.get_mut(path) else { return };
        let (header, piece) = match authentic {
            Ok(authentic) => authentic,
            Err(refusal) => return watch.refuse(refusal),
        };
        if usize::from(header.path) != path {
            watch.counters.crossed += 1;
            return;
        }
        match self.standing(path, &header) {
            Standing::Fresh => {}
            Standing::Proven => self.believe(now, &header, out),
            Standing::Replay => return self.count(path, |counters| counters.replays += 1),
            Standing::Unproven => {
                self.count(path, |counters| counters.unproven += 1);
                if self.candidates.note(header.session, header.era) {
                    self.hasten(now);
                }
                return;
            }
        }
        self.accept(now, path, &header, piece, out);
    }

    /// Nothing is changed before this has succeeded, but counters.
    fn authenticate<'a>(&self, bytes: &'a [u8]) -> Result<(Header, &'a [u8]), Refusal> {
        let unproven = Unproven::parse(bytes)?;
        let claim = unproven.claim();
        if claim.cluster != self.settings.cluster || claim.sender != self.settings.peer {
            return Err(Refusal::Stranger);
        }
        let key = self.keys.find(claim.key).ok_or(Refusal::UnknownKey)?;
        unproven.prove(&self.settings.node, key)
    }

    fn count(&mut self, path: usize, count: impl FnOnce(&mut super::super::snapshot::PathCounters)) {
        if let Some(watch) = self.paths.get_mut(path) {
            count(&mut watch.counters);
        }
    }

    fn standing(&self, path: usize, header: &Header) -> Standing {
        if let Some(peer) = self.peer.as_ref().filter(|peer| peer.session == header.session) {
            let fresh = self.paths.get(path).is_some_and(|watch| watch.window.is_fresh(header.sequence));
            return if fresh && header.sequence > peer.floor { Standing::Fresh } else { Standing::Replay };
        }
        let Header { heard, answer, .. } = header;
        let proven =
            [(heard.session, heard.era), (answer.session, answer.era)].contains(&(self.session, self.era));
        if proven { Standing::Proven } else { Standing::Unproven }
    }

    /// Another session of the peer has proven to be present.
    fn believe(&mut self, now: Duration, header: &Header, out: &mut Vec<Output>) {
        self.peer = Some(Peer {
            session: header.session,
            era: header.era,
            floor: header.sequence - 1,
            highest: 0,
            holds: 0,
        });
        self.number = self.number.saturating_add(1);
        self.era = self.era.wrapping_add(1);
        self.candidates.forget(header.session);
        self.assembly.reset();
        self.pace.reset();
        for watch in &mut self.paths {
            watch.begin_session(self.sequence + 1);
        }
        if self.number > 1 {
            out.push(Output::Event(Event::NewSession { number: self.number }));
        }
        // The peer waits for its proof, too.
        self.hasten(now);
    }

    fn accept(&mut self, now: Duration, path: usize, header: &Header, piece: &[u8], out: &mut Vec<Output>) {
        let newest = self.peer.as_ref().is_some_and(|peer| header.sequence > peer.highest);
        if newest {
            let late = self.settings.late;
            if let Some(by) = self.pace.observe(now, header.ticks, header.interval_us, late) {
                self.be_late(by, out);
            }
        }
        self.silence = 0;
        let gap = self.heard_at.map_or(Duration::ZERO, |before| now.saturating_sub(before));
        self.longest_gap = self.longest_gap.max(gap);
        self.heard_at = Some(now);
        if let Some(watch) = self.paths.get_mut(path) {
            watch.hear(now, header.sequence);
        }
        if !self.alive {
            self.alive = true;
            out.push(Output::Event(Event::PeerAlive));
        }
        self.measure(now, path, header);
        if newest {
            self.learn(now, header);
        }
        self.judge_paths(out);
        self.take_payload(path, header, piece, newest, out);
    }

    /// The round trip on a path, by the first datagram that says that another one was heard.
    fn measure(&mut self, now: Duration, path: usize, header: &Header) {
        let Some(watch) = self.paths.get_mut(path).filter(|_| header.heard.session == self.session) else {
            return;
        };
        let echoed = header.heard.sequences.get(path).copied().unwrap_or(0);
        if echoed > watch.measured
            && let (Some(sent), Some(held)) = (self.rounds.sent_at(echoed), header.heard.held)
        {
            let there_and_back = now.saturating_sub(sent);
            watch.round_trip = Some(there_and_back.saturating_sub(Duration::from_micros(held.into())));
            watch.measured = echoed;
        }
    }

    /// What the peer's newest datagram says of what it has heard.
    fn learn(&mut self, now: Duration, header: &Header) {
        let Some(peer) = &mut self.peer else { return };
        peer.highest = header.sequence;
        peer.era = header.era;
        self.keys.note_peer(header.key, header.other_key);
        let heard = &header.heard;
        if heard.session != self.session {
            peer.holds = 0;
            return;
        }
        peer.holds = heard.version;
        for (watch, echoed) in self.paths.iter_mut().zip(heard.sequences) {
            let echoed = echoed.min(self.sequence);
            watch.echoed = watch.echoed.max(echoed);
            // What was sent later cannot be in this answer yet.
            let settle = self.settings.interval / 2 + watch.round_trip.unwrap_or(self.settings.interval);
            watch.unheard = self.rounds.unheard(watch.echoed, watch.baseline, now.saturating_sub(settle));
        }
    }

    fn take_payload(
        &mut self,
        path: usize,
        header: &Header,
        piece: &[u8],
        newest: bool,
        out: &mut Vec<Output>,
    ) {
        let session = self.number;
        match self.assembly.offer(&header.piece, piece) {
            Offered::Complete(payload) => {
                let version = header.piece.version;
                out.push(Output::Event(Event::Heard { payload, session, version }));
                return;
            }
            Offered::Nothing => {}
            Offered::Contradiction => self.count(path, |counters| counters.garbage += 1),
        }
        let version = self.assembly.complete();
        if newest && header.piece.version == version {
            out.push(Output::Event(Event::Beat { session, sequence: header.sequence, version }));
        }
    }
}
