//! What of a secondary's knowledge outlives a crash of it.
//!
//! The primary keeps the marks of all that was not confirmed as durable, and remembers the operations and lists behind the last barrier that
//! was answered. The secondary has on record which of its files is which of the primary's, as it was at that barrier or later: the
//! record is durable before the barrier is answered. So both together know what a crash may have taken back, and nothing else can differ.
//!
//! ```text
//!   stream ---- barrier n, answered ---- operations, data ----> the secondary crashes
//!                      |                        |
//!      on record there, and durable     marked and remembered by the primary: listed, sent and compared again
//! ```
//!
//! If the primary crashed, too, it has on record what was in doubt ([`crate::activity`]): all that was not confirmed is.
//!
//! Files that are not where the record says, and names that it does not know, are told ([`Recovered`]). The primary goes on only if all of them follow
//! from what it remembers; what others changed while the secondary did not watch shows in the files' times, and ends in a comparison of everything.

use alloc::vec::Vec;

use crate::ids::FileId;
use crate::resume::StreamId;
use crate::wire::body::{files, put_files, put_stream, stream};
use crate::wire::cursor::{BodyError, Cursor};

/// Most files and directories that a [`Recovered`] tells of.
pub const ODD_MAX: usize = 32_768;

/// What a secondary says that crashed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The stream its record is of: it has all that was confirmed to the primary up to there, and in it.
    pub stream: StreamId,
    /// The primary's files that are on record and not there any more, and its directories with names that are there and not on record. At most
    /// [`ODD_MAX`].
    pub odd: Vec<FileId>,
}

impl Recovered {
    /// The payload of a `Recovered` frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(28 + 10 * self.odd.len());
        put_stream(&mut bytes, self.stream);
        put_files(&mut bytes, &self.odd);
        bytes
    }

    /// What such a payload says.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(bytes: &[u8]) -> Result<Recovered, BodyError> {
        let mut cursor = Cursor::new(bytes);
        let recovered = Recovered { stream: stream(&mut cursor)?, odd: files(&mut cursor, ODD_MAX)? };
        cursor.finish()?;
        Ok(recovered)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::ids::VolumeId;

    #[test]
    fn what_is_written_is_read_again_and_no_part_of_it() {
        let odd = vec![FileId { volume: VolumeId(1), inode: 7 }, FileId { volume: VolumeId(0), inode: 9 }];
        let recovered = Recovered { stream: StreamId { incarnation: [3; 16], number: 4 }, odd };
        let bytes = recovered.encode();
        assert_eq!(Recovered::decode(&bytes), Ok(recovered));
        for length in 0..bytes.len() {
            assert!(Recovered::decode(&bytes[..length]).is_err(), "{length}");
        }
    }
}
