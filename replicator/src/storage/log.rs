//! A log behind a base: entries in sectors, each of which proves itself.
//!
//! The file has its whole length from the beginning, zeros written, so that an append changes no metadata and its fdatasync(2) is one write. A
//! sector is either whole or still zero after a power cut (disks write no less); so everything that is neither was damaged, and the log is worth
//! nothing then. Sectors of one append may be missing in any order: nobody was answered before all of them were durable.
//!
//! ```text
//!  | head | batch 1 | batch 1 | batch 2 | 0 0 | batch 3 | 0 ...      batch 3 was cut: it counts up to the gap
//!  | head | batch 1 | 0 0 | batch 2 | 0 ...                          damaged: batch 2 was not begun before batch 1 was durable
//! ```

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use replicator_core::wire::BodyError;

use crate::storage::own_files;

/// What a disk writes whole, in bytes.
pub const SECTOR: usize = 512;
/// Bytes of a sector before its records.
const HEAD: usize = 32;
/// Version of the layout that this build reads and writes.
const VERSION: u32 = 1;
/// Sectors of a log: 4 MiB.
const SECTORS: u32 = 8192;
/// When fewer are left, it is time for the next log.
const RESERVE: u32 = 64;

/// Most bytes of an encoded entry.
pub const ENTRY_BYTES_MAX: usize = SECTOR - HEAD;

/// What a log is of.
pub trait Entry: Sized {
    /// First bytes of the first sector's content.
    const MAGIC: [u8; 8];
    /// What the names of its files begin with.
    const NAME: &'static str;

    /// Append its bytes, at most [`ENTRY_BYTES_MAX`].
    fn encode(&self, bytes: &mut Vec<u8>);

    /// The entries in such bytes, one behind the other.
    ///
    /// # Errors
    /// [`BodyError`].
    fn decode_all(bytes: &[u8]) -> Result<Vec<Self>, BodyError>;
}

/// Why a log is worth nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// It has not the length it was made with.
    #[error("the log has another length than it was made with")]
    Length,
    /// The first sector does not say what it should.
    #[error("the log's first sector is none")]
    Head,
    /// A sector is neither whole nor empty.
    #[error("sector {0} of the log is damaged")]
    Sector(u32),
    /// A sector is missing that was durable before others behind it were begun.
    #[error("sector {0} of the log is missing")]
    Gap(u32),
}

/// A log that is being appended to.
#[derive(Debug)]
pub struct Log<E> {
    file: File,
    number: u64,
    entries: PhantomData<fn(E)>,
    sectors: u32,
    /// The next sector.
    next: u32,
}

/// The name of the log with this number.
fn name_of<E: Entry>(number: u64) -> CString {
    CString::new(format!("{}.{number:016x}", E::NAME)).unwrap_or_default()
}

impl<E: Entry> Log<E> {
    /// Make the empty log with that number, durably. It is there whole, or not at all.
    ///
    /// # Errors
    /// What the system returns.
    pub fn create(directory: BorrowedFd<'_>, number: u64) -> io::Result<Log<E>> {
        Log::with_room(directory, number, SECTORS)
    }

    fn with_room(directory: BorrowedFd<'_>, number: u64, sectors: u32) -> io::Result<Log<E>> {
        let aside = CString::new(format!("{}.new", E::NAME)).unwrap_or_default();
        let mut bytes = vec![0; SECTOR * sectors as usize];
        bytes[..SECTOR].copy_from_slice(&sector(number, 0, 0, &head_of(E::MAGIC, sectors)));
        let file = own_files::replace(directory, &name_of::<E>(number), &aside, &bytes)
            .map_err(|(_, error)| error)?;
        Ok(Log { file, number, entries: PhantomData, sectors, next: 1 })
    }

    /// The number it was made with.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is time for the next one.
    pub fn is_nearly_full(&self) -> bool {
        self.next + RESERVE >= self.sectors
    }

    /// Append some of the records, from the first on, and make them durable. Returns how many; all, unless the log is full.
    ///
    /// # Errors
    /// What the system returns: nothing of what it holds is to be relied on any more.
    pub fn append(&mut self, records: &[E]) -> io::Result<usize> {
        let taken = self.note(records)?;
        if taken > 0 {
            self.file.sync_data()?;
        }
        Ok(taken)
    }

    /// The same, which need not be durable: nothing is appended behind it.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn note(&mut self, records: &[E]) -> io::Result<usize> {
        let (batch, mut bytes, mut content) = (self.next, Vec::new(), Vec::new());
        let (mut taken, mut next) = (0, self.next);
        while next < self.sectors && taken < records.len() {
            content.clear();
            while let Some(record) = records.get(taken) {
                let before = content.len();
                record.encode(&mut content);
                if content.len() > SECTOR - HEAD {
                    content.truncate(before);
                    break;
                }
                taken += 1;
            }
            bytes.extend_from_slice(&sector(self.number, next, batch, &content));
            next += 1;
        }
        if taken > 0 {
            self.file.write_all_at(&bytes, u64::from(batch) * SECTOR as u64)?;
            self.next = next;
        }
        Ok(taken)
    }
}

/// Take a log away. That it is gone is durable only after a sync of the directory.
///
/// # Errors
/// What the system returns, unless there is none.
pub fn remove<E: Entry>(directory: BorrowedFd<'_>, number: u64) -> io::Result<()> {
    own_files::remove(directory, &name_of::<E>(number)).map(drop)
}

/// The records in a log that a run left. `None`: there is no such log.
///
/// # Errors
/// What the system returns; [`io::ErrorKind::InvalidData`] with a [`Damage`].
pub fn read<E: Entry>(directory: BorrowedFd<'_>, number: u64) -> io::Result<Option<Vec<E>>> {
    // One byte more than it may have, so that a longer one shows.
    let most = (SECTOR * SECTORS as usize + 1) as u64;
    let Some(bytes) = own_files::read(directory, &name_of::<E>(number), most)? else { return Ok(None) };
    let content = contents(&bytes, E::MAGIC, number).map_err(invalid)?;
    Ok(Some(E::decode_all(&content).map_err(invalid)?))
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A sector's bytes: a checksum (CRC-32C) over all behind it, 4 bytes of zero, the log's number, its own place, the place of the first sector of the
/// same append, the length of its content, zeros, the content, zeros.
fn sector(number: u64, place: u32, batch: u32, content: &[u8]) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..20].copy_from_slice(&place.to_le_bytes());
    bytes[20..24].copy_from_slice(&batch.to_le_bytes());
    bytes[24..28].copy_from_slice(&(content.len() as u32).to_le_bytes());
    bytes[HEAD..HEAD + content.len()].copy_from_slice(content);
    let checksum = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A whole sector.
struct Sector<'a> {
    batch: u32,
    content: &'a [u8],
}

impl Sector<'_> {
    fn decode(bytes: &[u8; SECTOR], number: u64, place: u32) -> Option<Sector<'_>> {
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let found = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        let is_whole = word(0)? == crc32c::crc32c(&bytes[4..]) && found == number && word(16)? == place;
        let content = bytes[HEAD..].get(..word(24)? as usize)?;
        let batch = word(20)?;
        (is_whole && batch <= place).then_some(Sector { batch, content })
    }
}

/// What the first sector holds: it says how many there are.
fn head_of(magic: [u8; 8], sectors: u32) -> Vec<u8> {
    let mut head = magic.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&sectors.to_le_bytes());
    head
}

/// What all sectors hold, one behind the other, up to the first that is missing of the last append.
fn contents(bytes: &[u8], magic: [u8; 8], number: u64) -> Result<Vec<u8>, Damage> {
    let (sectors, rest) = bytes.as_chunks::<SECTOR>();
    let head = Sector::decode(sectors.first().ok_or(Damage::Length)?, number, 0).ok_or(Damage::Head)?;
    let count = head.content.last_chunk().map_or(0, |count| u32::from_le_bytes(*count));
    if head.content != head_of(magic, count) {
        return Err(Damage::Head);
    }
    if sectors.len() != count as usize || !rest.is_empty() {
        return Err(Damage::Length);
    }
    let (mut content, mut gap) = (Vec::new(), None);
    for (place, bytes) in (0..).zip(sectors).skip(1) {
        if bytes.iter().all(|byte| *byte == 0) {
            gap = gap.or(Some(place));
            continue;
        }
        let sector = Sector::decode(bytes, number, place).ok_or(Damage::Sector(place))?;
        match gap {
            // Its append had begun before the missing one was durable: it is the same.
            Some(missing) if sector.batch <= missing => {}
            Some(missing) => return Err(Damage::Gap(missing)),
            None => content.extend_from_slice(sector.content),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use replicator_core::activity::Record;
    use replicator_core::ids::{FileId, VolumeId};

    use super::*;

    fn intent(inode: u64) -> Record {
        Record::Intent { file: FileId { volume: VolumeId(0), inode }, new: false }
    }

    fn intents(range: std::ops::Range<u64>) -> Vec<Record> {
        range.map(intent).collect()
    }

    /// A log with three appends, the second of several sectors, and its bytes.
    fn example() -> (tempfile::TempDir, File, Vec<u8>) {
        let place = tempfile::tempdir().unwrap();
        let directory = File::open(place.path()).unwrap();
        let mut log = Log::with_room(directory.as_fd(), 7, 16).unwrap();
        for records in [intents(0..1), intents(1..200), intents(200..202)] {
            assert_eq!(log.append(&records).unwrap(), records.len());
        }
        let bytes = fs::read(place.path().join("activity.0000000000000007")).unwrap();
        (place, directory, bytes)
    }

    fn records(bytes: &[u8]) -> Result<Vec<Record>, Damage> {
        contents(bytes, Record::MAGIC, 7).map(|content| Record::decode_all(&content).unwrap())
    }

    #[test]
    fn what_was_appended_is_read_in_order() {
        let (_place, directory, bytes) = example();
        assert_eq!(read(directory.as_fd(), 7).unwrap(), Some(intents(0..202)));
        assert_eq!(read::<Record>(directory.as_fd(), 8).unwrap(), None);
        assert_eq!(contents(&bytes, Record::MAGIC, 8), Err(Damage::Head));
        remove::<Record>(directory.as_fd(), 7).unwrap();
        remove::<Record>(directory.as_fd(), 7).unwrap();
        assert_eq!(read::<Record>(directory.as_fd(), 7).unwrap(), None);
    }

    #[test]
    fn no_bit_can_change_unnoticed() {
        let (_place, _directory, bytes) = example();
        let mut changed = bytes.clone();
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                changed[at] ^= bit;
                assert!(contents(&changed, Record::MAGIC, 7).is_err(), "byte {at}");
                changed[at] ^= bit;
            }
        }
        for length in [0, 1, SECTOR, 9 * SECTOR, bytes.len() - SECTOR, bytes.len() - 1] {
            assert!(contents(&bytes[..length], Record::MAGIC, 7).is_err());
        }
    }

    /// After a power cut any sectors of the last append may be missing, and of no other.
    #[test]
    fn of_the_last_append_any_sectors_may_be_missing() {
        let (_place, _directory, mut bytes) = example();
        let zero = |bytes: &mut Vec<u8>, place: usize| {
            bytes[place * SECTOR..][..SECTOR].fill(0);
        };
        let last =
            (1..).find(|place| bytes[place * SECTOR..][..SECTOR].iter().all(|byte| *byte == 0)).unwrap() - 1;
        let whole = bytes.clone();
        for place in 1..last {
            zero(&mut bytes, place);
            assert_eq!(records(&bytes), Err(Damage::Gap(place as u32)), "{place}");
            bytes.copy_from_slice(&whole);
        }
        zero(&mut bytes, last);
        assert_eq!(records(&bytes), Ok(intents(0..200)));
        // Now the second one is the last: each set of its sectors.
        let second = 2..last;
        let count = second.len();
        assert!(count >= 3);
        let cut = bytes.clone();
        for missing in 1..1_u32 << count {
            let gone = second.clone().filter(|place| missing & 1 << (place - 2) != 0);
            gone.for_each(|place| zero(&mut bytes, place));
            let found = records(&bytes).unwrap();
            assert_eq!(found, intents(0..found.len() as u64));
            assert!(!found.is_empty() && found.len() < 200);
            bytes.copy_from_slice(&cut);
        }
    }

    #[test]
    fn a_full_log_takes_no_more_and_says_so() {
        let place = tempfile::tempdir().unwrap();
        let directory = File::open(place.path()).unwrap();
        let mut log = Log::with_room(directory.as_fd(), 1, 80).unwrap();
        let many = intents(0..80 * 50);
        let taken = log.append(&many).unwrap();
        assert!(taken < many.len() && log.is_nearly_full());
        assert_eq!(log.append(&many).unwrap(), 0);
        assert_eq!(read::<Record>(directory.as_fd(), 1).unwrap().map(|records| records.len()), Some(taken));
    }
}
