//! The file as it is written: every key optional, nothing interpreted yet.

use replicator_cluster::nearest;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// Every key of every table. The test of the example configuration holds it equal to the structs below.
pub(super) const KEYS: &[(&str, &[&str])] = &[
    ("node", &["name", "cluster", "role", "state-directory", "control-socket", "cpu-latency"]),
    (
        "link",
        &[
            "listen",
            "peer",
            "cluster-key-file",
            "encryption",
            "authority-file",
            "certificate-file",
            "certificate-key-file",
            "peer-identity",
            "keep-alive-interval",
            "dead-after",
            "reconnect-min",
            "reconnect-max",
        ],
    ),
    (
        "mirror",
        &[
            "directories",
            "mode",
            "when-alone",
            "hold-limit",
            "barrier-limit",
            "gate",
            "gate-transport",
            "capture",
            "strict-files",
            "settle",
            "confirm-interval",
            "safe-set-idle",
            "resync-within",
            "resync-rate-max",
            "window",
            "trace-ring",
            "extents-per-file",
            "extents-total",
            "nested-mounts",
            "protect-secondary",
            "keep-diverged",
            "keep-diverged-when-full",
        ],
    ),
    ("log", &["level", "format"]),
];

/// The table that may be written several times, once for each mirrored directory, and its keys.
pub(super) const DIRECTORY: (&str, &[&str]) = ("directory", &["path", "must-exist", "exclude", "include"]);

/// The whole file.
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Document {
    pub node: Node,
    pub link: Link,
    pub mirror: Mirror,
    pub directory: Vec<Directory>,
    pub log: Log,
}

/// `[node]`
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Node {
    pub name: Option<String>,
    pub cluster: Option<String>,
    pub role: Option<String>,
    pub state_directory: Option<String>,
    pub control_socket: Option<String>,
    pub cpu_latency: Option<String>,
}

/// `[link]`
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Link {
    pub listen: Option<String>,
    pub peer: Option<String>,
    pub cluster_key_file: Option<String>,
    pub encryption: Option<String>,
    pub authority_file: Option<String>,
    pub certificate_file: Option<String>,
    pub certificate_key_file: Option<String>,
    pub peer_identity: Option<String>,
    pub keep_alive_interval: Option<String>,
    pub dead_after: Option<String>,
    pub reconnect_min: Option<String>,
    pub reconnect_max: Option<String>,
}

/// `[mirror]`
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Mirror {
    pub directories: Option<Vec<String>>,
    pub mode: Option<String>,
    pub when_alone: Option<String>,
    pub hold_limit: Option<String>,
    pub barrier_limit: Option<String>,
    pub gate: Option<bool>,
    pub gate_transport: Option<String>,
    pub capture: Option<String>,
    pub strict_files: Option<Vec<String>>,
    pub settle: Option<String>,
    pub confirm_interval: Option<String>,
    pub safe_set_idle: Option<String>,
    pub resync_within: Option<String>,
    pub resync_rate_max: Option<String>,
    pub window: Option<String>,
    pub trace_ring: Option<String>,
    pub extents_per_file: Option<u32>,
    pub extents_total: Option<u32>,
    pub nested_mounts: Option<String>,
    pub protect_secondary: Option<bool>,
    pub keep_diverged: Option<String>,
    pub keep_diverged_when_full: Option<String>,
}

/// `[[directory]]`
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Directory {
    pub path: Option<String>,
    pub must_exist: Option<String>,
    pub exclude: Option<Vec<String>>,
    pub include: Option<Vec<String>>,
}

/// `[log]`
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Log {
    pub level: Option<String>,
    pub format: Option<String>,
}

impl Document {
    /// Parse a file's text.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`].
    pub(super) fn parse(text: &str) -> Result<Document, ConfigError> {
        let syntax = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let message = error.message().replace('\n', "; ");
            ConfigError::Syntax { line, column, message }
        };
        let table: toml::Table = toml::from_str(text).map_err(syntax)?;
        refuse_unknown(&table)?;
        toml::from_str(text).map_err(syntax)
    }
}

/// Refuse a key that is not in [`KEYS`], naming the one that was probably meant. (`deny_unknown_fields` would refuse it too,
/// with a list of all keys.)
fn refuse_unknown(table: &toml::Table) -> Result<(), ConfigError> {
    for (section, content) in table {
        let Some((_, known)) = sections().find(|(name, _)| name == section) else {
            let nearest = match content {
                toml::Value::Table(_) | toml::Value::Array(_) => {
                    nearest::nearest(section, sections().map(|(name, _)| *name)).map(str::to_owned)
                }
                _ => None,
            };
            let nearest = nearest.or_else(|| elsewhere(section));
            return Err(ConfigError::UnknownKey { key: section.clone(), nearest });
        };
        let tables = match content {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(entries) => entries.iter().filter_map(toml::Value::as_table).collect(),
            _ => continue,
        };
        for key in tables.into_iter().flat_map(|table| table.keys()) {
            if known.contains(&key.as_str()) {
                continue;
            }
            let nearest = nearest::nearest(key, known.iter().copied())
                .map(|found| format!("{section}.{found}"))
                .or_else(|| elsewhere(key));
            return Err(ConfigError::UnknownKey { key: format!("{section}.{key}"), nearest });
        }
    }
    Ok(())
}

/// Every table with its keys.
fn sections() -> impl Iterator<Item = &'static (&'static str, &'static [&'static str])> {
    KEYS.iter().chain([&DIRECTORY])
}

/// The table in which that very key belongs.
fn elsewhere(key: &str) -> Option<String> {
    sections().find(|(_, keys)| keys.contains(&key)).map(|(section, _)| format!("{section}.{key}"))
}
