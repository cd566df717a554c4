//! The file as it is written: every key optional, nothing interpreted yet.

use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::nearest;

/// Every key of every table. The test of the example configuration holds it equal to the structs below.
pub(super) const KEYS: &[(&str, &[&str])] = &[
    ("node", &["name", "cluster", "role", "state-directory", "control-socket"]),
    (
        "link",
        &[
            "listen",
            "peer",
            "cluster-key-file",
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
            "capture",
            "strict-files",
            "settle",
            "confirm-interval",
            "window",
            "trace-ring",
            "extents-per-file",
            "extents-total",
        ],
    ),
    ("log", &["level", "format"]),
];

/// The whole file.
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Document {
    pub node: Node,
    pub link: Link,
    pub mirror: Mirror,
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
}

/// `[link]`
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Link {
    pub listen: Option<String>,
    pub peer: Option<String>,
    pub cluster_key_file: Option<String>,
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
    pub capture: Option<String>,
    pub strict_files: Option<Vec<String>>,
    pub settle: Option<String>,
    pub confirm_interval: Option<String>,
    pub window: Option<String>,
    pub trace_ring: Option<String>,
    pub extents_per_file: Option<u32>,
    pub extents_total: Option<u32>,
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
        let Some((_, known)) = KEYS.iter().find(|(name, _)| name == section) else {
            let nearest = match content {
                toml::Value::Table(_) => {
                    nearest::nearest(section, KEYS.iter().map(|(name, _)| *name)).map(str::to_owned)
                }
                _ => elsewhere(section),
            };
            return Err(ConfigError::UnknownKey { key: section.clone(), nearest });
        };
        let toml::Value::Table(content) = content else { continue };
        if let Some(key) = content.keys().find(|key| !known.contains(&key.as_str())) {
            let nearest = nearest::nearest(key, known.iter().copied())
                .map(|found| format!("{section}.{found}"))
                .or_else(|| elsewhere(key));
            return Err(ConfigError::UnknownKey { key: format!("{section}.{key}"), nearest });
        }
    }
    Ok(())
}

/// The table in which that very key belongs.
fn elsewhere(key: &str) -> Option<String> {
    KEYS.iter().find(|(_, keys)| keys.contains(&key)).map(|(section, _)| format!("{section}.{key}"))
}
