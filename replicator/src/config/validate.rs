//! From the written file to the validated struct: defaults, units, contradictions. Looks at nothing but the text.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::unistd::SysconfVar;
use replicator_cluster::nearest;

use super::document::{Directory, Document, Link, Log, Mirror, Node};
use super::error::ConfigError;
use super::{
    Capture, Choice, Config, Encryption, LinkConfig, LogConfig, MirrorConfig, Mode, NodeConfig, Role,
    SOCKET_PATH_BYTES_MAX, TlsFiles, TreeConfig, quantity,
};
use crate::patterns::{NamePattern, PatternError, Patterns, TreePattern};
use crate::volume::RESERVED_NAME;

const NAME_CHARACTERS_MAX: usize = 64;
const DIRECTORIES_MAX: usize = 256;
/// More names than that are better told by their directory: each is compared with each name.
const PATTERNS_MAX: usize = 256;
/// Bounds of the window: the least still holds a small frame, the most is what a node may have to keep in memory.
const WINDOW_BOUNDS: (u64, u64) = (64 << 10, 4 << 30);
/// Largest ring of events.
const RING_BYTES_MAX: u64 = 1 << 30;
/// Longest time a resync may be given.
const RESYNC_WITHIN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// A resync of fewer bytes per second does not end.
const RESYNC_RATE_MIN: u64 = 64 << 10;
const EXTENTS_PER_FILE_MAX: u32 = 1 << 24;
const EXTENTS_TOTAL_MAX: u32 = 1 << 28;

pub(super) fn validate(document: Document) -> Result<Config, ConfigError> {
    let node = node(document.node)?;
    let link = link(document.link, node.role)?;
    let mirror = mirror(document.mirror, document.directory)?;
    let log = log(document.log)?;
    let own =
        [("node.state-directory", &node.state_directory), ("node.control-socket", &node.control_socket)];
    for (key, path) in own {
        if let Some(directory) = mirror.directories.iter().find(|directory| path.starts_with(directory)) {
            return Err(ConfigError::InsideMirror { key, path: path.clone(), directory: directory.clone() });
        }
    }
    Ok(Config { node, link, mirror, log })
}

fn node(node: Node) -> Result<NodeConfig, ConfigError> {
    let role = node
        .role
        .ok_or(ConfigError::Missing { key: "node.role", remedy: "write \"primary\" or \"secondary\"" })?;
    let state_directory = node.state_directory.ok_or(ConfigError::Missing {
        key: "node.state-directory",
        remedy: "name where the node keeps its state, such as \"/var/lib/replicator\"",
    })?;
    let state_directory = absolute("node.state-directory", &state_directory)?;
    let (key, control_socket) = match node.control_socket {
        Some(path) => ("node.control-socket", absolute("node.control-socket", &path)?),
        None => ("node.state-directory", state_directory.join("control.sock")),
    };
    let length = control_socket.as_os_str().len();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(ConfigError::SocketPathTooLong { key, path: control_socket, length });
    }
    Ok(NodeConfig {
        name: name("node.name", node.name, "give this node a name that differs from the peer's")?,
        cluster: name("node.cluster", node.cluster, "give both nodes the same name of the cluster")?,
        role: choice("node.role", &role)?,
        state_directory,
        control_socket,
        cpu_latency: choice_or_default("node.cpu-latency", node.cpu_latency)?,
    })
}

fn name(key: &'static str, value: Option<String>, remedy: &'static str) -> Result<String, ConfigError> {
    let value = value.ok_or(ConfigError::Missing { key, remedy })?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if value.is_empty() || value.len() > NAME_CHARACTERS_MAX || !value.bytes().all(allowed) {
        return Err(ConfigError::Name { key, value });
    }
    Ok(value)
}

/// What a role needs of the link.
pub(super) fn require_address(role: Role, peer: bool, listen: bool) -> Result<(), ConfigError> {
    match role {
        Role::Primary if !peer => {
            let remedy = "name where the secondary listens, like \"10.0.0.2:7400\"";
            Err(ConfigError::RoleNeeds { role, key: "link.peer", remedy })
        }
        Role::Secondary if !listen => {
            let remedy = "name the address to listen on, like \"10.0.0.2:7400\"";
            Err(ConfigError::RoleNeeds { role, key: "link.listen", remedy })
        }
        _ => Ok(()),
    }
}

fn link(link: Link, role: Role) -> Result<LinkConfig, ConfigError> {
    let listen = link.listen.as_deref().map(|value| address("link.listen", value)).transpose()?;
    let peer = link.peer.as_deref().map(|value| address("link.peer", value)).transpose()?;
    if let Some(listen) = listen.filter(|listen| listen.port() == 0) {
        return Err(ConfigError::PortZero { key: "link.listen", value: listen.to_string() });
    }
    if let Some(peer) =
        peer.filter(|peer| peer.port() == 0 || peer.ip().is_unspecified() || peer.ip().is_multicast())
    {
        return Err(ConfigError::AddressNotDialable { key: "link.peer", value: peer.to_string() });
    }
    require_address(role, peer.is_some(), listen.is_some())?;
    let keep_alive_interval = positive("link.keep-alive-interval", link.keep_alive_interval, "250ms")?;
    let dead_after = positive("link.dead-after", link.dead_after, "3s")?;
    if dead_after <= keep_alive_interval {
        return Err(ConfigError::DeadBeforeKeepAlive { dead_after, keep_alive_interval });
    }
    let reconnect_min = positive("link.reconnect-min", link.reconnect_min, "100ms")?;
    let reconnect_max = positive("link.reconnect-max", link.reconnect_max, "5s")?;
    if reconnect_max < reconnect_min {
        return Err(ConfigError::ReconnectBounds { min: reconnect_min, max: reconnect_max });
    }
    let cluster_key_file =
        link.cluster_key_file.as_deref().map(|path| absolute("link.cluster-key-file", path)).transpose()?;
    let tls = tls(
        link.encryption.as_deref(),
        link.authority_file.as_deref(),
        link.certificate_file.as_deref(),
        link.certificate_key_file.as_deref(),
        link.peer_identity,
    )?;
    Ok(LinkConfig {
        listen,
        peer,
        cluster_key_file,
        tls,
        keep_alive_interval,
        dead_after,
        reconnect_min,
        reconnect_max,
    })
}

/// Who names a certificate wants it used, unless it is said otherwise.
fn tls(
    encryption: Option<&str>,
    authority: Option<&str>,
    certificate: Option<&str>,
    key: Option<&str>,
    peer: Option<String>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let named = authority.is_some() || certificate.is_some() || key.is_some() || peer.is_some();
    let wanted = match encryption {
        Some(word) => choice("link.encryption", word)?,
        None if named => Encryption::Tls,
        None => Encryption::None,
    };
    let path = |key, value: Option<&str>| value.map(|value| absolute(key, value)).transpose();
    let authority = path("link.authority-file", authority)?;
    let certificate = path("link.certificate-file", certificate)?;
    let key = path("link.certificate-key-file", key)?;
    if let Some(value) = peer.as_ref().filter(|value| !is_uri(value)) {
        return Err(ConfigError::Identity { key: "link.peer-identity", value: value.clone() });
    }
    if wanted == Encryption::None {
        return Ok(None);
    }
    let needs = |key, remedy| ConfigError::TlsNeeds { key, remedy };
    let certificate = certificate
        .ok_or(needs("link.certificate-file", "name the PEM file with this node's certificate and key"))?;
    Ok(Some(TlsFiles {
        authority: authority
            .ok_or(needs("link.authority-file", "name the PEM file with the authority's certificate"))?,
        key: key.unwrap_or_else(|| certificate.clone()),
        certificate,
        peer: peer.ok_or(needs("link.peer-identity", "write the URI in the peer's certificate"))?,
    }))
}

/// Whether this can be a URI in a certificate: a scheme, and printable ASCII.
fn is_uri(value: &str) -> bool {
    value.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
        && value.bytes().all(|byte| byte.is_ascii_graphic())
}

fn mirror(mirror: Mirror, tables: Vec<Directory>) -> Result<MirrorConfig, ConfigError> {
    let directories = directories(mirror.directories)?;
    let trees = trees(&directories, tables)?;
    let mode: Mode = choice_or_default("mirror.mode", mirror.mode)?;
    let capture: Capture = choice_or_default("mirror.capture", mirror.capture)?;
    let gate = mirror.gate.unwrap_or(true);
    if !gate && mode != Mode::Async {
        return Err(ConfigError::ModeNeedsGate { mode });
    }
    if !gate && capture == Capture::Gate {
        return Err(ConfigError::CaptureNeedsGate { capture });
    }
    if !gate && let Some(tree) = trees.iter().position(|tree| tree.patterns.is_some()) {
        let path = directories.get(tree).cloned().unwrap_or_default();
        return Err(ConfigError::ExcludeNeedsGate { path });
    }
    let extents_per_file =
        count("mirror.extents-per-file", mirror.extents_per_file, 4096, EXTENTS_PER_FILE_MAX)?;
    let extents_total = count("mirror.extents-total", mirror.extents_total, 262_144, EXTENTS_TOTAL_MAX)?;
    if extents_total < extents_per_file {
        return Err(ConfigError::ExtentBudget { total: extents_total, per_file: extents_per_file });
    }
    Ok(MirrorConfig {
        directories,
        trees,
        nested_mounts: choice_or_default("mirror.nested-mounts", mirror.nested_mounts)?,
        protect_secondary: mirror.protect_secondary.unwrap_or(false),
        keep_diverged: quantity::size(
            "mirror.keep-diverged",
            mirror.keep_diverged.as_deref().unwrap_or("10GiB"),
        )?,
        keep_diverged_when_full: choice_or_default(
            "mirror.keep-diverged-when-full",
            mirror.keep_diverged_when_full,
        )?,
        mode,
        when_alone: choice_or_default("mirror.when-alone", mirror.when_alone)?,
        hold_limit: positive("mirror.hold-limit", mirror.hold_limit, "30s")?,
        barrier_limit: positive("mirror.barrier-limit", mirror.barrier_limit, "10s")?,
        gate,
        gate_transport: choice_or_default("mirror.gate-transport", mirror.gate_transport)?,
        capture,
        strict_files: strict_files(mirror.strict_files.unwrap_or_default())?,
        settle: duration("mirror.settle", mirror.settle, "20ms")?,
        confirm_interval: positive("mirror.confirm-interval", mirror.confirm_interval, "2s")?,
        safe_set_idle: duration("mirror.safe-set-idle", mirror.safe_set_idle, "10s")?,
        resync_within: resync_within(mirror.resync_within)?,
        resync_rate_max: resync_rate_max(mirror.resync_rate_max)?,
        window: window(mirror.window)?,
        trace_ring: ring(mirror.trace_ring)?,
        extents_per_file,
        extents_total,
    })
}

fn resync_within(written: Option<String>) -> Result<Duration, ConfigError> {
    let key = "mirror.resync-within";
    let value = quantity::duration_up_to(key, written.as_deref().unwrap_or("4h"), RESYNC_WITHIN_MAX)?;
    if value.is_zero() { Err(ConfigError::DurationZero { key }) } else { Ok(value) }
}

/// "none", or bytes per second.
fn resync_rate_max(written: Option<String>) -> Result<Option<u64>, ConfigError> {
    let key = "mirror.resync-rate-max";
    match written.as_deref().map(str::trim) {
        None | Some("none") => Ok(None),
        Some(text) => {
            let value = quantity::size(key, text)?;
            if value < RESYNC_RATE_MIN {
                let (least, most) = (RESYNC_RATE_MIN, u64::MAX);
                return Err(ConfigError::OutOfBounds { key, value, least, most });
            }
            Ok(Some(value))
        }
    }
}

fn strict_files(written: Vec<String>) -> Result<Vec<NamePattern>, ConfigError> {
    patterns("mirror.strict-files", written, NamePattern::parse)
}

/// The patterns of a list.
fn patterns<Pattern>(
    key: &'static str,
    written: Vec<String>,
    parse: impl Fn(&str) -> Result<Pattern, PatternError>,
) -> Result<Vec<Pattern>, ConfigError> {
    if written.len() > PATTERNS_MAX {
        let (value, most) = (written.len() as u64, PATTERNS_MAX as u64);
        return Err(ConfigError::OutOfBounds { key, value, least: 0, most });
    }
    let read = |value: String| parse(&value).map_err(|why| ConfigError::Pattern { key, value, why });
    written.into_iter().map(read).collect()
}

fn directories(written: Option<Vec<String>>) -> Result<Vec<PathBuf>, ConfigError> {
    let key = "mirror.directories";
    let written = written
        .ok_or(ConfigError::Missing { key, remedy: "name at least one directory, like [\"/srv/data\"]" })?;
    if written.is_empty() {
        return Err(ConfigError::NoDirectories);
    }
    if written.len() > DIRECTORIES_MAX {
        return Err(ConfigError::TooManyDirectories { count: written.len(), limit: DIRECTORIES_MAX });
    }
    let directories = written.iter().map(|path| absolute(key, path)).collect::<Result<Vec<_>, _>>()?;
    if directories.iter().any(|directory| directory == Path::new("/")) {
        return Err(ConfigError::RootDirectory);
    }
    refuse_overlap(&directories)?;
    Ok(directories)
}

/// What is written of each directory, in the order of the directories.
fn trees(directories: &[PathBuf], tables: Vec<Directory>) -> Result<Vec<TreeConfig>, ConfigError> {
    let key = "directory.path";
    let mut trees = vec![None; directories.len()];
    for table in tables {
        let remedy = "name one of mirror.directories";
        let path = absolute(key, &table.path.ok_or(ConfigError::Missing { key, remedy })?)?;
        let place = directories.iter().position(|directory| *directory == path);
        let Some(tree) = place.and_then(|place| trees.get_mut(place)) else {
            return Err(ConfigError::NotMirrored { path });
        };
        if tree.is_some() {
            return Err(ConfigError::DirectoryTwice { path });
        }
        let must_exist = table.must_exist.filter(|path| !path.is_empty());
        let must_exist = must_exist.map(|path| below("directory.must-exist", &path)).transpose()?;
        let parse = |text: &str| {
            let is_own = path
                .to_str()
                .and_then(|own| text.strip_prefix(own))
                .is_some_and(|rest| rest.starts_with('/'));
            if is_own { Err(PatternError::OwnPath) } else { TreePattern::parse(text) }
        };
        let exclude = patterns("directory.exclude", table.exclude.unwrap_or_default(), parse)?;
        let include = patterns("directory.include", table.include.unwrap_or_default(), parse)?;
        if exclude.is_empty() && !include.is_empty() {
            return Err(ConfigError::IncludeAlone { path });
        }
        *tree = Some(TreeConfig { must_exist, patterns: Patterns::new(exclude, include) });
    }
    Ok(trees.into_iter().map(Option::unwrap_or_default).collect())
}

/// A path below a mirrored directory, without `.` components and doubled or final slashes.
fn below(key: &'static str, path: &str) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(path);
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let inside = plain.components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || plain.as_os_str().is_empty() {
        return Err(ConfigError::NotBelow { key, path });
    }
    if plain.as_os_str().as_bytes().split(|byte| *byte == b'/').next() == Some(RESERVED_NAME) {
        return Err(ConfigError::Reserved { key, path });
    }
    Ok(plain)
}

/// Refuse a path that is another one, or lies inside it.
fn refuse_overlap(paths: &[PathBuf]) -> Result<(), ConfigError> {
    for (index, first) in paths.iter().enumerate() {
        for second in paths.iter().skip(index + 1) {
            if first == second {
                return Err(ConfigError::DuplicateDirectory { first: first.clone(), second: second.clone() });
            }
            for (outer, inner) in [(first, second), (second, first)] {
                if inner.starts_with(outer) {
                    return Err(ConfigError::NestedDirectories {
                        outer: outer.clone(),
                        inner: inner.clone(),
                    });
                }
            }
        }
    }
    Ok(())
}

fn log(log: Log) -> Result<LogConfig, ConfigError> {
    Ok(LogConfig {
        level: choice_or_default("log.level", log.level)?,
        format: choice_or_default("log.format", log.format)?,
    })
}

fn window(written: Option<String>) -> Result<u64, ConfigError> {
    let key = "mirror.window";
    let (least, most) = WINDOW_BOUNDS;
    let value = quantity::size(key, written.as_deref().unwrap_or("16MiB"))?;
    if !(least..=most).contains(&value) {
        return Err(ConfigError::OutOfBounds { key, value, least, most });
    }
    Ok(value)
}

fn ring(written: Option<String>) -> Result<u32, ConfigError> {
    let key = "mirror.trace-ring";
    let page = page_bytes();
    let value = quantity::size(key, written.as_deref().unwrap_or("16MiB"))?;
    if value > RING_BYTES_MAX {
        return Err(ConfigError::OutOfBounds { key, value, least: page, most: RING_BYTES_MAX });
    }
    match u32::try_from(value) {
        Ok(bytes) if value.is_power_of_two() && value.is_multiple_of(page) => Ok(bytes),
        _ => Err(ConfigError::RingSize { key, value, page }),
    }
}

fn page_bytes() -> u64 {
    let page = nix::unistd::sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|page| u64::try_from(page).ok()).filter(|page| *page > 0).unwrap_or(4096)
}

fn count(key: &'static str, written: Option<u32>, default: u32, most: u32) -> Result<u32, ConfigError> {
    let value = written.unwrap_or(default);
    if value == 0 || value > most {
        return Err(ConfigError::OutOfBounds { key, value: value.into(), least: 1, most: most.into() });
    }
    Ok(value)
}

fn duration(key: &'static str, written: Option<String>, default: &str) -> Result<Duration, ConfigError> {
    quantity::duration(key, written.as_deref().unwrap_or(default))
}

fn positive(key: &'static str, written: Option<String>, default: &str) -> Result<Duration, ConfigError> {
    let value = duration(key, written, default)?;
    if value.is_zero() { Err(ConfigError::DurationZero { key }) } else { Ok(value) }
}

fn choice<T: Choice>(key: &'static str, value: &str) -> Result<T, ConfigError> {
    let words = || T::CHOICES.iter().map(|(word, _)| *word);
    T::CHOICES.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let allowed = words().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        ConfigError::Choice {
            key,
            value: value.to_owned(),
            allowed,
            nearest: nearest::nearest(value, words()),
        }
    })
}

fn choice_or_default<T: Choice + Default>(
    key: &'static str,
    written: Option<String>,
) -> Result<T, ConfigError> {
    written.map_or_else(|| Ok(T::default()), |value| choice(key, &value))
}

fn address(key: &'static str, value: &str) -> Result<SocketAddr, ConfigError> {
    value.trim().parse().map_err(|_| ConfigError::Address { key, value: value.to_owned() })
}

/// An absolute path, without `.` components and doubled or final slashes.
fn absolute(key: &'static str, path: &str) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(ConfigError::Relative { key, path });
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(ConfigError::ParentComponent { key, path });
    }
    Ok(path.components().collect())
}
