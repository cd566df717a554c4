//! What a node says of itself: the JSON of `replicator status --json`.
//!
//! Figures that a proof rests on have no default: a daemon that leaves one out fails the test instead of passing it
//! with a zero.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A node's status.
#[derive(Clone, Deserialize, Debug)]
#[allow(missing_docs)]
pub struct Status {
    pub node: String,
    pub word: String,
    #[serde(default)]
    pub colour: String,
    pub phase: String,
    pub mode: String,
    #[serde(default)]
    pub memory_bytes: u64,
    #[serde(default)]
    pub uptime_seconds: f64,
    pub capture: Capture,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    pub peer: Option<Peer>,
    pub positions: Positions,
    pub dirty: Dirty,
    #[serde(default)]
    pub lag: Lag,
    #[serde(default)]
    pub rate: Rate,
    #[serde(default)]
    pub barriers: Barriers,
    #[serde(default)]
    pub resync: Resync,
    #[serde(default)]
    pub safe_set: SafeSet,
    #[serde(default)]
    pub register: Register,
    pub reunion: Reunion,
    pub state: State,
    pub counters: Counters,
}

/// What both nodes' data are to each other.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Reunion {
    pub relation: String,
    pub refused: bool,
}

/// What is on record.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct State {
    pub term: u64,
    pub data: String,
    pub generation: String,
    pub shared: String,
    pub alone: bool,
    pub asks: u64,
}

/// How writes are seen.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Capture {
    pub row: String,
    #[serde(default)]
    pub why: String,
    #[serde(default)]
    pub hooks: Vec<Hook>,
    pub behind: Behind,
}

/// What others changed past the gate.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Behind {
    pub watched: bool,
    pub why: String,
    pub names: u64,
    pub attributes: u64,
    pub lost: u64,
    pub last: String,
}

/// A kernel program.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Hook {
    pub kind: String,
    pub state: String,
}

/// A mirrored directory.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Volume {
    pub path: String,
    #[serde(default)]
    pub filesystem: String,
    /// "mounted" or "off".
    #[serde(default)]
    pub gate: String,
    #[serde(default)]
    pub passthrough: bool,
    #[serde(default)]
    pub requests: BTreeMap<String, u64>,
    pub strict: Strict,
    pub nested_mounts: Vec<String>,
    pub protected: bool,
}

/// Files opened without passthrough although there is one.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Strict {
    pub files: u64,
    pub held: u64,
    pub waiting: u64,
    pub unrecorded: u64,
    pub waiting_paths: Vec<String>,
    pub last_unguarded: String,
}

/// The other node.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Peer {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub connected: bool,
}

/// Positions in the stream of frames.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Positions {
    pub queued: u64,
    pub sent: u64,
    pub received: u64,
    pub applied: u64,
    pub synced: u64,
}

/// What the peer does not hold yet.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Dirty {
    pub bytes: u64,
    pub files: u64,
    #[serde(default)]
    pub in_flight_bytes: u64,
}

/// How far the peer is behind.
#[derive(Clone, Copy, Deserialize, Default, Debug)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Lag {
    pub bytes: u64,
    pub seconds: f64,
}

/// Rates over the last seconds.
#[derive(Clone, Copy, Deserialize, Default, Debug)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Rate {
    pub captured_bytes_per_second: f64,
    pub sent_bytes_per_second: f64,
}

/// Held fsyncs.
#[derive(Clone, Copy, Deserialize, Default, Debug)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Barriers {
    pub answered: u64,
    pub waiting: u64,
    pub failed: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// The comparison of both trees.
#[derive(Clone, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Resync {
    pub active: bool,
    pub files: u64,
    pub files_compared: u64,
    pub bytes_compared: u64,
    pub bytes_sent: u64,
    pub resumed: bool,
    pub why: String,
}

/// What is compared after a crash.
#[derive(Clone, Copy, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct SafeSet {
    pub on: bool,
    pub files: u64,
    pub narrowed: u64,
}

/// Which file of a secondary is the copy of which, on record.
#[derive(Clone, Copy, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Register {
    pub on: bool,
}

/// Counters since the daemon's start.
#[derive(Clone, Copy, Deserialize, Default, Debug)]
#[allow(missing_docs)]
pub struct Counters {
    pub events: u64,
    pub events_lost: u64,
    pub widened: u64,
    #[serde(default)]
    pub frames_sent: u64,
    #[serde(default)]
    pub frames_received: u64,
    #[serde(default)]
    pub bytes_sent: u64,
    #[serde(default)]
    pub bytes_received: u64,
    pub frames_refused: u64,
    #[serde(default)]
    pub sessions: u64,
    #[serde(default)]
    pub handshakes_refused: u64,
    #[serde(default)]
    pub unguarded_syncs: u64,
    #[serde(default)]
    pub errors: u64,
    pub local_changes: u64,
}

impl Status {
    /// Whether the primary knows of nothing that the peer does not hold.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.dirty == Dirty::default()
    }

    /// What matters of it in one line, for an error message.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} {}, capture {}, {:?}, {:?}, {:?}, {:?}, {:?}",
            self.word,
            self.phase,
            self.capture.row,
            self.positions,
            self.dirty,
            self.barriers,
            self.resync,
            self.counters
        )
    }

    /// Whether this is a primary whose peer holds everything, or a secondary that does.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        matches!(self.phase.as_str(), "Mirrored" | "Following")
    }
}
