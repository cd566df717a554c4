//! What a node may be told to do besides stopping: long work that is begun at once and then shows in the status.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Compare both copies while the mirror goes on.
    Verify {
        /// Mark what differs, so that it is sent.
        repair: bool,
        /// Read at most so many bytes each second; none: no limit.
        #[serde(default)]
        bytes_per_second: Option<u64>,
    },
    /// End the verification.
    StopVerify,
    /// Bring the peer up to date.
    Resync {
        /// In which respect.
        what: ResyncScope,
    },
}

/// What a resync that an operator wants is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "kebab-case")]
pub enum ResyncScope {
    /// Compare everything.
    Full,
    /// Send what is marked now; connect now.
    Changed,
    /// Compare one file, or a directory with all below it.
    File {
        /// Its absolute path on the primary.
        path: PathBuf,
    },
}
