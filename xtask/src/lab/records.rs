//! Numbered, checksummed records, so that a file found after a crash can be held against what was acknowledged.
//!
//! A record's bytes follow from its writer and number alone. A file holds the records 0, 1, 2, ... of one writer; after
//! the last one there may be the beginning of one that nobody was told of.

use anyhow::{Result, bail};

const MAGIC: &[u8; 8] = b"RPLREC01";
/// magic 8, writer 4, payload length 4, number 8, checksum of all else 8.
const HEADER: usize = 32;
const CHECKSUM: usize = 24;
/// Payloads are 16 to 16 + this - 1 bytes long.
const SPREAD: u64 = 3000;

/// The bytes of a record.
#[must_use]
pub fn encode(writer: u32, number: u64) -> Vec<u8> {
    let mut random = Random::new(u64::from(writer) << 40 ^ number);
    let length = 16 + (random.next() % SPREAD) as usize;
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&writer.to_le_bytes());
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    while bytes.len() < HEADER + length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(HEADER + length);
    let checksum = checksum(&bytes);
    bytes[CHECKSUM..HEADER].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// How many whole records of `writer` the file begins with. `acknowledged` is how many of them its writer was told are
/// durable.
///
/// # Errors
/// One of the acknowledged records is missing, damaged or out of order.
pub fn verify(file: &[u8], writer: u32, acknowledged: u64) -> Result<u64> {
    let mut rest = file;
    let mut number = 0;
    loop {
        let expected = encode(writer, number);
        let Some(found) = rest.get(..expected.len()) else { break };
        if found != expected {
            break;
        }
        rest = &rest[expected.len()..];
        number += 1;
    }
    if number < acknowledged {
        bail!(
            "record {number} of {acknowledged} acknowledged ones is missing or damaged, at byte {} of {}",
            file.len() - rest.len(),
            file.len()
        );
    }
    Ok(number)
}

/// Over the record, its checksum field taken as zeros.
fn checksum(record: &[u8]) -> u64 {
    fnv(record[..CHECKSUM].iter().chain(&[0; 8]).chain(&record[HEADER..]))
}

/// FNV-1a.
pub fn fnv<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    let bytes = bytes.into_iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A small generator with a seed (splitmix64): the same seed gives the same work.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Begin with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(records: u64) -> Vec<u8> {
        (0..records).flat_map(|number| encode(3, number)).collect()
    }

    #[test]
    fn whole_records_are_counted_and_a_torn_end_is_allowed() {
        let mut bytes = file(5);
        bytes.extend_from_slice(&encode(3, 5)[..20]);
        assert_eq!(verify(&bytes, 3, 5).unwrap(), 5);
        assert_eq!(verify(&bytes, 3, 2).unwrap(), 5);
    }

    #[test]
    fn a_missing_damaged_or_foreign_record_is_refused() {
        assert!(verify(&file(4), 3, 5).is_err());
        let mut bytes = file(5);
        bytes[HEADER] ^= 1;
        assert!(verify(&bytes, 3, 5).is_err());
        assert!(verify(&file(5), 4, 5).is_err());
        let swapped: Vec<u8> = [encode(3, 1), encode(3, 0)].concat();
        assert!(verify(&swapped, 3, 1).is_err());
    }
}
