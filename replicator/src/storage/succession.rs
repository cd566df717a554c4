//! What a secondary leaves that is stopped so that it can be promoted: which file is the copy of which of the primary's. If it is started as the secondary again, it
//! goes on from the same.
//!
//! Nobody looks at all files for it, because the application waits for the next run. It says instead at which moment of the kernel's clock all was as it
//! says: what has a later change time was changed since, by others. So it is worth something only as long as that clock goes on as it did, on a
//! machine that was not started anew, and is neither synced nor missed if it is lost. `docs/on-disk.md` has the layout.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use nix::time::ClockId;
use replicator_core::checkpoint::Checkpoint;
use replicator_core::resume::Held;
use replicator_core::succession::{COPY_BYTES, CopyOf};

use super::own_files::{self, Taken};
use super::sealed::{Kind, section, take_section};
use super::state::StateDirectory;
use crate::boot::boot_id;
use crate::clock::nanoseconds;

const KIND: Kind = Kind { magic: *b"RPLSUCCS", version: 1 };

const FILE: &CStr = c"succession";

/// The clock of file times may be moved by so many nanoseconds (a slow adjustment) for its earlier times to be comparable.
const DRIFT_MAX: i64 = 10_000_000;
/// What was changed this long before the moment may have been changed after it: the clock may have moved, and goes in ticks (CONFIG_HZ=100).
pub const UNSURE: Duration = Duration::from_millis(20);

/// A moment of the kernel's clock for file times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    boot: [u8; 16],
    /// In nanoseconds since 1970.
    time: i64,
    /// By how much it is ahead of the clock that nobody sets, in nanoseconds.
    ahead: i64,
}

impl Moment {
    /// This one.
    ///
    /// # Errors
    /// What the system returns.
    pub fn now() -> io::Result<Moment> {
        let time = nanoseconds(ClockId::CLOCK_REALTIME_COARSE)?;
        let ahead = nanoseconds(ClockId::CLOCK_REALTIME)? - nanoseconds(ClockId::CLOCK_BOOTTIME)?;
        Ok(Moment { boot: boot_id()?, time, ahead })
    }

    /// What was changed before this was changed before the moment for certain. In nanoseconds since 1970, as change times are.
    #[must_use]
    pub fn surely_before(&self) -> i128 {
        i128::from(self.time) - UNSURE.as_nanos() as i128
    }

    /// Whether the clock has gone on since, until then, and nobody has set it.
    #[must_use]
    pub fn reaches(&self, later: &Moment) -> bool {
        self.boot == later.boot
            && self.time <= later.time
            && self.ahead.abs_diff(later.ahead) <= DRIFT_MAX.unsigned_abs()
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Succession {
    /// Stands for all that must be the same when it is used: the node's state and volumes.
    pub identity: [u8; 32],
    /// When all was as it says.
    pub moment: Moment,
    /// What of the former primary's last stream is applied here.
    pub held: Held,
    /// All files here, in any order.
    pub copies: Vec<CopyOf>,
}

impl Succession {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        KIND.seal(|bytes| {
            bytes.extend_from_slice(&self.identity);
            bytes.extend_from_slice(&self.moment.boot);
            bytes.extend_from_slice(&self.moment.time.to_le_bytes());
            bytes.extend_from_slice(&self.moment.ahead.to_le_bytes());
            section(bytes, |bytes| bytes.extend_from_slice(&Checkpoint::Secondary(self.held).encode()));
            self.copies.iter().for_each(|copy| copy.encode(bytes));
        })
    }

    /// What a file's bytes say; `None` if they are none of this version, whole.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Succession> {
        let (&identity, rest) = KIND.open(bytes)?.split_first_chunk()?;
        let (&boot, rest) = rest.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (ahead, mut rest) = rest.split_first_chunk()?;
        let moment = Moment { boot, time: i64::from_le_bytes(*time), ahead: i64::from_le_bytes(*ahead) };
        let Ok(Checkpoint::Secondary(held)) = Checkpoint::decode(take_section(&mut rest)?) else {
            return None;
        };
        let (copies, left) = rest.as_chunks::<COPY_BYTES>();
        if !left.is_empty() {
            return None;
        }
        let copies = copies.iter().map(CopyOf::decode).collect::<Result<_, _>>().ok()?;
        Some(Succession { identity, moment, held, copies })
    }
}

impl StateDirectory {
    /// Leave this for the next run.
    ///
    /// # Errors
    /// What the system returns; then it is there, or something that is not whole, or nothing.
    pub fn leave_succession(&self, succession: &Succession) -> io::Result<()> {
        own_files::write(self.descriptor(), FILE, &succession.encode())
    }

    /// Read what an earlier run left, and take it away. `None`: there is nothing, or it is worth nothing.
    ///
    /// # Errors
    /// It cannot be taken away: a node that went on would leave it for a later run, in which it is wrong.
    pub fn take_succession(&self) -> io::Result<Option<Succession>> {
        // That it is gone need not outlive a power cut: neither does its worth.
        let Taken { bytes, .. } = own_files::take(self.descriptor(), FILE)?;
        let bytes = bytes.unwrap_or_else(|error| {
            tracing::warn!(%error, "what the secondary left cannot be read");
            None
        });
        Ok(bytes.and_then(|bytes| Succession::decode(&bytes)))
    }
}

#[cfg(test)]
mod tests {
    use replicator_core::ids::{FileId, FileKind, Sequence, VolumeId};
    use replicator_core::resume::StreamId;

    use super::*;

    fn example() -> Succession {
        let file = |inode| FileId { volume: VolumeId(1), inode };
        Succession {
            identity: [4; 32],
            moment: Moment { boot: [9; 16], time: 5_000_000_000, ahead: -3 },
            held: Held { stream: StreamId { incarnation: [5; 16], number: 3 }, received: Sequence(6) },
            copies: vec![
                CopyOf { original: file(2), here: file(2), kind: FileKind::Directory },
                CopyOf { original: file(12), here: file(40), kind: FileKind::Regular },
            ],
        }
    }

    #[test]
    fn it_is_there_once() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        assert_eq!(directory.take_succession().unwrap(), None);
        directory.leave_succession(&example()).unwrap();
        assert_eq!(directory.take_succession().unwrap(), Some(example()));
        assert_eq!(directory.take_succession().unwrap(), None);
    }

    #[test]
    fn what_is_not_whole_is_worth_nothing() {
        let whole = example().encode();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            assert_eq!(Succession::decode(&flipped), None, "bit {at}");
            assert_eq!(Succession::decode(&whole[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn times_are_comparable_while_nobody_sets_the_clock() {
        let before = Moment { boot: [9; 16], time: 5_000_000_000, ahead: 40 };
        let later = |time, ahead| Moment { time, ahead, ..before };
        assert!(before.reaches(&before));
        assert!(before.reaches(&later(8_000_000_000, 40 + DRIFT_MAX)));
        assert!(!before.reaches(&later(8_000_000_000, 41 + DRIFT_MAX)));
        assert!(!before.reaches(&later(8_000_000_000, 39 - DRIFT_MAX)));
        assert!(!before.reaches(&later(4_999_999_999, 40)));
        assert!(!before.reaches(&Moment { boot: [8; 16], ..before }));
    }
}
