//! What the heartbeat knows, for status and metrics.

use std::time::Duration;

use super::event::PathState;
use super::keys::KeyId;

/// The heartbeat as it was after the last thing it did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot {
    /// The peer is heard on at least one path.
    pub alive: bool,
    /// Number of the peer's session, zero before it was ever heard.
    pub session: u32,
    /// Ticks of this node since the peer was heard, `u32::MAX` before it ever was; counting begins anew after a pause.
    pub silent_ticks: u32,
    /// Ticks this node has executed.
    pub ticks: u64,
    /// Longest time between two beats on whatever path, without pauses of this node: what the time until death can be judged by.
    pub longest_gap: Duration,
    /// Version of the payload that is published.
    pub published: u64,
    /// Version of this node's payload that the peer holds, by what it said last.
    pub peer_holds: u64,
    /// Version of the peer's payload that was told last.
    pub heard: u64,
    /// An older key is still accepted, since the peer does not send with the newest yet.
    pub key_changing: bool,
    /// The newest key that is accepted, also while it is not used yet. With [`Snapshot::key_changing`] it tells whether a certain change is
    /// over: one that was just ordered may not have begun.
    pub newest_key: KeyId,
    /// How often this node was late ([`super::Event::Late`]).
    pub late: u64,
    /// One per path, in the order of the configuration.
    pub paths: Vec<PathSnapshot>,
}

/// One path.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PathSnapshot {
    /// What gets through.
    pub state: PathState,
    /// Ticks of this node since the peer was heard here, `u32::MAX` before it ever was.
    pub silent_ticks: u32,
    /// Beats of this node in a row that the peer has not heard here, though they were sent early enough to be in its last answer. The
    /// first is visible within an interval; the path's state turns with the second, so that one lost datagram is no alarm.
    pub unheard_beats: u32,
    /// Last round trip, without the time the answer waited for the peer's next beat.
    pub round_trip: Option<Duration>,
    /// Longest time between two datagrams of the peer, without pauses of this node.
    pub longest_gap: Duration,
    /// What came here, and what became of it.
    pub counters: PathCounters,
}

/// Datagrams of a path.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PathCounters {
    /// Believed.
    pub accepted: u64,
    /// Sent.
    pub sent: u64,
    /// Refused by the system when sending.
    pub send_failures: u64,
    /// Not a heartbeat of this version, or contradicting itself.
    pub garbage: u64,
    /// Of another cluster or node, among them own datagrams that came back.
    pub strangers: u64,
    /// Made with a key this node does not accept. Many of them: the nodes do not have the same key.
    pub unknown_key: u64,
    /// With a wrong MAC.
    pub bad_mac: u64,
    /// That came twice, or too late to be told from such.
    pub replays: u64,
    /// Of a session that does not answer to this one: of a peer that just starts, or recorded.
    pub unproven: u64,
    /// Sent by the peer on another path. Many of them: the nodes do not name their paths in the same order, or networks are mixed up.
    pub crossed: u64,
}
