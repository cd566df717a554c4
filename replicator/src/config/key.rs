//! The secret both nodes share.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::ConfigError;

/// Shortest cluster key in bytes.
pub const CLUSTER_KEY_BYTES_MIN: usize = 32;
/// Longest cluster key in bytes.
pub const CLUSTER_KEY_BYTES_MAX: usize = 4096;

/// The content of the cluster key file, every byte of it (a final newline too): the file is copied between the nodes, not typed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(Box<[u8]>);

impl ClusterKey {
    /// Read a key file.
    ///
    /// # Errors
    /// [`ConfigError::ClusterKeyUnreadable`], [`ConfigError::ClusterKeyLength`].
    pub fn read(path: &Path) -> Result<ClusterKey, ConfigError> {
        let unreadable = |source| ConfigError::ClusterKeyUnreadable { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path)
            .map_err(unreadable)?
            .take(CLUSTER_KEY_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if !(CLUSTER_KEY_BYTES_MIN..=CLUSTER_KEY_BYTES_MAX).contains(&bytes.len()) {
            return Err(ConfigError::ClusterKeyLength { path: path.to_owned(), length: bytes.len() });
        }
        Ok(ClusterKey(bytes.into()))
    }

    /// The secret. Never to be logged.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({} bytes)", self.0.len())
    }
}
