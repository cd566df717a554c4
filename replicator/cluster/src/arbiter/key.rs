//! The key a cluster shares with its witness, and the file it is handed over in.
//!
//! ```text
//! replicator-witness-key 1
//! cluster 6f0c...                      32 hexadecimal digits: whose key this is
//! witness 91be...                      32 hexadecimal digits: the one witness that has it
//! key 5a77...                          64 hexadecimal digits: the secret
//! ```
//!
//! The witness writes it (`replicator witness add-cluster`); a copy goes to each node of the cluster. Because it names the witness, a
//! node that reaches another one by mistake notices at the first contact, not only at the second. Mode 0600: who can read the file
//! can take a primacy.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::register::{ClusterId, WitnessId};

/// First line of a key file.
const HEADING: &str = "replicator-witness-key 1";
/// Longest key file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// The secret one cluster and its witness share, with who they are.
#[derive(Clone, PartialEq, Eq)]
pub struct WitnessKey {
    /// The cluster.
    pub cluster: ClusterId,
    /// The witness.
    pub witness: WitnessId,
    secret: [u8; 32],
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the witness key {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Others than its owner may use the file.
    #[error("the witness key {path} can be used by others than its owner; run: chmod 600 {path}", path = path.display())]
    Exposed { path: PathBuf },
    /// Not a key file.
    #[error("{path} is not a witness key; copy the one that was written at the witness: replicator witness add-cluster", path = path.display())]
    Form { path: PathBuf },
    /// No random bytes.
    #[error("the system has no random bytes: {0}")]
    Random(getrandom::Error),
}

impl WitnessKey {
    /// A new secret.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn draw(cluster: ClusterId, witness: WitnessId) -> Result<WitnessKey, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        Ok(WitnessKey { cluster, witness, secret })
    }

    /// Read a key file.
    ///
    /// # Errors
    /// [`KeyError::Read`], [`KeyError::Exposed`], [`KeyError::Form`].
    pub fn read(path: &Path) -> Result<WitnessKey, KeyError> {
        let read = |source| KeyError::Read { path: path.to_owned(), source };
        // A FIFO in its place must not block.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
            .open(path)
            .map_err(read)?;
        if file.metadata().map_err(read)?.permissions().mode() & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(read)?;
        WitnessKey::parse(&text).ok_or_else(|| KeyError::Form { path: path.to_owned() })
    }

    /// The content of a key file.
    #[must_use]
    pub fn to_file(&self) -> String {
        let secret = hex::encode(self.secret);
        format!("{HEADING}\ncluster {}\nwitness {}\nkey {secret}\n", self.cluster, self.witness)
    }

    /// The secret, for deriving from it. Never to be logged.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    fn parse(text: &str) -> Option<WitnessKey> {
        let mut lines = text.lines().map(str::trim_end);
        if lines.next()? != HEADING {
            return None;
        }
        let cluster = lines.next()?.strip_prefix("cluster ")?.parse().ok()?;
        let witness = lines.next()?.strip_prefix("witness ")?.parse().ok()?;
        let mut secret = [0; 32];
        hex::decode_to_slice(lines.next()?.strip_prefix("key ")?, &mut secret).ok()?;
        lines.all(str::is_empty).then_some(WitnessKey { cluster, witness, secret })
    }
}

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitnessKey")
            .field("cluster", &self.cluster)
            .field("witness", &self.witness)
            .finish_non_exhaustive()
    }
}
