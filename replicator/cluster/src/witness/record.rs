//! The witness's files, byte by byte. Numbers are little-endian. What is shorter, longer or different anywhere is refused.
//!
//! **`witness`**, who this is, 64 bytes:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | `rplwiden` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 16 | identity |
//! | 32 | 32 | BLAKE3 of the bytes before |
//!
//! **`registers/<cluster>/<module>.register`**, 184 bytes:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | `rplwregr` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | length of the module's name |
//! | 16 | 16 | witness |
//! | 32 | 16 | cluster |
//! | 48 | 64 | the module's name, zeros after it |
//! | 112 | 8 | term |
//! | 120 | 16 | node that has it |
//! | 136 | 8 | number of its generation |
//! | 144 | 8 | tag of its generation |
//! | 152 | 32 | BLAKE3 of the bytes before |
//!
//! A register says whose it is, so a file under another name, of another cluster or of another witness is damaged, not a value.

use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Tag};

use crate::arbiter::register::MODULE_NAME_BYTES_MAX;
use crate::arbiter::{NodeId, RegisterName, Value, WitnessId};

/// Size of the identity file in bytes.
pub(super) const IDENTITY_BYTES: usize = 64;
/// Size of a register's file in bytes.
pub(super) const REGISTER_BYTES: usize = 184;

const IDENTITY_MAGIC: &[u8; 8] = b"rplwiden";
const REGISTER_MAGIC: &[u8; 8] = b"rplwregr";
const VERSION: u32 = 1;

/// The content of the identity file.
pub(super) fn encode_identity(identity: WitnessId) -> Vec<u8> {
    let mut bytes = IDENTITY_MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(identity.0);
    seal(bytes)
}

/// Who the identity file says this is.
pub(super) fn decode_identity(bytes: &[u8]) -> Option<WitnessId> {
    let said = unseal(bytes, IDENTITY_BYTES).ok()?;
    let (_, identity) = said.split_at_checked(16)?;
    let identity = WitnessId(identity.try_into().ok()?);
    // Everything else in the file is given: so the one comparison holds magic, version and zeros.
    (encode_identity(identity) == bytes).then_some(identity)
}

/// The content of a register's file.
pub(super) fn encode_register(witness: WitnessId, register: &RegisterName, value: &Value) -> Vec<u8> {
    let module = register.module.as_str().as_bytes();
    let mut name = module.to_vec();
    name.resize(MODULE_NAME_BYTES_MAX, 0);
    let mut bytes = REGISTER_MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((module.len() as u32).to_le_bytes());
    bytes.extend(witness.0);
    bytes.extend(register.cluster.0);
    bytes.extend(name);
    bytes.extend(value.term.0.to_le_bytes());
    bytes.extend(value.holder.0);
    bytes.extend(value.generation.number.0.to_le_bytes());
    bytes.extend(value.generation.tag.0.to_le_bytes());
    seal(bytes)
}

/// The value in a register's file.
///
/// # Errors
/// Why it is not this register's, in words.
pub(super) fn decode_register(
    bytes: &[u8],
    witness: WitnessId,
    register: &RegisterName,
) -> Result<Value, &'static str> {
    let said = unseal(bytes, REGISTER_BYTES)?;
    let value = said.get(112..).and_then(decode_value).ok_or("it is too short")?;
    // Everything before the value is given: the one comparison holds magic, version, witness, cluster and module.
    if encode_register(witness, register, &value) != bytes {
        return Err("it is of another version, witness, cluster or module");
    }
    Ok(value)
}

fn decode_value(bytes: &[u8]) -> Option<Value> {
    let (term, rest) = bytes.split_first_chunk()?;
    let (holder, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (tag, _) = rest.split_first_chunk()?;
    let generation =
        GenerationId { number: Generation(u64::from_le_bytes(*number)), tag: Tag(u64::from_le_bytes(*tag)) };
    Some(Value { term: Term(u64::from_le_bytes(*term)), holder: NodeId(*holder), generation })
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = blake3::hash(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn unseal(bytes: &[u8], size: usize) -> Result<&[u8], &'static str> {
    if bytes.len() != size {
        return Err("its size is wrong");
    }
    let (said, sum) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>().ok_or("its size is wrong")?;
    if blake3::hash(said) == *sum { Ok(said) } else { Err("its checksum does not hold") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arbiter::{ClusterId, ModuleName};

    const WITNESS: WitnessId = WitnessId([3; 16]);

    fn register() -> RegisterName {
        RegisterName { cluster: ClusterId([1; 16]), module: ModuleName::new("db").unwrap() }
    }

    fn value(term: u64) -> Value {
        let generation = GenerationId { number: Generation(9), tag: Tag(10) };
        Value { term: Term(term), holder: NodeId([2; 16]), generation }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = encode_register(WITNESS, &register(), &value(7));
        assert_eq!(bytes.len(), REGISTER_BYTES);
        assert_eq!(decode_register(&bytes, WITNESS, &register()), Ok(value(7)));
        let bytes = encode_identity(WITNESS);
        assert_eq!(bytes.len(), IDENTITY_BYTES);
        assert_eq!(decode_identity(&bytes), Some(WITNESS));
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let bytes = encode_register(WITNESS, &register(), &value(7));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_register(&flipped, WITNESS, &register()).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode_register(&bytes[..length], WITNESS, &register()).is_err(), "{length} bytes");
        }
        let identity = encode_identity(WITNESS);
        for bit in 0..identity.len() * 8 {
            let mut flipped = identity.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_identity(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_file_of_another_register_is_not_taken() {
        let bytes = encode_register(WITNESS, &register(), &value(7));
        let other = RegisterName { module: ModuleName::new("web").unwrap(), ..register() };
        assert!(decode_register(&bytes, WITNESS, &other).is_err());
        let other = RegisterName { cluster: ClusterId([4; 16]), ..register() };
        assert!(decode_register(&bytes, WITNESS, &other).is_err());
        assert!(decode_register(&bytes, WitnessId([4; 16]), &register()).is_err());
    }

    #[test]
    fn another_version_with_a_right_checksum_is_refused() {
        let mut bytes = encode_register(WITNESS, &register(), &value(7));
        bytes.truncate(REGISTER_BYTES - blake3::OUT_LEN);
        bytes[8] = 2;
        assert!(decode_register(&seal(bytes), WITNESS, &register()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode_register(&bytes, WITNESS, &register()).is_err());
            prop_assert!(decode_identity(&bytes).is_none());
        }
    }
}
