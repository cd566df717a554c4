//! The heartbeat's logic: what is believed, who is alive, what is sent when. No socket, no thread, no clock.
//!
//! Things that happen go in with the time at which they are noticed, orders and events come out, and [`Pulse::next_deadline`] tells
//! when to call again if nothing happens. Time is that since some moment before the start; it is trusted for nothing but to notice
//! that it is late, and for measurements.

mod candidates;
mod pace;
mod receiving;
mod rounds;
mod sending;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use self::candidates::Candidates;
use self::pace::Pace;
use self::rounds::Rounds;
use self::watch::Watch;
use super::config::HeartbeatConfig;
use super::event::Event;
use super::keys::{Key, Keyring};
use super::pieces::Assembly;
use super::snapshot::Snapshot;
use super::wire::{Datagram, Session};

/// Shortest time between two datagrams that do not wait for a tick: fifty of them in a second.
pub(crate) const HASTE_MIN: Duration = Duration::from_millis(20);

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// The deadline has passed, or may have.
    Time,
    /// Somebody sent something to the socket of a path.
    Datagram { path: usize, bytes: &'a [u8] },
    /// This node says something new.
    Publish(Vec<u8>),
    /// There is a new key.
    Rekey(&'a Key),
    /// No more will happen: what waits for its time is sent now.
    Finish,
}

/// What is to be done.
#[derive(PartialEq, Debug)]
// A vector of outputs is used again and again, so that sending does not allocate; its size does not matter.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Output {
    /// Send on a path.
    Send { path: usize, datagram: Datagram },
    /// Tell.
    Event(Event),
}

/// What does not change.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Settings {
    cluster: [u8; 16],
    node: [u8; 16],
    peer: [u8; 16],
    interval: Duration,
    dead_ticks: u32,
    late: Duration,
}

/// The session of the peer that is believed.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Peer {
    session: Session,
    era: u32,
    /// Datagrams up to this number may be recorded before this session was proven.
    floor: u64,
    /// Highest sequence number so far.
    highest: u64,
    /// Version of this node's payload that it holds.
    holds: u64,
}

/// The heartbeat of one node.
#[derive(Clone, PartialEq)]
pub(crate) struct Pulse {
    settings: Settings,
    keys: Keyring,
    session: Session,
    /// Rises when a session of the peer is believed, so that nothing recorded before proves another one.
    era: u32,
    sequence: u64,
    ticks: u64,
    due: Duration,
    /// Something is to be sent without waiting for the tick, at that time.
    haste: Option<Duration>,
    last_haste: Option<Duration>,
    payload: Vec<u8>,
    version: u64,
    peer: Option<Peer>,
    /// Sessions of the peer that were believed.
    number: u32,
    candidates: Candidates,
    assembly: Assembly,
    pace: Pace,
    rounds: Rounds,
    alive: bool,
    silence: u32,
    heard_at: Option<Duration>,
    longest_gap: Duration,
    late: u64,
    paths: Vec<Watch>,
}

impl Pulse {
    /// A heartbeat that begins `now`, with a configuration that is [valid](HeartbeatConfig::validate) and a session that was drawn
    /// for this start and is not zero.
    pub(crate) fn new(config: &HeartbeatConfig, session: Session, now: Duration) -> Pulse {
        let dead_ticks = config.dead_ticks();
        let settings = Settings {
            cluster: config.cluster,
            node: config.node,
            peer: config.peer,
            interval: config.interval,
            dead_ticks,
            late: config.dead_after / 2,
        };
        let mut keys = Keyring::new(&config.key);
        if let Some(next) = &config.next_key {
            keys.rekey(next);
        }
        Pulse {
            settings,
            keys,
            session,
            era: 0,
            sequence: 0,
            ticks: 0,
            due: now,
            haste: None,
            last_haste: None,
            payload: Vec::new(),
            version: 0,
            peer: None,
            number: 0,
            candidates: Candidates::default(),
            assembly: Assembly::new(),
            pace: Pace::default(),
            rounds: Rounds::new(),
            alive: false,
            silence: u32::MAX,
            heard_at: None,
            longest_gap: Duration::ZERO,
            late: 0,
            paths: vec![Watch::new(); config.paths.len()],
        }
    }

    /// The first tick is due now: whatever was done since the beginning took its time.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.due = now;
    }

    /// Take note of something that happened, and append what is to be done.
    pub(crate) fn handle(&mut self, now: Duration, input: Input<'_>, out: &mut Vec<Output>) {
        self.notice_lateness(now, out);
        match input {
            Input::Time if now >= self.due => self.on_tick(now, out),
            Input::Time => {}
            Input::Datagram { path, bytes } => self.on_datagram(now, path, bytes, out),
            Input::Publish(payload) => self.on_publish(now, payload),
            Input::Rekey(key) => self.keys.rekey(key),
            Input::Finish if self.haste.is_some() => self.send_round(now, false, out),
            Input::Finish => {}
        }
        if self.haste.is_some_and(|at| now >= at) {
            self.last_haste = Some(now);
            self.send_round(now, false, out);
        }
    }

    /// When to call again with [`Input::Time`].
    pub(crate) fn next_deadline(&self) -> Duration {
        self.haste.map_or(self.due, |at| at.min(self.due))
    }

    /// Write down what is known. Does not allocate if `into` was written before.
    pub(crate) fn snapshot(&self, into: &mut Snapshot) {
        into.alive = self.alive;
        into.session = self.number;
        into.silent_ticks = self.silence;
        into.ticks = self.ticks;
        into.longest_gap = self.longest_gap;
        into.published = self.version;
        into.peer_holds = self.peer.as_ref().map_or(0, |peer| peer.holds);
        into.heard = self.assembly.complete();
        into.key_changing = self.keys.is_changing();
        into.newest_key = self.keys.newest();
        into.late = self.late;
        into.paths.resize_with(self.paths.len(), Default::default);
        for (path, watch) in into.paths.iter_mut().zip(&self.paths) {
            watch.snapshot(path);
        }
    }

    /// Where its parts are that stay where they are and are used with every beat: address and bytes, to be locked. Before the first
    /// input, after which the place of [`Rounds`] cannot be told.
    pub(crate) fn places(&self) -> [(*const u8, usize); 4] {
        [
            (std::ptr::from_ref(self).cast(), size_of::<Pulse>()),
            (self.paths.as_ptr().cast(), size_of_val(&self.paths[..])),
            self.assembly.place(),
            self.rounds.place(),
        ]
    }

    /// The system did not send what it was told to.
    pub(crate) fn count_send_failure(&mut self, path: usize) {
        if let Some(watch) = self.paths.get_mut(path) {
            watch.counters.send_failures += 1;
        }
    }

    /// Whatever happens after the deadline by more than half the time until death happens after a pause.
    fn notice_lateness(&mut self, now: Duration, out: &mut Vec<Output>) {
        let by = now.saturating_sub(self.due);
        if by > self.settings.late {
            // The next tick is due at once: the peer is to hear from this node.
            self.due = now;
            self.be_late(by, out);
        }
    }

    /// Nothing is concluded from a silence during which this node was not there to hear.
    fn be_late(&mut self, by: Duration, out: &mut Vec<Output>) {
        self.late += 1;
        out.push(Output::Event(Event::Late { by }));
        if self.alive {
            self.silence = 0;
        }
        self.heard_at = None;
        for watch in &mut self.paths {
            watch.restart_counting(self.settings.dead_ticks);
        }
    }

    fn on_tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.ticks += 1;
        self.due += self.settings.interval;
        if self.due <= now {
            // Ticks that were not executed do not count, and are not made up for.
            self.due = now + self.settings.interval;
        }
        self.silence = self.silence.saturating_add(1);
        for watch in &mut self.paths {
            watch.silence = watch.silence.saturating_add(1);
        }
        self.candidates.tick(self.settings.dead_ticks);
        if self.alive {
            // Long enough for what was sent with the older key to have come.
            self.keys.tick(self.settings.dead_ticks.saturating_mul(2));
        }
        if self.alive && self.silence >= self.settings.dead_ticks {
            self.alive = false;
            out.push(Output::Event(Event::PeerDead));
        }
        self.judge_paths(out);
        self.send_round(now, true, out);
    }

    fn on_publish(&mut self, now: Duration, payload: Vec<u8>) {
        if self.version > 0 && self.payload == payload {
            return;
        }
        self.payload = payload;
        self.version += 1;
        self.hasten(now);
    }

    /// Do not wait for the tick, but not too often either.
    fn hasten(&mut self, now: Duration) {
        let earliest = self.last_haste.map_or(now, |last| last + HASTE_MIN);
        self.haste = Some(self.haste.unwrap_or(earliest.max(now)));
    }

    fn judge_paths(&mut self, out: &mut Vec<Output>) {
        for (index, watch) in self.paths.iter_mut().enumerate() {
            let state = watch.judge(self.alive, self.silence, self.settings.dead_ticks);
            if watch.state != state {
                watch.state = state;
                out.push(Output::Event(Event::Path { index, state }));
            }
        }
    }
}
