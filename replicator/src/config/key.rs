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

/// The content of the cluster key file but white space at both ends, so that a final newline makes no difference.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(Box<[u8]>);

impl ClusterSecret {
    /// Read a key file.
    ///
    /// # Errors
    /// [`ConfigError::ClusterKeyUnreadable`], [`ConfigError::ClusterKeyLength`].
    pub fn read(path: &Path) -> Result<ClusterSecret, ConfigError> {
        let unreadable = |source| ConfigError::ClusterKeyUnreadable { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path)
            .map_err(unreadable)?
            .take(CLUSTER_KEY_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        let secret = bytes.trim_ascii();
        if secret.len() < CLUSTER_KEY_BYTES_MIN || bytes.len() > CLUSTER_KEY_BYTES_MAX {
            return Err(ConfigError::ClusterKeyLength { path: path.to_owned(), length: secret.len() });
        }
        Ok(ClusterSecret(secret.into()))
    }

    /// The secret. Never to be logged.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterSecret({} bytes)", self.0.len())
    }
}
