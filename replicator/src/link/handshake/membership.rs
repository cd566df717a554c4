//! Proof of membership: who knows the cluster key.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use replicator_core::wire::hello::Proof;

use super::error::KeyError;

/// Shortest key in bytes.
pub(super) const KEY_BYTES_MIN: usize = 16;

/// Longest key file that is read, in bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// The secret that all nodes of a cluster share and nobody else.
#[derive(Clone)]
pub struct ClusterKey {
    key: [u8; blake3::KEY_LEN],
    configured: bool,
}

/// Who makes a proof. Part of it, so that a proof cannot be sent back to its maker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    Dialer,
    Acceptor,
}

impl ClusterKey {
    /// The key in a file: all of its bytes but white space at both ends.
    ///
    /// # Errors
    /// [`KeyError`]: unreadable, readable by everybody, too short.
    pub fn from_file(path: &Path) -> Result<ClusterKey, KeyError> {
        let read = |source| KeyError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        if file.metadata().map_err(read)?.permissions().mode() & 0o007 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        file.take(KEY_BYTES_MAX).read_to_end(&mut bytes).map_err(read)?;
        let secret = bytes.trim_ascii();
        if secret.len() < KEY_BYTES_MIN {
            return Err(KeyError::TooShort { path: path.to_owned(), length: secret.len() });
        }
        Ok(ClusterKey::from_secret(secret))
    }

    /// The key made of these bytes.
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> ClusterKey {
        let key = blake3::derive_key("replicator link membership v1, configured key", secret);
        ClusterKey { key, configured: true }
    }

    /// No protection: a "key" that everybody knows who knows the cluster's name.
    #[must_use]
    pub fn from_cluster_name(cluster: &[u8]) -> ClusterKey {
        let key = blake3::derive_key("replicator link membership v1, cluster name", cluster);
        ClusterKey { key, configured: false }
    }

    /// Whether the key is a secret.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.configured
    }

    /// The proof for these two Hellos, as they were on the wire.
    pub(super) fn prove(&self, direction: Direction, dialer: &[u8], acceptor: &[u8]) -> Proof {
        Proof(*self.digest(direction, dialer, acceptor).as_bytes())
    }

    /// Whether a proof is right. Takes the same time wherever it is wrong.
    pub(super) fn verify(&self, proof: &Proof, direction: Direction, dialer: &[u8], acceptor: &[u8]) -> bool {
        // Comparing a blake3::Hash is constant-time.
        self.digest(direction, dialer, acceptor) == proof.0
    }

    fn digest(&self, direction: Direction, dialer: &[u8], acceptor: &[u8]) -> blake3::Hash {
        let label: &[u8] = match direction {
            Direction::Dialer => b"proof of the dialer",
            Direction::Acceptor => b"proof of the acceptor",
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [label, dialer, acceptor] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", if self.configured { "configured" } else { "from the cluster's name" })
    }
}
