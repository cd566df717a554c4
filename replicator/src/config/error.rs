//! What can be wrong with a configuration. Every message names the key and the remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::key::{CLUSTER_KEY_BYTES_MAX, CLUSTER_KEY_BYTES_MIN};
use super::{Capture, Mode, Role, SOCKET_PATH_BYTES_MAX};
use crate::patterns::PatternError;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    // ---- the file ----------------------------------------------------------------------------------
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file is too large to be a configuration.
    #[error("{path} is larger than {limit} bytes: it is not a configuration", path = path.display())]
    FileTooLarge { path: PathBuf, limit: u64 },
    /// Not TOML, or a value of the wrong type.
    #[error("line {line}, column {column}: {message}")]
    Syntax { line: usize, column: usize, message: String },
    /// A key that does not exist.
    #[error("unknown key {key}{hint}; the example configuration lists all keys", hint = did_you_mean(nearest.as_deref()))]
    UnknownKey { key: String, nearest: Option<String> },
    /// A key that has no default.
    #[error("{key} is missing: {remedy}")]
    Missing { key: &'static str, remedy: &'static str },

    // ---- single values -----------------------------------------------------------------------------
    /// A word that is none of the allowed ones.
    #[error("{key}: {value:?} is not one of {allowed}{hint}", hint = did_you_mean(*nearest))]
    Choice { key: &'static str, value: String, allowed: String, nearest: Option<&'static str> },
    /// A name with characters that do not belong in one.
    #[error("{key}: {value:?} is not a name; use 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    Name { key: &'static str, value: String },
    /// Not an address and port.
    #[error(
        "{key}: {value:?} is not an IP address and port; write it like \"10.0.0.2:7400\" or \"[fd00::2]:7400\" \
         (host names are not taken: the mirror must not depend on a name server)"
    )]
    Address { key: &'static str, value: String },
    /// An address nobody can reach.
    #[error("{key}: {value} cannot be dialled; name the peer's own address and a port other than 0")]
    AddressNotDialable { key: &'static str, value: String },
    /// Port 0.
    #[error("{key}: {value} has port 0; name the port that the peer dials")]
    PortZero { key: &'static str, value: String },
    /// Not a duration.
    #[error("{key}: {value:?} is not a duration ({source}); write it like \"250ms\", \"3s\" or \"1m 30s\"")]
    Duration { key: &'static str, value: String, source: humantime::DurationError },
    /// A duration that must not be zero.
    #[error("{key} is zero; it must be longer (the example configuration has a good value)")]
    DurationZero { key: &'static str },
    /// A duration beyond all sense.
    #[error("{key}: {value:?} is too long; at most {limit:?} makes sense (is the unit right?)")]
    DurationTooLong { key: &'static str, value: Duration, limit: Duration },
    /// Not a size.
    #[error(
        "{key}: {value:?} is not a size; write a whole number and one of B, KiB, MiB, GiB, like \"16MiB\""
    )]
    Size { key: &'static str, value: String },
    /// A number outside of its bounds.
    #[error("{key}: {value} is out of bounds; it must be {least} to {most}")]
    OutOfBounds { key: &'static str, value: u64, least: u64, most: u64 },
    /// A pattern that stands for nothing.
    #[error("{key}: {value:?} is not a pattern of names: {why}; write it like \"*.mdb\" or \"ldap/**\"")]
    Pattern { key: &'static str, value: String, why: PatternError },
    /// A ring the kernel would refuse.
    #[error(
        "{key}: {value} bytes is not possible; a ring is a power of two and a multiple of the page ({page} bytes), \
         like \"16MiB\""
    )]
    RingSize { key: &'static str, value: u64, page: u64 },

    // ---- paths -------------------------------------------------------------------------------------
    /// A relative path.
    #[error("{key}: {path} is relative; write the whole path from / on", path = path.display())]
    Relative { key: &'static str, path: PathBuf },
    /// A path with `..` in it.
    #[error("{key}: {path} contains \"..\"; write the path it stands for", path = path.display())]
    ParentComponent { key: &'static str, path: PathBuf },
    /// A socket path longer than the kernel takes.
    #[error(
        "{key}: {path} has {length} bytes; a unix socket's path has at most {SOCKET_PATH_BYTES_MAX}: set \
         node.control-socket to a shorter one",
        path = path.display()
    )]
    SocketPathTooLong { key: &'static str, path: PathBuf, length: usize },
    /// No directory to mirror.
    #[error("mirror.directories is empty; name at least one directory")]
    NoDirectories,
    /// More directories than there are numbers for.
    #[error("mirror.directories has {count} entries; at most {limit} are possible")]
    TooManyDirectories { count: usize, limit: usize },
    /// The root of the system.
    #[error(
        "mirror.directories: / cannot be mirrored; name the directories that hold the application's data"
    )]
    RootDirectory,
    /// The same directory twice.
    #[error("mirror.directories: {first} and {second} are the same directory; name it once",
        first = first.display(), second = second.display())]
    DuplicateDirectory { first: PathBuf, second: PathBuf },
    /// One directory inside another.
    #[error("mirror.directories: {inner} lies inside {outer}; name the outer one only, or two that are apart",
        inner = inner.display(), outer = outer.display())]
    NestedDirectories { outer: PathBuf, inner: PathBuf },
    /// The node's own files would be mirrored.
    #[error("{key}: {path} lies inside the mirrored directory {directory}; put it elsewhere, such as below /var/lib/replicator",
        path = path.display(), directory = directory.display())]
    InsideMirror { key: &'static str, path: PathBuf, directory: PathBuf },

    /// A table about a directory that is not mirrored.
    #[error(
        "directory.path: {path} is not one of mirror.directories; write it as it stands there, or add it there",
        path = path.display()
    )]
    NotMirrored { path: PathBuf },
    /// Two tables about one directory.
    #[error("directory.path: {path} has two [[directory]] tables; write one", path = path.display())]
    DirectoryTwice { path: PathBuf },
    /// A path that is not one below a directory.
    #[error("{key}: {path} is not a path below the directory; write it relative to it and without \"..\"",
        path = path.display())]
    NotBelow { key: &'static str, path: PathBuf },
    /// A path that is the node's own.
    #[error("{key}: {path} belongs to replicator itself; name something of the data", path = path.display())]
    Reserved { key: &'static str, path: PathBuf },

    // ---- encryption --------------------------------------------------------------------------------
    /// Encryption without what it takes.
    #[error("{key} is missing: link.encryption = \"tls\" needs it; {remedy}")]
    TlsNeeds { key: &'static str, remedy: &'static str },
    /// Not the URI of a node.
    #[error(
        "{key}: {value:?} is not a URI; write the one in the peer's certificate, like \"replicator://shop/beta\""
    )]
    Identity { key: &'static str, value: String },
    /// This node would take itself for its peer.
    #[error(
        "link.peer-identity: {value:?} is the URI in this node's own certificate; write the other node's"
    )]
    OwnIdentity { value: String },
    /// A file of certificates or keys cannot be read.
    #[error("{key}: cannot read {path}: {source}", path = path.display())]
    TlsUnreadable { key: &'static str, path: PathBuf, source: io::Error },
    /// Others may read the key.
    #[error("{key}: {path} is readable by everybody; run: chmod 600 {path}", path = path.display())]
    TlsExposed { key: &'static str, path: PathBuf },
    /// A file holds something else.
    #[error("{key}: {path} holds no {what} in PEM", path = path.display())]
    TlsContent { key: &'static str, path: PathBuf, what: &'static str },
    /// The files do not fit together.
    #[error("the link cannot be encrypted: {source}")]
    Tls { source: replicator_cluster::tls::CredentialsError },

    // ---- contradictions ----------------------------------------------------------------------------
    /// The role needs a key that is not there.
    #[error("{key} is missing: a {role} needs it; {remedy}")]
    RoleNeeds { role: Role, key: &'static str, remedy: &'static str },
    /// The peer would be declared dead between two keep-alives.
    #[error(
        "link.dead-after ({dead_after:?}) must be longer than link.keep-alive-interval ({keep_alive_interval:?}), \
         better ten times as long"
    )]
    DeadBeforeKeepAlive { dead_after: Duration, keep_alive_interval: Duration },
    /// Upper bound below the lower.
    #[error("link.reconnect-max ({max:?}) is shorter than link.reconnect-min ({min:?}); raise it")]
    ReconnectBounds { min: Duration, max: Duration },
    /// Nobody would hold the fsyncs.
    #[error(
        "mirror.gate = false holds no fsync, which mirror.mode = \"{mode}\" promises; set mirror.mode = \"async\" or \
         mirror.gate = true"
    )]
    ModeNeedsGate { mode: Mode },
    /// Nobody would capture the writes.
    #[error(
        "mirror.capture = \"{capture}\" needs the gate, and mirror.gate = false; set mirror.gate = true or mirror.capture = \"auto\""
    )]
    CaptureNeedsGate { capture: Capture },
    /// Exceptions to nothing.
    #[error(
        "directory.include of {path} makes exceptions to directory.exclude, which is empty; to mirror only some names write \
         exclude = [\"/*\"] beside it",
        path = path.display()
    )]
    IncludeAlone { path: PathBuf },
    /// Names that are left out are told by the gate.
    #[error("directory.exclude of {path} needs the gate, and mirror.gate = false; set mirror.gate = true", path = path.display())]
    ExcludeNeedsGate { path: PathBuf },
    /// The whole budget is smaller than that of one file.
    #[error("mirror.extents-total ({total}) is less than mirror.extents-per-file ({per_file}); raise it")]
    ExtentBudget { total: u32, per_file: u32 },

    // ---- this machine ------------------------------------------------------------------------------
    /// A directory that is not there.
    #[error("mirror.directories: {path} does not exist; create it (mkdir -p) or correct the path", path = path.display())]
    DirectoryMissing { path: PathBuf },
    /// Not a directory.
    #[error("mirror.directories: {path} is not a directory; name the directory that holds it", path = path.display())]
    NotADirectory { path: PathBuf },
    /// A path that cannot be looked at.
    #[error("{key}: cannot look at {path}: {source}", path = path.display())]
    PathUnusable { key: &'static str, path: PathBuf, source: io::Error },
    /// What must be there is not.
    #[error(
        "directory.must-exist: {path} holds no {missing}: its file system is not mounted, or this is not the data; mount it. \
         A directory that is meant to be empty (the first start): create {missing} in it, or remove the key",
        path = path.display(), missing = missing.display()
    )]
    MustExist { path: PathBuf, missing: PathBuf },
    /// Something is mounted inside.
    #[error(
        "mirror.nested-mounts = \"refuse\": {points} is mounted inside {path} and would not be mirrored; unmount it, mirror it \
         as a directory of its own elsewhere, or set \"ignore\" on both nodes to leave it out",
        path = path.display(), points = listed(points)
    )]
    NestedMounts { path: PathBuf, points: Vec<PathBuf> },
    /// The key file cannot be read.
    #[error("link.cluster-key-file: cannot read {path}: {source}", path = path.display())]
    ClusterKeyUnreadable { path: PathBuf, source: io::Error },
    /// The key file has a senseless length.
    #[error(
        "link.cluster-key-file: {path} has {length} bytes (or more) without white space at its ends; a key has \
         {CLUSTER_KEY_BYTES_MIN} to {CLUSTER_KEY_BYTES_MAX}: make one with \"head -c 48 /dev/urandom | base64\" and copy it \
         to the other node",
        path = path.display()
    )]
    ClusterKeyLength { path: PathBuf, length: usize },
}

/// What works and yet deserves a look.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigWarning {
    /// Anyone who can reach the port can change the copy.
    #[error(
        "link.cluster-key-file is not set: whoever reaches the link can read and change the data; set it on both nodes \
         unless the network is trusted"
    )]
    NoClusterKey,
    /// Others can read the secret.
    #[error("link.cluster-key-file: {path} is readable by others (mode {mode:04o}); chmod 600 it", path = path.display())]
    ClusterKeyMode { path: PathBuf, mode: u32 },
    /// A crashed daemon's mount.
    #[error(
        "mirror.directories: {path} is covered by a dead mount of a daemon that crashed; it is replaced at start",
        path = path.display()
    )]
    DeadMount { path: PathBuf },
    /// Something of another file system lies inside.
    #[error(
        "mirror.nested-mounts = \"ignore\": {inner} is mounted inside {path}; what it holds is not mirrored",
        path = path.display(), inner = inner.display()
    )]
    MountInside { path: PathBuf, inner: PathBuf },
    /// A file system nobody can name files on by handle.
    #[error("mirror.directories: {path} is on {filesystem}, which is not tested; use ext4, xfs or btrfs", path = path.display())]
    Filesystem { path: PathBuf, filesystem: String },
    /// A key that has no effect.
    #[error("{key} has no effect: {why}")]
    WithoutEffect { key: &'static str, why: &'static str },
}

/// Paths for a person, in one line.
fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
}
