//! Sessions of the peer that have not proven to be present.

use super::super::wire::{Answer, Session};

const MAX: usize = 4;

#[derive(Clone, Copy, PartialEq, Debug)]
struct Candidate {
    answer: Answer,
    silence: u32,
}

/// A few sessions that are answered, so that one that is present can prove it. A recording only occupies a place for a time.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Candidates {
    places: [Option<Candidate>; MAX],
    next: usize,
}

impl Candidates {
    /// A datagram of a session came. Is that news?
    pub(super) fn note(&mut self, session: Session, era: u32) -> bool {
        let known = self.places.iter_mut().flatten().find(|known| known.answer.session == session);
        if let Some(known) = known {
            let news = known.answer.era != era;
            *known = Candidate { answer: Answer { session, era }, silence: 0 };
            return news;
        }
        // The one that was silent longest makes room.
        let place =
            self.places.iter_mut().max_by_key(|place| place.map_or(u64::MAX, |known| known.silence.into()));
        if let Some(place) = place {
            *place = Some(Candidate { answer: Answer { session, era }, silence: 0 });
        }
        true
    }

    pub(super) fn forget(&mut self, session: Session) {
        for place in &mut self.places {
            if place.is_some_and(|known| known.answer.session == session) {
                *place = None;
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.iter().all(Option::is_none)
    }

    /// The answer of the next datagrams: each in turn.
    pub(super) fn next_answer(&mut self) -> Answer {
        for _ in 0..MAX {
            self.next = (self.next + 1) % MAX;
            if let Some(Some(known)) = self.places.get(self.next) {
                return known.answer;
            }
        }
        Answer::default()
    }

    pub(super) fn tick(&mut self, limit: u32) {
        for place in &mut self.places {
            if let Some(known) = place {
                known.silence += 1;
                if known.silence >= limit {
                    *place = None;
                }
            }
        }
    }
}
