//! What the heartbeat tells.

use std::sync::Arc;
use std::time::Duration;

/// Something that happened. Events are told one after the other, in the order in which they happened, by the heartbeat's thread: who
/// is told must not wait for anything.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// This node did not run for a time: its process or its machine was paused or starved. What it believed of the world may be over.
    /// Comes before anything else that is learned after the pause.
    Late {
        /// For how long, at least.
        by: Duration,
    },
    /// The peer's daemon has restarted: what it said before is void.
    NewSession {
        /// Rises with each session of the peer that is believed; the first is 1.
        number: u32,
    },
    /// The peer is heard, for the first time or again.
    PeerAlive,
    /// The peer was silent on all paths for as many ticks of this node as the configuration says.
    PeerDead,
    /// The state of a path has changed.
    Path {
        /// Its place in the configuration.
        index: usize,
        /// The new state.
        state: PathState,
    },
    /// The peer says something new.
    Heard {
        /// What it published.
        payload: Arc<[u8]>,
        /// Number of the peer's session.
        session: u32,
        /// Rises within a session.
        version: u64,
    },
    /// The peer lives and says what it said last.
    Beat {
        /// Number of the peer's session.
        session: u32,
        /// Rises within a session.
        sequence: u64,
        /// Version of what it said last, zero for nothing yet.
        version: u64,
    },
}

/// What gets through on a path.
///
/// ```text
///            hears the peer   peer hears this node
/// Up              yes                yes
/// ReceiveOnly     yes                no
/// SendOnly        no                 yes (told on another path)
/// Down            no                 no, or nobody tells
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PathState {
    /// Both directions.
    Up,
    /// The peer is heard, but says that it does not hear this node here.
    ReceiveOnly,
    /// The peer says on another path that it hears this node here, but is not heard here.
    SendOnly,
    /// Nothing, as far as this node knows. The other node may see its path as [`PathState::ReceiveOnly`].
    #[default]
    Down,
}

impl PathState {
    /// Exactly one direction works.
    #[must_use]
    pub fn is_one_way(self) -> bool {
        matches!(self, PathState::ReceiveOnly | PathState::SendOnly)
    }
}
