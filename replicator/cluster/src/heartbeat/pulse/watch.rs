//! One path.

use std::time::Duration;

use super::super::event::PathState;
use super::super::snapshot::{PathCounters, PathSnapshot};
use super::super::window::Window;
use super::super::wire::Refusal;

/// Ticks of silence after which a path is down while the peer is heard on another.
const DOWN_TICKS: u32 = 3;
/// Beats in a row the peer must miss before a path is one-way.
const UNHEARD_MIN: u32 = 2;

/// What is known of a path.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Watch {
    pub(super) window: Window,
    pub(super) heard_at: Option<Duration>,
    /// Own ticks since the peer was heard here.
    pub(super) silence: u32,
    /// Highest own sequence number the peer has heard here.
    pub(super) echoed: u64,
    /// The peer's session can have heard what was sent from this number on.
    pub(super) baseline: u64,
    pub(super) unheard: u32,
    /// The own sequence number by which the round trip was measured.
    pub(super) measured: u64,
    pub(super) round_trip: Option<Duration>,
    pub(super) longest_gap: Duration,
    pub(super) state: PathState,
    pub(super) counters: PathCounters,
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch {
            window: Window::default(),
            heard_at: None,
            silence: u32::MAX,
            echoed: 0,
            baseline: 0,
            unheard: 0,
            measured: 0,
            round_trip: None,
            longest_gap: Duration::ZERO,
            state: PathState::Down,
            counters: PathCounters::default(),
        }
    }

    /// Another session of the peer is believed, which hears what is sent from `baseline` on.
    pub(super) fn begin_session(&mut self, baseline: u64) {
        self.window = Window::default();
        self.echoed = 0;
        self.baseline = baseline;
        self.unheard = 0;
    }

    /// This node was not there to hear.
    pub(super) fn restart_counting(&mut self, dead_ticks: u32) {
        if self.silence < dead_ticks {
            self.silence = 0;
        }
        self.heard_at = None;
    }

    /// The peer was heard here.
    pub(super) fn hear(&mut self, now: Duration, sequence: u64) {
        self.window.insert(sequence);
        self.counters.accepted += 1;
        self.silence = 0;
        let gap = self.heard_at.map_or(Duration::ZERO, |before| now.saturating_sub(before));
        self.longest_gap = self.longest_gap.max(gap);
        self.heard_at = Some(now);
    }

    /// What gets through. `silence`: ticks since the peer was heard on whatever path.
    pub(super) fn judge(&self, alive: bool, silence: u32, dead_ticks: u32) -> PathState {
        let elsewhere = silence.saturating_add(1) < self.silence;
        let limit = if elsewhere { DOWN_TICKS.min(dead_ticks) } else { dead_ticks };
        let hears = self.silence < limit;
        let heard = self.unheard < UNHEARD_MIN;
        match (hears, heard) {
            _ if !alive => PathState::Down,
            (true, true) => PathState::Up,
            (true, false) => PathState::ReceiveOnly,
            (false, true) if self.echoed >= self.baseline.max(1) => PathState::SendOnly,
            (false, _) => PathState::Down,
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Garbage => &mut self.counters.garbage,
            Refusal::Stranger => &mut self.counters.strangers,
            Refusal::UnknownKey => &mut self.counters.unknown_key,
            Refusal::BadMac => &mut self.counters.bad_mac,
        };
        *counter += 1;
    }

    pub(super) fn snapshot(&self, into: &mut PathSnapshot) {
        into.state = self.state;
        into.silent_ticks = self.silence;
        into.unheard_beats = self.unheard;
        into.round_trip = self.round_trip;
        into.longest_gap = self.longest_gap;
        into.counters = self.counters;
    }
}
