//! What the operator decides, as the core needs it. Parsed and validated by the edges.

use alloc::vec::Vec;
use core::time::Duration;

use crate::ids::{FileId, VolumeId};
use crate::verify::VERIFY_BLOCK_BYTES;

/// When a caller that waits for durability is let go while both nodes are mirrored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// When it is on stable storage on both nodes.
    Sync = 1,
    /// When it is on stable storage here and the peer has received it.
    SemiSync = 2,
    /// When it is on stable storage here.
    Async = 3,
}

/// What happens to callers when the peer is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenAlone {
    /// This node durably records that it runs alone, then lets them go.
    Release,
    /// They are held until the peer is back or the limit is reached.
    Hold,
    /// They are held as with `Hold` until this node is told that it may go on alone ([`crate::event::Event::GoAlone`]); then it
    /// does as with `Release`. That holds for one absence of the peer.
    Ask,
}

/// Rhythm of a connection; both nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkTimes {
    /// A keep-alive is sent when nothing else was for this long.
    pub keep_alive: Duration,
    /// A peer that was not heard for this long is gone.
    pub dead_after: Duration,
}

impl Default for LinkTimes {
    fn default() -> Self {
        LinkTimes { keep_alive: Duration::from_millis(250), dead_after: Duration::from_secs(3) }
    }
}

/// How many extents may be kept before they are widened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentLimits {
    /// In each set of a file.
    pub per_file: usize,
    /// In all files together.
    pub total: usize,
}

impl Default for ExtentLimits {
    fn default() -> Self {
        ExtentLimits { per_file: 8192, total: 1 << 20 }
    }
}

/// How a resync gives way to the application (primary).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// While a resync is under way, 99 of 100 callers wait no longer than this many times what they did before it.
    pub late_factor: u32,
    /// The resync is not slowed down below that, in bytes per second; nor below a tenth of what it was seen to reach.
    pub floor: u64,
    /// It never goes faster than that, in bytes per second.
    pub cap: Option<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { late_factor: 2, floor: 0, cap: None }
    }
}

/// A volume of the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeRoot {
    /// Its number.
    pub volume: VolumeId,
    /// Its root directory.
    pub root: FileId,
}

/// Configuration of a primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrimaryConfig {
    /// When callers are let go.
    pub mode: Mode,
    /// What happens to callers when the peer is lost.
    pub when_alone: WhenAlone,
    /// It may go on alone before it is told, until both nodes hold the same for the first time ([`crate::begin::Start`] said so, too).
    pub go_alone: bool,
    /// Bulk data of a file is sent so long after its first mark, so that a hot page is not sent for each write.
    pub settle: Duration,
    /// What was sent is made durable at the peer at least so often.
    pub confirm_interval: Duration,
    /// Bytes of bulk data that may be read or under way to the peer; waiting callers' data has as much again.
    pub window_bytes: u64,
    /// Largest single read, and so the largest `Data` frame; at most [`crate::wire::header::PAYLOAD_MAX`].
    pub read_bytes_max: u64,
    /// Largest extent that is digested at once.
    pub digest_bytes_max: u64,
    /// The smallest blocks by which verifications compare contents; a power of two.
    pub verify_block_bytes: u64,
    /// Most barriers of waiting callers under way; callers that come meanwhile share the next one.
    pub barriers_max: usize,
    /// A caller that waits for the peer longer than this ends the session.
    pub barrier_limit: Duration,
    /// A caller that is held without a peer longer than this gets an error.
    pub hold_limit: Duration,
    /// How a resync gives way to callers.
    pub pace: Pace,
    /// Rhythm of the connection.
    pub link: LinkTimes,
    /// First pause between two attempts to connect.
    pub reconnect_min: Duration,
    /// Longest pause between two attempts to connect.
    pub reconnect_max: Duration,
    /// Bound on the memory for marks.
    pub limits: ExtentLimits,
    /// No further directory is listed while so many files that lists brought are not dealt with.
    pub listed_files_max: usize,
    /// Varies the pauses between attempts to connect; any number, different on each start.
    pub seed: u64,
    /// Random bytes that no other run of this daemon has: streams are told apart by them. `None`: each session compares
    /// everything, because something may change that nothing tells of.
    pub incarnation: Option<[u8; 16]>,
    /// Random bits that no other run of any node has: the tags of generations are drawn from them.
    pub tags: u64,
    /// The volumes.
    pub volumes: Vec<VolumeRoot>,
    /// Files may have names that are left out of the tree and never told: one that lost its last name of the tree may live on, and
    /// come back.
    pub partial: bool,
}

impl PrimaryConfig {
    /// The defaults, for these volumes.
    #[must_use]
    pub fn new(volumes: Vec<VolumeRoot>) -> PrimaryConfig {
        PrimaryConfig {
            mode: Mode::Sync,
            when_alone: WhenAlone::Release,
            go_alone: false,
            settle: Duration::from_millis(20),
            confirm_interval: Duration::from_secs(2),
            window_bytes: 16 << 20,
            read_bytes_max: 1 << 20,
            digest_bytes_max: 8 << 20,
            verify_block_bytes: VERIFY_BLOCK_BYTES,
            barriers_max: 4,
            barrier_limit: Duration::from_secs(10),
            hold_limit: Duration::from_secs(30),
            pace: Pace::default(),
            link: LinkTimes::default(),
            reconnect_min: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(10),
            limits: ExtentLimits::default(),
            listed_files_max: 1 << 16,
            seed: 1,
            incarnation: None,
            tags: 1,
            volumes,
            partial: false,
        }
    }
}

/// Configuration of a secondary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecondaryConfig {
    /// Rhythm of the connection.
    pub link: LinkTimes,
    /// Most frames that are ordered to be applied and not answered.
    pub applies_max: usize,
    /// A `Data` frame of at most so many bytes is applied in order with its neighbours, a longer one beside them.
    pub in_order_bytes: u64,
    /// An `Ack` is sent after so many bytes of payload.
    pub ack_bytes: u64,
    /// An `Ack` is sent after so many frames.
    pub ack_frames: u64,
    /// An `Ack` of anything new is sent after this time.
    pub ack_delay: Duration,
    /// A session may go on where the last one ended: it is noticed if others change the copy.
    pub resumes: bool,
}

impl Default for SecondaryConfig {
    fn default() -> Self {
        SecondaryConfig {
            link: LinkTimes::default(),
            applies_max: 256,
            in_order_bytes: 16 << 10,
            ack_bytes: 256 << 10,
            ack_frames: 64,
            ack_delay: Duration::from_millis(5),
            resumes: true,
        }
    }
}
