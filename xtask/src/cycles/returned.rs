//! What a return cost, as the primary's status says.

use std::fmt;

use anyhow::{Result, ensure};

use crate::lab::status::Status;
use crate::run::live::bytes;

/// Files that may be in doubt beside those of the load: directories on the way to them, and what left the set of the open ones late.
const SLACK_FILES: u64 = 16;

/// A file in doubt may be compared because of its mark, and again when a list names it under a number that was another file's.
const COMPARED_TIMES: u64 = 3;

/// What was compared and sent in the session in which a node returned.
#[derive(Clone, Copy, Default, Debug)]
pub struct Returned {
    /// Files that were looked at.
    pub files: u64,
    /// Bytes of them that were compared.
    pub compared: u64,
    /// Bytes of file content that were sent.
    pub sent: u64,
    /// Not everything was compared.
    pub resumed: bool,
}

impl Returned {
    /// The one place that knows where the status has these figures.
    pub fn of(status: &Status) -> Returned {
        let resync = &status.resync;
        Returned {
            files: resync.files,
            compared: resync.bytes_compared,
            sent: resync.bytes_sent,
            resumed: resync.resumed,
        }
    }

    /// The larger of each figure.
    pub fn keep_most(&mut self, other: &Returned) {
        self.files = self.files.max(other.files);
        self.compared = self.compared.max(other.compared);
        self.sent = self.sent.max(other.sent);
        self.resumed |= other.resumed;
    }

    /// # Errors
    /// More was compared than the load had touched.
    pub fn require_bounded(&self, touched: u64, touched_bytes: u64) -> Result<()> {
        let most = touched + SLACK_FILES;
        ensure!(self.files <= most, "{} files were looked at, more than the {most} in doubt", self.files);
        let most = touched_bytes * COMPARED_TIMES;
        ensure!(
            self.compared <= most,
            "{} were compared, more than {}",
            bytes(self.compared as f64),
            bytes(most as f64)
        );
        Ok(())
    }
}

impl fmt::Display for Returned {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.resumed { "resumed" } else { "everything compared" };
        write!(
            to,
            "{} files looked at, {} compared, {} sent ({how})",
            self.files,
            bytes(self.compared as f64),
            bytes(self.sent as f64)
        )
    }
}
