//! The configuration file of a node in the lab, written key by key.

use std::path::{Path, PathBuf};

use anyhow::Result;
use toml::{Table, Value};

/// A node's configuration. Only what a test speaks of is set; the rest is the daemon's default.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    table: Table,
}

/// What every node needs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node's name.
    pub name: String,
    /// `primary` or `secondary`.
    pub role: &'static str,
    /// Where it keeps its state.
    pub state_directory: PathBuf,
    /// Where commands reach it.
    pub control_socket: PathBuf,
    /// The secret both share.
    pub key_file: PathBuf,
    /// The mirrored directories.
    pub directories: Vec<PathBuf>,
}

impl NodeConfig {
    /// A configuration with the times of a lab: a lost peer is noticed within a second.
    #[must_use]
    pub fn new(identity: &Identity) -> NodeConfig {
        let mut config = NodeConfig { table: Table::new() };
        let text = |path: &PathBuf| Value::from(path.to_string_lossy().into_owned());
        config.set("node.name", identity.name.as_str());
        config.set("node.cluster", "lab");
        config.set("node.role", identity.role);
        config.set("node.state-directory", text(&identity.state_directory));
        config.set("node.control-socket", text(&identity.control_socket));
        config.set("link.cluster-key-file", text(&identity.key_file));
        config.set("link.keep-alive-interval", "100ms");
        config.set("link.dead-after", "1s");
        config.set("link.reconnect-min", "50ms");
        config.set("link.reconnect-max", "500ms");
        config.set("mirror.directories", Value::Array(identity.directories.iter().map(text).collect()));
        config.set("log.level", "info");
        config.set("log.format", "json");
        config
    }

    /// Set `section.key`, replacing what it was.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        let value = value.into();
        if section.is_empty() {
            self.table.insert(key.to_owned(), value);
            return;
        }
        let entry = self.table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(table) = entry {
            table.insert(key.to_owned(), value);
        }
    }

    /// Name the one directory in a `[[directory]]` table, with further keys.
    pub fn set_directory(&mut self, path: &Path, keys: impl IntoIterator<Item = (&'static str, Value)>) {
        let path = ("path", Value::from(path.to_string_lossy().into_owned()));
        let table: Table =
            std::iter::once(path).chain(keys).map(|(key, value)| (key.to_owned(), value)).collect();
        self.set("directory", vec![Value::from(table)]);
    }

    /// The file's text.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn text(&self) -> Result<String> {
        Ok(toml::to_string(&self.table)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_replaced_not_doubled() {
        let mut config = NodeConfig { table: Table::new() };
        config.set("link.peer", "10.0.0.1:7");
        config.set("link.peer", "10.0.0.2:7");
        config.set("stray", 1);
        assert_eq!(config.text().unwrap(), "stray = 1\n\n[link]\npeer = \"10.0.0.2:7\"\n");
    }
}
