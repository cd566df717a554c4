//! What keeps a frame from being applied.

use std::io;

use replicator_core::ids::{Errno, FileId};

use crate::storage::divergence::KeeperError;

/// Why a frame could not be applied. None of these is retried: the session ends, the node is out of sync, and the next
/// session compares.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The system refused.
    #[error("cannot {operation} the copy of {file}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The file, by its number on the primary.
        file: FileId,
        /// Why not.
        source: io::Error,
    },
    /// The system refused something about a name.
    #[error("cannot {operation} {name:?} in the copy of {directory}: {source}")]
    Name {
        /// What was tried.
        operation: &'static str,
        /// The directory, by its number on the primary.
        directory: FileId,
        /// The name; bytes that are not UTF-8 are replaced.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The peer sent what makes no sense.
    #[error("frame about {file} refused: {what}")]
    Malformed {
        /// The file, by its number on the primary.
        file: FileId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The peer speaks of a file that it never named, where the order of the stream says that it must have.
    #[error("frame refused: {file} has no copy here")]
    Unknown {
        /// The file, by its number on the primary.
        file: FileId,
    },
    /// Somebody removed the copy of a file behind replicator's back, or moved a directory out of the tree.
    #[error("the copy of {file} was taken out of the tree by somebody else")]
    Lost {
        /// The file, by its number on the primary.
        file: FileId,
    },
    /// The primary does not know files that this node had as the primary, and that it must know.
    #[error(
        "the other node does not know {count} of this node's files that it had, {file} among them: everything is compared"
    )]
    Disowned {
        /// One of them, by its number here.
        file: FileId,
        /// How many.
        count: usize,
    },
    /// What is to be overwritten cannot be kept aside first.
    #[error("the copy of {file} is left as it is: {source}")]
    NotKept {
        /// The file, by its number on the primary.
        file: FileId,
        /// Why not.
        source: KeeperError,
    },
}

impl ReplicaError {
    /// The error as the core and the peer hear of it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        Errno(match self {
            ReplicaError::System { source, .. } | ReplicaError::Name { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            ReplicaError::NotKept { source: KeeperError::System(source), .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            ReplicaError::NotKept { source: KeeperError::Full { .. }, .. } => libc::EDQUOT,
            ReplicaError::Malformed { .. } => libc::EBADMSG,
            ReplicaError::Unknown { .. } => libc::ENOENT,
            ReplicaError::Lost { .. } | ReplicaError::Disowned { .. } => libc::ESTALE,
        })
    }

    /// For `map_err`: an operation on a file failed.
    pub(super) fn system<E: Into<io::Error>>(
        operation: &'static str,
        file: FileId,
    ) -> impl FnOnce(E) -> ReplicaError {
        move |source| ReplicaError::System { operation, file, source: source.into() }
    }

    /// For `map_err`: an operation on a name in a directory failed.
    pub(super) fn name<E: Into<io::Error>>(
        operation: &'static str,
        directory: FileId,
        name: &std::ffi::CStr,
    ) -> impl FnOnce(E) -> ReplicaError {
        move |source| ReplicaError::Name {
            operation,
            directory,
            name: name.to_string_lossy().into_owned(),
            source: source.into(),
        }
    }
}
