//! What was sent when, to be compared with what the peer says it has heard.

use std::collections::VecDeque;
use std::time::Duration;

const MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Debug)]
struct Round {
    first: u64,
    last: u64,
    sent: Duration,
    tick: bool,
}

/// The last rounds; one round is the datagrams that were sent at one moment.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Rounds(VecDeque<Round>);

impl Rounds {
    pub(super) fn new() -> Rounds {
        Rounds(VecDeque::with_capacity(MAX))
    }

    /// Where they will be. Valid while there are none.
    pub(super) fn place(&self) -> (*const u8, usize) {
        let (first, _) = self.0.as_slices();
        (first.as_ptr().cast(), self.0.capacity() * size_of::<Round>())
    }

    pub(super) fn push(&mut self, first: u64, last: u64, sent: Duration, tick: bool) {
        if self.0.len() >= MAX {
            self.0.pop_front();
        }
        self.0.push_back(Round { first, last, sent, tick });
    }

    /// When a datagram was sent, unless that is too long ago.
    pub(super) fn sent_at(&self, sequence: u64) -> Option<Duration> {
        let round = self.0.iter().rev().find(|round| round.first <= sequence)?;
        (sequence <= round.last).then_some(round.sent)
    }

    /// How many of the beats from `baseline` on that were sent before `until` come after the last one that was `heard`.
    pub(super) fn unheard(&self, heard: u64, baseline: u64, until: Duration) -> u32 {
        let unheard = |round: &&Round| {
            round.tick && round.first > heard && round.first >= baseline && round.sent <= until
        };
        self.0.iter().rev().take_while(|round| round.first > heard).filter(unheard).count() as u32
    }
}
