//! What a node says of itself: the answer of `replicator status`, and the contract with everything that watches a node.
//!
//! Fields are only ever added. A reader takes a missing field for its zero and passes over one it does not know, so that
//! command line and daemon may differ in version.

mod reunion;
mod state;

use std::collections::BTreeMap;

use replicator_core::action::Phase;
use serde::{Deserialize, Serialize};

use crate::config::{Mode, Role};

pub use reunion::ReunionStatus;
pub use state::StateStatus;

/// Everything a node says of itself.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// What it was configured to be.
    pub role: Role,
    /// The operator's single word.
    pub word: Word,
    /// How that word is to be taken.
    pub colour: Colour,
    /// Where the mirror stands, as the protocol calls it (see [`phase_name`]).
    pub phase: String,
    /// When an fsync returns.
    pub mode: Mode,
    /// Seconds since the daemon started.
    pub uptime_seconds: f64,
    /// The daemon's resident memory in bytes.
    pub memory_bytes: u64,
    /// How changes are captured.
    pub capture: CaptureStatus,
    /// The mirrored directories, in the configuration's order.
    pub volumes: Vec<VolumeStatus>,
    /// The other node.
    pub peer: PeerStatus,
    /// Positions in the stream of this session.
    pub positions: Positions,
    /// What the peer has not confirmed.
    pub dirty: Dirty,
    /// How far the peer is behind.
    pub lag: Lag,
    /// Rates over the last few seconds.
    pub rate: Rate,
    /// Held fsyncs.
    pub barriers: Barriers,
    /// The comparison of both trees.
    pub resync: Resync,
    /// What is compared after a crash of this node.
    pub safe_set: SafeSet,
    /// What is on record of a secondary's copy.
    pub register: Register,
    /// The verification that is under way, or the last one.
    pub verify: VerifyStatus,
    /// What both nodes' data are to each other.
    pub reunion: ReunionStatus,
    /// What is on record of this node, for whoever decides which node is the primary.
    pub state: StateStatus,
    /// What happened since the daemon started.
    pub counters: Counters,
}

/// Files that may differ from the peer's after a crash of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SafeSet {
    /// Whether they alone are compared; else everything is.
    pub on: bool,
    /// Files and directories in it.
    pub files: u64,
    /// Those of which only a part is in doubt.
    pub narrowed: u64,
    /// Writes to its log since the daemon started.
    pub commits: u64,
}

/// Which file of a secondary is the copy of which, on record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Register {
    /// Whether it is there: after a crash of this node what was not confirmed is compared, else everything is.
    pub on: bool,
}

/// The operator's single word for a node: derived for display, never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Nothing runs.
    #[default]
    Stopped,
    /// Runs, and neither serves nor mirrors: no peer.
    Waiting,
    /// Serves without a second copy.
    Alone,
    /// Serves, and the peer holds a copy.
    Primary,
    /// Holds the copy.
    Secondary,
}

/// How a node's word is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Ready: as it should be.
    Green,
    /// Transient: works, and is on its way to something better or needs a look.
    Orange,
    /// Not ready: does not do its work.
    #[default]
    Red,
}

/// The word and colour of a phase.
#[must_use]
pub const fn word(phase: Phase) -> (Word, Colour) {
    match phase {
        Phase::Mirrored => (Word::Primary, Colour::Green),
        // The application is served; a crash now would lose the only copy.
        Phase::Alone | Phase::Resyncing => (Word::Alone, Colour::Orange),
        Phase::Holding => (Word::Waiting, Colour::Red),
        Phase::Following => (Word::Secondary, Colour::Green),
        Phase::Receiving => (Word::Secondary, Colour::Orange),
        Phase::Waiting => (Word::Waiting, Colour::Red),
    }
}

/// The name of a phase in [`Status::phase`].
#[must_use]
pub const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Alone => "Alone",
        Phase::Holding => "Holding",
        Phase::Resyncing => "Resyncing",
        Phase::Mirrored => "Mirrored",
        Phase::Waiting => "Waiting",
        Phase::Receiving => "Receiving",
        Phase::Following => "Following",
    }
}

/// How changes are captured.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureStatus {
    /// The row in use: "fentry", "tracepoints", "gate"; empty on a secondary.
    pub row: String,
    /// Why this row and no better one.
    pub why: String,
    /// The kernel programs, those that could not be attached among them.
    pub hooks: Vec<HookStatus>,
    /// What others than this node changed in the directories, past the gate.
    pub behind: BehindStatus,
}

/// Changes behind the gate: by another mount of the file system, or a descriptor from before the gate. They are mirrored, but no
/// fsync waits for them. Bytes are not counted: nobody tells by which way they came.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BehindStatus {
    /// Whether names and attributes are watched.
    pub watched: bool,
    /// Why not; empty if they are.
    pub why: String,
    /// Names made, taken away or changed. Several changes of one name shortly after each other may count once.
    pub names: u64,
    /// Files whose attributes were set, as often as that was told.
    pub attributes: u64,
    /// Files that were written, as often as that was told; counted only where the gate moves all bytes itself.
    pub contents: u64,
    /// How often the kernel had to leave out changes; each was followed by a comparison of everything.
    pub lost: u64,
    /// Where the last one was, by its path from the directory on; empty if there was none.
    pub last: String,
}

/// One kernel program.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HookStatus {
    /// What it is attached to.
    pub name: String,
    /// How: "raw-tracepoint", "btf-tracepoint", "fentry", "fexit".
    pub kind: String,
    /// "attached", "not needed" (another one sees the same), or what it is instead.
    pub state: String,
    /// Why it is not attached; empty if it is.
    pub why: String,
    /// What it sees.
    pub covers: String,
}

/// One mirrored directory.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// The directory.
    pub path: String,
    /// Its file system.
    pub filesystem: String,
    /// "mounted" or "off".
    pub gate: String,
    /// Whether reads and writes pass by the daemon.
    pub passthrough: bool,
    /// Why gate and passthrough are as they are.
    pub why: String,
    /// How requests come to the gate: "io-uring" or "read"; empty without a gate.
    pub transport: String,
    /// Why not over io_uring.
    pub transport_why: String,
    /// Files opened without passthrough although there is one.
    pub strict: StrictStatus,
    /// Requests of the kernel to the gate since it was mounted, by the name FUSE has for them; those that came.
    pub requests: BTreeMap<String, u64>,
    /// What is mounted inside and so not mirrored.
    pub nested_mounts: Vec<String>,
    /// On a secondary: whether it is read-only for everybody but the node.
    pub protected: bool,
}

/// Strict files: those of which a sync passed the gate (`msync`, `RWF_DSYNC`), and those configured. They are opened without
/// passthrough, from their next first open on, so that these calls are held.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StrictStatus {
    /// Files marked, or opened and found strict, since the start.
    pub files: u64,
    /// Of these, how many are open and held by now.
    pub held: u64,
    /// Of these, how many are open with passthrough still: everybody has to close them first.
    pub waiting: u64,
    /// Of these, how many could not be marked on disk: a restart of the daemon forgets them.
    pub unrecorded: u64,
    /// Some of those that wait, by their path from the directory on.
    pub waiting_paths: Vec<String>,
    /// The file of the last unguarded sync, by its path from the directory on; empty if there was none.
    pub last_unguarded: String,
}

/// The other node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its name, as it gave it in the last session; empty before.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether a session is open.
    pub connected: bool,
    /// Whether it proved who it is: that it knows the cluster key, or by a certificate.
    pub authenticated: bool,
    /// Whether what goes over the link is encrypted.
    pub encrypted: bool,
    /// The negotiated protocol version; zero without a session.
    pub version: u16,
}

/// Positions in the stream: queued >= sent >= received >= applied >= synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Positions {
    /// Last frame that was put into the stream.
    pub queued: u64,
    /// Last frame that was handed to the kernel.
    pub sent: u64,
    /// Last frame the secondary has received.
    pub received: u64,
    /// Last frame it has applied, none before it missing.
    pub applied: u64,
    /// Last frame it has made durable, none before it missing.
    pub synced: u64,
}

/// What the peer has not confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dirty {
    /// Bytes marked, in flight or not; a mark "to the end of the file" counts as far as the file is known to reach.
    pub bytes: u64,
    /// Files with any mark.
    pub files: u64,
    /// Bytes sent and not confirmed.
    pub in_flight_bytes: u64,
}

/// How far the peer is behind.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    /// Bytes captured and not confirmed by the peer.
    pub bytes: u64,
    /// Seconds that the rest takes at the present rate; zero if nothing is under way.
    pub seconds: f64,
}

/// Rates over the last few seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rate {
    /// Bytes per second of traced writes.
    pub captured_bytes_per_second: u64,
    /// Bytes per second put on the link.
    pub sent_bytes_per_second: u64,
}

/// Held fsyncs. The percentiles are those of the time a caller was held, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Barriers {
    /// Callers let go with success.
    pub answered: u64,
    /// Callers held now.
    pub waiting: u64,
    /// Callers let go with an error.
    pub failed: u64,
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

/// The comparison of both trees.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resync {
    /// Whether one is under way.
    pub active: bool,
    /// Directories known of and not yet listed.
    pub directories: u64,
    /// Files found so far.
    pub files: u64,
    /// Regular files of which the beginning was compared, each as often as it was.
    pub files_compared: u64,
    /// Bytes compared so far.
    pub bytes_compared: u64,
    /// Bytes that differed and were sent.
    pub bytes_sent: u64,
    /// The session goes on, or the last one went on, where the one before it ended; else both trees are compared.
    pub resumed: bool,
    /// Why everything is compared, or "resumed"; empty before the first session.
    pub why: String,
    /// Files examined: found, and of regular ones also compared or sent.
    pub files_examined: u64,
    /// Regular files that are not yet compared.
    pub files_left: u64,
    /// Bytes of the regular files found so far.
    pub bytes_found: u64,
    /// Bytes that differ and are not sent yet.
    pub bytes_to_send: u64,
    /// All directories were listed: what was found is all there is. Else it is "at least".
    pub all_found: bool,
    /// Bytes compared and sent each second, lately.
    pub bytes_per_second: u64,
    /// Seconds that the rest takes; none: nobody knows.
    pub seconds_left: Option<f64>,
    /// Number of the resync that an operator asked for last; zero: none.
    pub asked: u64,
    /// It is done: all that was marked when it began is durable at the peer.
    pub asked_done: bool,
    /// Why it could not be begun.
    pub asked_failed: String,
}

/// A verification.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifyStatus {
    /// Which one; zero: none since the daemon started.
    pub number: u64,
    /// "running", "healing" (what was repaired is on its way), "done", "stopped", "interrupted" (the session ended), "refused".
    pub state: String,
    /// Files known when it began.
    pub files: u64,
    /// Files examined.
    pub files_examined: u64,
    /// Bytes of content examined.
    pub bytes_examined: u64,
    /// Parts of files (state, names, pieces of content) that differ.
    pub differences: u64,
    /// Parts that changed each time they were looked at; what changes is sent.
    pub unsettled: u64,
    /// Parts marked for repair.
    pub repaired: u64,
    /// Bytes examined each second, lately.
    pub bytes_per_second: u64,
    /// Seconds that the rest takes, by the number of files; none: nobody knows.
    pub seconds_left: Option<f64>,
}

/// What happened since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Events the kernel programs delivered.
    pub events: u64,
    /// Events they could not deliver; each widened marks.
    pub events_lost: u64,
    /// Marks widened to a file or a tree.
    pub widened: u64,
    /// Frames put on the link.
    pub frames_sent: u64,
    /// Frames received whole.
    pub frames_received: u64,
    /// Bytes put on the link.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Received frames that made no sense; each ended its session.
    pub frames_refused: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Connections refused before a session: stranger, wrong cluster, version.
    pub handshakes_refused: u64,
    /// Syncs the gate could not hold (msync, RWF_DSYNC); see [`StrictStatus`] for what becomes of their files.
    pub unguarded_syncs: u64,
    /// Errors logged.
    pub errors: u64,
    /// On a secondary: events that tell of changes to the copy by others.
    pub local_changes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The JSON that watchers rely on: names, nesting and order. A new field is added to both sides; nothing is renamed.
    const GOLDEN: &str = r#"{"node":"alpha","role":"primary","word":"primary","colour":"green","phase":"Mirrored","mode":"semi-sync","uptime_seconds":1.5,"memory_bytes":1048576,"capture":{"row":"tracepoints","why":"fentry refused","hooks":[{"name":"ext4_da_write_end","kind":"raw-tracepoint","state":"attached","why":"","covers":"writes"}],"behind":{"watched":true,"why":"w","names":1,"attributes":2,"contents":3,"lost":4,"last":"a/b"}},"volumes":[{"path":"/srv/data","filesystem":"ext4","gate":"mounted","passthrough":true,"why":"offered","transport":"read","transport_why":"t","strict":{"files":4,"held":1,"waiting":2,"unrecorded":1,"waiting_paths":["a.mdb"],"last_unguarded":"b/c"},"requests":{"LOOKUP":7},"nested_mounts":["/srv/data/inner"],"protected":true}],"peer":{"name":"beta","address":"10.0.0.2:7400","connected":true,"authenticated":true,"encrypted":true,"version":1},"positions":{"queued":9,"sent":8,"received":7,"applied":6,"synced":5},"dirty":{"bytes":4096,"files":1,"in_flight_bytes":4096},"lag":{"bytes":4096,"seconds":0.25},"rate":{"captured_bytes_per_second":10,"sent_bytes_per_second":11},"barriers":{"answered":3,"waiting":1,"failed":0,"p50_us":200,"p90_us":300,"p99_us":400,"max_us":500},"resync":{"active":false,"directories":1,"files":2,"files_compared":11,"bytes_compared":3,"bytes_sent":4,"resumed":true,"why":"resumed","files_examined":5,"files_left":6,"bytes_found":7,"bytes_to_send":8,"all_found":true,"bytes_per_second":9,"seconds_left":1.5,"asked":10,"asked_done":true,"asked_failed":"f"},"safe_set":{"on":true,"files":1,"narrowed":2,"commits":3},"register":{"on":true},"verify":{"number":1,"state":"done","files":2,"files_examined":3,"bytes_examined":4,"differences":5,"unsettled":6,"repaired":7,"bytes_per_second":8,"seconds_left":2.5},"reunion":{"relation":"same","source":"primary","scope":"marks","keeps":false,"refused":false,"text":"both nodes have the same generation","generation":"6-00000000000000ab","shared":"","keeping":""},"state":{"term":3,"data":"up-to-date","generation":"6-00000000000000ab","shared":"","history":["5-00000000000000aa"],"primary":true,"alone":false,"crashed":false,"lost":false,"marked":true,"asks":2,"deposed":4},"counters":{"events":1,"events_lost":2,"widened":3,"frames_sent":4,"frames_received":5,"bytes_sent":6,"bytes_received":7,"frames_refused":8,"sessions":9,"handshakes_refused":10,"unguarded_syncs":11,"errors":12,"local_changes":13}}"#;

    #[test]
    fn the_golden_json_is_read_and_written_unchanged() {
        let status: Status = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(status.mode, Mode::SemiSync);
        assert_eq!(status.counters.errors, 12);
        assert_eq!(serde_json::to_string(&status).unwrap(), GOLDEN);
    }

    #[test]
    fn a_status_of_another_version_is_understood() {
        let status: Status = serde_json::from_str(r#"{"node":"old","new_field":{"x":[1]}}"#).unwrap();
        assert_eq!(status, Status { node: "old".into(), ..Status::default() });
    }

    #[test]
    fn only_a_whole_mirror_is_green() {
        let all = [
            Phase::Alone,
            Phase::Holding,
            Phase::Resyncing,
            Phase::Mirrored,
            Phase::Waiting,
            Phase::Receiving,
            Phase::Following,
        ];
        for phase in all {
            let green = word(phase).1 == Colour::Green;
            assert_eq!(green, matches!(phase, Phase::Mirrored | Phase::Following), "{phase:?}");
            assert_eq!(phase_name(phase), format!("{phase:?}"));
        }
    }
}
