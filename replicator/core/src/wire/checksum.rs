//! CRC-32C (Castagnoli; RFC 3720, appendix B.4), eight bytes at a step with tables built at compile time.
//!
//! For headers and small bodies. An edge that checks whole payloads may use a faster implementation of the same sum.

/// The polynomial, bit-reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `TABLES[k][b]`: what byte `b` contributes when `k` more bytes of the step follow it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut step = 1;
    while step < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[step - 1][byte];
            tables[step][byte] = before >> 8 ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        step += 1;
    }
    tables
}

/// The sum of these bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

/// The sum of what `sum` was taken of, followed by these bytes.
#[must_use]
pub fn crc32c_append(sum: u32, bytes: &[u8]) -> u32 {
    let mut sum = !sum;
    let (steps, rest) = bytes.as_chunks::<8>();
    for step in steps {
        let both = u64::from_le_bytes(*step) ^ u64::from(sum);
        let bytes = both.to_le_bytes();
        sum = bytes.iter().zip(TABLES.iter().rev()).fold(0, |sum, (byte, table)| sum ^ table[*byte as usize]);
    }
    for byte in rest {
        sum = sum >> 8 ^ TABLES[0][(sum as u8 ^ byte) as usize];
    }
    !sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{crc32c, crc32c_append};

    #[test]
    fn known_vectors() {
        // RFC 3720, B.4, and the check value of the catalogue of CRC algorithms.
        let ascending: [u8; 32] = core::array::from_fn(|i| i as u8);
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(&ascending), 0x46DD_794E);
    }

    proptest! {
        #[test]
        fn equals_the_reference(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize) {
            prop_assert_eq!(crc32c(&bytes), crc32c::crc32c(&bytes));
            let (front, back) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(crc32c_append(crc32c(front), back), crc32c(&bytes));
        }
    }
}
