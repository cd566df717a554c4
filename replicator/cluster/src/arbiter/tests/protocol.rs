//! Frames: what is written is read, what was changed is refused, what is garbage does nothing.

use proptest::prelude::*;
use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Tag};

use crate::arbiter::protocol::{
    ANSWER_BYTES, Answer, CHALLENGE_BYTES, Operation, REQUEST_BYTES, Request, Status, challenge, is_challenge,
};
use crate::arbiter::{ClusterId, ModuleName, NodeId, RegisterName, Value, WitnessId, WitnessKey};

const CHALLENGE: [u8; 32] = [5; 32];

fn key() -> WitnessKey {
    WitnessKey::draw(ClusterId([1; 16]), WitnessId([2; 16])).unwrap()
}

fn value() -> Value {
    let generation = GenerationId { number: Generation(3), tag: Tag(4) };
    Value { term: Term(7), holder: NodeId([8; 16]), generation }
}

fn request(operation: Operation) -> Request {
    let register = RegisterName { cluster: ClusterId([1; 16]), module: ModuleName::new("db").unwrap() };
    Request { operation, register, witness: WitnessId([2; 16]), known: Term(6), nonce: [9; 32] }
}

#[test]
fn a_request_is_read_as_it_was_written() {
    let (key, challenge) = (key(), challenge(&CHALLENGE));
    assert!(is_challenge(&challenge));
    for operation in [Operation::Acquire(value()), Operation::Read] {
        let bytes = request(operation).encode(&key, &challenge);
        assert_eq!(Request::decode(&bytes), Some(request(operation)));
        assert!(Request::is_proven(&bytes, &key, &challenge));
    }
}

/// The places of the table in the module's documentation.
#[test]
fn fields_lie_where_the_document_says() {
    let bytes = request(Operation::Acquire(value())).encode(&key(), &challenge(&CHALLENGE));
    assert_eq!(&bytes[..16], b"rplwitq\x01\x01\x02\0\0\0\0\0\0");
    assert_eq!(&bytes[16..32], &[1; 16]);
    assert_eq!(&bytes[32..35], b"db\0");
    assert_eq!(&bytes[96..104], &7_u64.to_le_bytes());
    assert_eq!(&bytes[104..120], &[8; 16]);
    assert_eq!(&bytes[120..128], &3_u64.to_le_bytes());
    assert_eq!(&bytes[128..136], &4_u64.to_le_bytes());
    assert_eq!(&bytes[136..152], &[2; 16]);
    assert_eq!(&bytes[152..160], &6_u64.to_le_bytes());
    assert_eq!(&bytes[160..192], &[9; 32]);
    let answer = Answer { status: Status::Refused, witness: WitnessId([2; 16]), value: Some(value()) };
    let answer = answer.encode(&key(), &challenge(&CHALLENGE), &bytes);
    assert_eq!(&answer[..16], b"rplwita\x01\x02\x01\0\0\0\0\0\0");
    assert_eq!(&answer[16..32], &[2; 16]);
    assert_eq!(&answer[32..40], &7_u64.to_le_bytes());
    assert_eq!(&answer[40..56], &[8; 16]);
    assert_eq!(&answer[56..64], &3_u64.to_le_bytes());
    assert_eq!(&answer[64..72], &4_u64.to_le_bytes());
}

#[test]
fn every_bit_of_a_request_and_of_the_challenge_is_covered() {
    let (key, challenge) = (key(), challenge(&CHALLENGE));
    let bytes = request(Operation::Acquire(value())).encode(&key, &challenge);
    for bit in 0..REQUEST_BYTES * 8 {
        let mut changed = bytes;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!Request::is_proven(&changed, &key, &challenge), "bit {bit}");
    }
    for bit in 0..CHALLENGE_BYTES * 8 {
        let mut changed = challenge;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!Request::is_proven(&bytes, &key, &changed), "bit {bit} of the challenge");
    }
    let stranger = WitnessKey::draw(key.cluster, key.witness).unwrap();
    assert!(!Request::is_proven(&bytes, &stranger, &challenge));
}

#[test]
fn every_bit_of_an_answer_its_request_and_challenge_is_covered() {
    let (key, challenge) = (key(), challenge(&CHALLENGE));
    let request = request(Operation::Acquire(value())).encode(&key, &challenge);
    for (status, value) in [(Status::Granted, Some(value())), (Status::Holds, None), (Status::Behind, None)] {
        let said = Answer { status, witness: key.witness, value };
        let bytes = said.encode(&key, &challenge, &request);
        assert_eq!(Answer::decode(&bytes, &key, &challenge, &request), Some(said));
        for bit in 0..ANSWER_BYTES * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Answer::decode(&changed, &key, &challenge, &request), None, "bit {bit}");
        }
        for bit in 0..REQUEST_BYTES * 8 {
            let mut changed = request;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Answer::decode(&bytes, &key, &challenge, &changed), None, "bit {bit} of the request");
        }
        let stranger = WitnessKey::draw(key.cluster, key.witness).unwrap();
        assert_eq!(Answer::decode(&bytes, &stranger, &challenge, &request), None);
        let other = crate::arbiter::protocol::challenge(&[6; 32]);
        assert_eq!(Answer::decode(&bytes, &key, &other, &request), None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(
        request in prop::array::uniform32(any::<[u8; 7]>()),
        answer in any::<[u8; 32]>(),
        magic in any::<bool>(),
    ) {
        let mut bytes: [u8; REQUEST_BYTES] = request.as_flattened().try_into().unwrap();
        if magic {
            // Far enough in that the rest is looked at.
            bytes[..10].copy_from_slice(b"rplwitq\x01\x01\x02");
            bytes[10..16].fill(0);
            bytes[32..96].fill(0);
            bytes[32..34].copy_from_slice(b"db");
        }
        let (key, challenge) = (key(), challenge(&CHALLENGE));
        prop_assert_eq!(Request::decode(&bytes).is_some(), magic);
        prop_assert!(!Request::is_proven(&bytes, &key, &challenge));
        let mut said = [0; ANSWER_BYTES];
        said[72..].copy_from_slice(&answer);
        prop_assert_eq!(Answer::decode(&said, &key, &challenge, &bytes), None);
    }

    #[test]
    fn names_of_any_length_are_read_as_they_were_written(name in "[A-Za-z0-9._-]{1,64}") {
        let mut asked = request(Operation::Read);
        asked.register.module = ModuleName::new(&name).unwrap();
        let bytes = asked.encode(&key(), &challenge(&CHALLENGE));
        prop_assert_eq!(Request::decode(&bytes), Some(asked));
    }
}
