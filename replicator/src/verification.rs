//! What a verification found, as an operator sees it.

use serde::{Deserialize, Serialize};

/// Findings that are listed; more are counted.
pub const LISTED_MAX: usize = 1000;

/// What the verification that was asked for last has found so far.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifyReport {
    /// Which verification; zero: none was asked for since the daemon started.
    pub number: u64,
    /// What differs.
    pub found: Vec<Found>,
    /// Findings that are not listed.
    pub more: u64,
    /// Differing files of which it is not known yet where they lie.
    pub pending: u64,
}

/// One thing in which the copy differs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Where: the mirrored directory's path on the primary, and on from there. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What: "contents", "mode", "owner", "size", "modification time", "extended attribute", "flags", "kind", "target", "device",
    /// "missing", "extra", "another file", "names", "unreadable here", "unreadable there".
    pub what: String,
    /// What the primary has; of an extended attribute, or an error, which.
    pub here: String,
    /// What the copy has.
    pub there: String,
    /// Of contents: the byte ranges that differ, begin and end (exclusive), in whole blocks of 4 KiB.
    pub ranges: Vec<(u64, u64)>,
}

impl VerifyReport {
    /// Add a finding. Returns whether it is listed.
    pub fn push(&mut self, found: Found) -> bool {
        let listed = self.found.len() < LISTED_MAX;
        if listed {
            self.found.push(found);
        } else {
            self.more += 1;
        }
        listed
    }
}
