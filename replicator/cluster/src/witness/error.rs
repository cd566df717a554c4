//! Why a witness cannot do its work.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::arbiter::{ClusterId, KeyError, RegisterName};

/// Why the service or a command of it fails.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum WitnessError {
    /// The system refused.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    System { operation: &'static str, path: PathBuf, source: io::Error },
    /// Another process has the directory.
    #[error("the witness directory {directory} is in use; stop the witness that runs on it", directory = directory.display())]
    InUse { directory: PathBuf },
    /// The file that says which witness this is cannot be understood.
    #[error(
        "{path} is damaged, so it is not known which witness this is; restore it from a copy, or begin with a new directory: then \
         make sure that no node runs alone, and give all nodes new key files",
        path = path.display()
    )]
    IdentityDamaged { path: PathBuf },
    /// There are registers and nobody they belong to.
    #[error(
        "{path} is missing though there are registers; restore it from a copy, or begin with a new directory: then make sure that no \
         node runs alone, and give all nodes new key files",
        path = path.display()
    )]
    IdentityMissing { path: PathBuf },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// No address to listen at.
    #[error("the witness has no address to listen at; name at least one")]
    NoAddress,
    /// The cluster has a key already.
    #[error(
        "cluster {cluster} has a key here already: {path}; copy that to the nodes, or remove the cluster first",
        path = path.display()
    )]
    ClusterExists { cluster: ClusterId, path: PathBuf },
    /// The cluster is not known.
    #[error("cluster {cluster} is not known here; add it with: replicator witness add-cluster")]
    NoSuchCluster { cluster: ClusterId },
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No random bytes.
    #[error("the system has no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Why a register gives no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum RegisterError {
    /// What is in the file is not a register's.
    #[error(
        "the register of {register} is damaged ({why}): {path}. It refuses every request until it is reset: stop the witness, then run \
         `replicator witness reset` with the highest term any node shows",
        path = path.display()
    )]
    Damaged { register: RegisterName, path: PathBuf, why: &'static str },
    /// The file cannot be read.
    #[error("cannot {operation} the register of {register}, {path}: {source}", path = path.display())]
    Unreadable { register: RegisterName, path: PathBuf, operation: &'static str, source: io::Error },
    /// The new value could not be written; the old one stands.
    #[error("cannot {operation} the register of {register}, {path}: {source}; its old value stands", path = path.display())]
    NotWritten { register: RegisterName, path: PathBuf, operation: &'static str, source: io::Error },
    /// The new value may be there or not after a crash.
    #[error(
        "the register of {register} is in doubt: a change of it could not be made durable. It refuses every request; look at the disk, \
         then restart the witness"
    )]
    InDoubt { register: RegisterName },
    /// The cluster has enough of them.
    #[error(
        "{register} is one too many: the cluster has {limit} registers; raise the witness's limit if that is right"
    )]
    Full { register: RegisterName, limit: usize },
}
