//! Configuration: one TOML file, parsed once into a validated struct.
//!
//! [`Config::parse`] looks at the text alone (names, units, contradictions); [`Config::validate_system`] looks at this
//! machine (directories, overlap by symlink or bind mount, the key file). What comes out of both can be relied on by every
//! other part; nothing is parsed or defaulted a second time.

mod credentials;
mod document;
mod error;
mod key;
mod quantity;
mod system;
#[cfg(test)]
mod tests;
mod validate;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::patterns::{NamePattern, Patterns};

pub use credentials::TlsFiles;
pub use error::{ConfigError, ConfigWarning};
pub use key::{CLUSTER_KEY_BYTES_MAX, CLUSTER_KEY_BYTES_MIN, ClusterSecret};

/// Largest configuration file in bytes; a larger one is surely not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A validated configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Who this node is.
    pub node: NodeConfig,
    /// How the nodes reach each other.
    pub link: LinkConfig,
    /// What is mirrored, and how.
    pub mirror: MirrorConfig,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// Who this node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// This node's name; differs from the peer's. 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// The cluster's name, the same on both nodes; same alphabet.
    pub cluster: String,
    /// What this node is when it starts.
    pub role: Role,
    /// Where the node keeps its durable state; absolute, outside the mirrored directories.
    pub state_directory: PathBuf,
    /// Where the command line reaches the daemon; absolute, at most [`SOCKET_PATH_BYTES_MAX`] bytes.
    pub control_socket: PathBuf,
    /// How quickly idle processors are to wake.
    pub cpu_latency: CpuLatency,
}

/// Longest path of a unix socket in bytes (`sun_path` of unix(7) less its NUL).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How the nodes reach each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Where the secondary listens; always there on a secondary.
    pub listen: Option<SocketAddr>,
    /// Where the primary dials; always there on a primary.
    pub peer: Option<SocketAddr>,
    /// File with the secret both nodes share; see [`ClusterSecret`].
    pub cluster_key_file: Option<PathBuf>,
    /// With what it is encrypted; `None`: the peers prove who they are, and what they say can be read.
    pub tls: Option<TlsFiles>,
    /// Longest silence of this node on a session.
    pub keep_alive_interval: Duration,
    /// Silence after which the peer counts as gone; longer than the keep-alive interval.
    pub dead_after: Duration,
    /// Pause before the first new attempt to connect.
    pub reconnect_min: Duration,
    /// Longest pause between two attempts to connect; at least `reconnect_min`.
    pub reconnect_max: Duration,
}

/// What is mirrored, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorConfig {
    /// The mirrored directories in the operator's order, which is that of the peer: absolute, at least one, none twice,
    /// none inside another.
    pub directories: Vec<PathBuf>,
    /// What belongs to the replicated tree of each directory, in the order of `directories`.
    pub trees: Vec<TreeConfig>,
    /// What happens if something is mounted inside a directory.
    pub nested_mounts: NestedMounts,
    /// Whether the secondary's directories are read-only for everybody but the node.
    pub protect_secondary: bool,
    /// Bytes that are kept aside at most, in each directory, of what only the secondary has when the primary's data replaces it.
    pub keep_diverged: u64,
    /// What happens when that is not enough.
    pub keep_diverged_when_full: WhenFull,
    /// When an fsync returns.
    pub mode: Mode,
    /// What happens to fsyncs while there is no peer.
    pub when_alone: WhenAlone,
    /// Longest time an fsync is held for a decision; then it fails.
    pub hold_limit: Duration,
    /// Longest time a connected peer may take to answer a barrier; then the session ends.
    pub barrier_limit: Duration,
    /// Whether the gate is mounted; `false` only with [`Mode::Async`].
    pub gate: bool,
    /// How the kernel's requests come to the gate.
    pub gate_transport: GateTransport,
    /// Which capture row is used.
    pub capture: Capture,
    /// Files whose data goes through the daemon from their first open on, so that `msync` and `RWF_DSYNC` are held, too.
    pub strict_files: Vec<NamePattern>,
    /// How long a changed extent rests before it is read, so that hot pages travel once. Zero: at once.
    pub settle: Duration,
    /// How often the primary asks for confirmation of what no caller waits for.
    pub confirm_interval: Duration,
    /// A file leaves the safe set no sooner than this after it was last changed.
    pub safe_set_idle: Duration,
    /// A resync is not slowed down for the application's sake so much that it would take longer than this.
    pub resync_within: Duration,
    /// Bytes per second that a resync reads and sends at most; `None`: as many as go.
    pub resync_rate_max: Option<u64>,
    /// Bytes sent and not yet confirmed, at most.
    pub window: u64,
    /// Size of the kernel's ring of events in bytes: a power of two, a multiple of the page.
    pub trace_ring: u32,
    /// Extents remembered per file before its marks are widened.
    pub extents_per_file: u32,
    /// Extents remembered in all before marks are widened; at least `extents_per_file`.
    pub extents_total: u32,
}

/// What belongs to the replicated tree of one directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TreeConfig {
    /// Relative path of what must be there below the directory, else the node does not start: tells the data from the empty
    /// mount point of a file system that is not mounted.
    pub must_exist: Option<PathBuf>,
    /// Which names are left out; `None`: none.
    pub patterns: Option<Patterns>,
}

/// What is logged, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// The least severe level that is written; the environment's `RUST_LOG` overrides it.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

/// What a node is when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the application; its directory is the original.
    Primary,
    /// Holds the copy.
    #[default]
    Secondary,
}

/// When an fsync returns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// When the data is on stable storage on both nodes.
    #[default]
    Sync,
    /// When it is on stable storage here and received by the peer.
    SemiSync,
    /// When it is on stable storage here.
    Async,
}

/// What happens to fsyncs while there is no peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAlone {
    /// That this node goes on alone is recorded durably, then they are answered.
    #[default]
    Release,
    /// They are held until a peer is there, at most for the hold limit; then they fail.
    Hold,
    /// They are held likewise, until whoever decides on roles says that this node may go on alone.
    Ask,
}

/// What happens when there is no more room for what only the secondary has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WhenFull {
    /// Nothing more is overwritten: the resync stops until an operator has made room.
    #[default]
    Stop,
    /// What was kept earlier is deleted, and what then finds no room is not kept.
    DropOldest,
}

/// How quickly idle processors are to wake (PM QoS).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CpuLatency {
    /// At once while calls wait in quick succession.
    #[default]
    Adaptive,
    /// As the system has it.
    System,
}

/// Whether the link is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Encryption {
    /// TLS 1.3, in which both nodes show a certificate.
    Tls,
    /// Not at all.
    None,
}

/// What happens if something is mounted inside a mirrored directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum NestedMounts {
    /// The node does not start.
    #[default]
    Refuse,
    /// It is left out: neither sent nor, on the secondary, touched.
    Ignore,
}

/// How the kernel's requests come to the gate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum GateTransport {
    /// Over io_uring where this machine has that switched on, else from /dev/fuse.
    Auto,
    /// From /dev/fuse.
    #[default]
    Read,
    /// Over io_uring, or the node does not start.
    IoUring,
}

/// Which capture row is used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capture {
    /// The best one this kernel permits.
    #[default]
    Auto,
    /// fentry/fexit programs.
    Fentry,
    /// Raw tracepoints.
    Tracepoints,
    /// No kernel programs: the gate handles each WRITE itself.
    Gate,
}

/// The least severe level that is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// An enumeration as the file spells it.
trait Choice: Sized + Copy + 'static {
    /// Every value with its word.
    const CHOICES: &'static [(&'static str, Self)];
}

impl Choice for Role {
    const CHOICES: &'static [(&'static str, Role)] =
        &[("primary", Role::Primary), ("secondary", Role::Secondary)];
}

impl Choice for Mode {
    const CHOICES: &'static [(&'static str, Mode)] =
        &[("sync", Mode::Sync), ("semi-sync", Mode::SemiSync), ("async", Mode::Async)];
}

impl Choice for WhenAlone {
    const CHOICES: &'static [(&'static str, WhenAlone)] =
        &[("release", WhenAlone::Release), ("hold", WhenAlone::Hold), ("ask", WhenAlone::Ask)];
}

impl Choice for WhenFull {
    const CHOICES: &'static [(&'static str, WhenFull)] =
        &[("stop", WhenFull::Stop), ("drop-oldest", WhenFull::DropOldest)];
}

impl Choice for CpuLatency {
    const CHOICES: &'static [(&'static str, CpuLatency)] =
        &[("adaptive", CpuLatency::Adaptive), ("system", CpuLatency::System)];
}

impl Choice for Encryption {
    const CHOICES: &'static [(&'static str, Encryption)] =
        &[("tls", Encryption::Tls), ("none", Encryption::None)];
}

impl Choice for NestedMounts {
    const CHOICES: &'static [(&'static str, NestedMounts)] =
        &[("refuse", NestedMounts::Refuse), ("ignore", NestedMounts::Ignore)];
}

impl Choice for GateTransport {
    const CHOICES: &'static [(&'static str, GateTransport)] =
        &[("read", GateTransport::Read), ("auto", GateTransport::Auto), ("io-uring", GateTransport::IoUring)];
}

impl Choice for Capture {
    const CHOICES: &'static [(&'static str, Capture)] = &[
        ("auto", Capture::Auto),
        ("fentry", Capture::Fentry),
        ("tracepoints", Capture::Tracepoints),
        ("gate", Capture::Gate),
    ];
}

impl Choice for LogLevel {
    const CHOICES: &'static [(&'static str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
}

impl Choice for LogFormat {
    const CHOICES: &'static [(&'static str, LogFormat)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}

/// The word of a value in the file.
fn word<T: Choice + PartialEq>(value: T) -> &'static str {
    T::CHOICES.iter().find(|(_, choice)| *choice == value).map_or("", |(word, _)| word)
}

macro_rules! display_as_word {
    ($($name:ty),*) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(word(*self))
            }
        }
    )*};
}

display_as_word!(
    Role,
    Mode,
    WhenAlone,
    WhenFull,
    CpuLatency,
    NestedMounts,
    GateTransport,
    Capture,
    LogLevel,
    LogFormat
);

impl Config {
    /// Read and validate a configuration file, without looking at the rest of this machine.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let length = fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_BYTES_MAX {
            return Err(ConfigError::FileTooLarge { path: path.to_owned(), limit: FILE_BYTES_MAX });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Config::parse(&text)
    }

    /// Parse and validate a configuration's text.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        validate::validate(document::Document::parse(text)?)
    }

    /// Take a role, whatever `node.role` says.
    ///
    /// # Errors
    /// [`ConfigError::RoleNeeds`]: the link has no address for it.
    pub fn take_role(&mut self, role: Role) -> Result<(), ConfigError> {
        validate::require_address(role, self.link.peer.is_some(), self.link.listen.is_some())?;
        self.node.role = role;
        Ok(())
    }

    /// Check what the configuration says against this machine: that the directories are there and apart from each other and
    /// from the state directory (by real path, by inode and through bind mounts), that they hold what must exist in them and no
    /// mounts that are refused, and that the key file is usable. Changes nothing.
    ///
    /// A directory that a crashed daemon left covered by a dead mount passes, with a warning: the gate replaces the mount.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found. What is doubtful and yet works is returned as warnings.
    pub fn validate_system(&self) -> Result<Vec<ConfigWarning>, ConfigError> {
        system::validate(self)
    }

    /// The shared secret, if one is configured.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or is too short or too long.
    pub fn cluster_key(&self) -> Result<Option<ClusterSecret>, ConfigError> {
        self.link.cluster_key_file.as_deref().map(ClusterSecret::read).transpose()
    }
}
