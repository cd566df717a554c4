//! What a return cost, as the primary's status says, and what it may cost.

use std::fmt;

use anyhow::{Result, ensure};

use crate::lab::power::Side;
use crate::lab::status::Status;
use crate::run::live::bytes;

/// Files that may be in doubt beside those of the load: directories on the way to them, and what left the set of the open ones late.
const SLACK_FILES: u64 = 16;

/// A file that got the number of another one just before may be on record as known to the secondary, which is true of that other one: it is compared
/// because of its mark, and again with the first list of the directory it is in.
const COMPARED_TIMES: u64 = 2;

/// What a return may compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// What is in doubt: no more files, and each byte of them at most [`COMPARED_TIMES`].
    InDoubt,
    /// Not everything. How much depends on what the application does meanwhile.
    NotEverything,
}

impl Bound {
    /// Of the return after these have ended without order.
    pub fn of(sides: &[Side]) -> Bound {
        if sides.contains(&Side::Primary) { Bound::InDoubt } else { Bound::NotEverything }
    }
}

/// What was compared and sent in the session in which a node returned.
#[derive(Clone, Copy, Default, Debug)]
pub struct Returned {
    /// Files that the peer was not told of before.
    pub found: u64,
    /// Files that were compared, each as often as it was.
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
            found: resync.files,
            files: resync.files_compared,
            compared: resync.bytes_compared,
            sent: resync.bytes_sent,
            resumed: resync.resumed,
        }
    }

    /// The larger of each figure.
    pub fn keep_most(&mut self, other: &Returned) {
        self.found = self.found.max(other.found);
        self.files = self.files.max(other.files);
        self.compared = self.compared.max(other.compared);
        self.sent = self.sent.max(other.sent);
        self.resumed |= other.resumed;
    }

    /// # Errors
    /// Everything was compared.
    pub fn require_resumed(&self) -> Result<()> {
        ensure!(self.resumed, "everything was compared");
        Ok(())
    }

    /// `doubtful`: files and directories that may have been in doubt. `touched`: the bytes of those that are there.
    ///
    /// # Errors
    /// More was compared than [`Bound::InDoubt`] allows.
    pub fn require_bounded(&self, doubtful: u64, touched: u64) -> Result<()> {
        self.require_resumed()?;
        let most = doubtful + SLACK_FILES;
        ensure!(self.files <= most, "{} files were compared, more than the {most} in doubt", self.files);
        ensure!(self.found <= most, "{} files were found, more than the {most} in doubt", self.found);
        let most = touched * COMPARED_TIMES;
        ensure!(
            self.compared <= most,
            "{} were compared, more than the {} that are {COMPARED_TIMES} times what is in doubt",
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
            "{} of {} files compared, {} sent ({how})",
            bytes(self.compared as f64),
            self.files,
            bytes(self.sent as f64)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bounded_is_told_from_what_is_not() {
        assert_eq!(Bound::of(&[Side::Primary]), Bound::InDoubt);
        assert_eq!(Bound::of(&[Side::Secondary]), Bound::NotEverything);
        assert_eq!(Bound::of(&[Side::Primary, Side::Secondary]), Bound::InDoubt);
        let returned = Returned { found: 3, files: 20, compared: 1000, sent: 5000, resumed: true };
        assert!(returned.require_bounded(4, 500).is_ok());
        assert!(returned.require_bounded(3, 500).is_err(), "one file more");
        assert!(returned.require_bounded(4, 499).is_err(), "one byte more");
        assert!(Returned { found: 21, ..returned }.require_bounded(4, 500).is_err());
        assert!(Returned { resumed: false, ..returned }.require_bounded(4, 500).is_err());
    }
}
