//! The bytes of the state file, and what happens to those that are not what they should be.

use proptest::prelude::*;
use replicator_core::action::{DataState, StateRecord};
use replicator_core::ids::{Generation, Sequence, Term};
use replicator_core::lineage::{GenerationId, Lineage, Tag};
use replicator_core::resume::{Held, StreamId};
use replicator_core::wire::hello::Role;

use super::*;

fn id(number: u64, tag: u64) -> GenerationId {
    GenerationId { number: Generation(number), tag: Tag(tag) }
}

fn example() -> NodeState {
    let mut lineage = Lineage { current: id(9, 0xA9), shared: id(8, 0xA8), ..Lineage::default() };
    lineage.history[0] = id(7, 0xA7);
    lineage.history[11] = id(1, 0xA1);
    let stream = StreamId { incarnation: *b"incarnation-16-b", number: 3 };
    NodeState {
        cluster: *b"cluster-id-16-by",
        node: *b"node-id-16-bytes",
        record: StateRecord {
            term: Term(0x0102_0304_0506_0708),
            lineage,
            data: DataState::Consistent,
            alone: true,
            role: Some(Role::Primary),
            running: true,
            crashed: false,
            lost: true,
            keeping: id(6, 0xA6),
            synced: Some(Held { stream, received: Sequence(5) }),
        },
    }
}

/// A file as version 1 wrote it.
fn example_1() -> Vec<u8> {
    let mut bytes = b"RPLSTATE\x01\0\0\0\x50\0\0\0cluster-id-16-bynode-id-16-bytes".to_vec();
    bytes.extend_from_slice(b"\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\0\0\0\0\x02\x01");
    bytes.extend_from_slice(&[0; 10]);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn directory() -> (tempfile::TempDir, StateDirectory) {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let state = StateDirectory::open(&parent.path().join("made/when/missing")).expect("open");
    (parent, state)
}

#[test]
fn the_bytes_are_those_of_the_document() {
    let bytes = example().encode();
    assert_eq!(&bytes[..16], b"RPLSTATE\x02\0\0\0\x80\x01\0\0");
    assert_eq!(&bytes[16..48], b"cluster-id-16-bynode-id-16-bytes");
    assert_eq!(&bytes[48..56], b"\x08\x07\x06\x05\x04\x03\x02\x01");
    let pair = |number: u8, tag: u8| [number, 0, 0, 0, 0, 0, 0, 0, tag, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes[56..72], pair(9, 0xA9));
    assert_eq!(bytes[72..88], pair(8, 0xA8));
    assert_eq!(bytes[88..104], pair(6, 0xA6));
    // Data, alone, role, running, crashed, lost, position, reserved.
    assert_eq!(bytes[104..112], [2, 1, 1, 1, 0, 1, 1, 0]);
    assert_eq!(&bytes[112..144], b"incarnation-16-b\x03\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
    assert_eq!(bytes[144..160], pair(7, 0xA7));
    assert_eq!(bytes[160..320], [0; 160]);
    assert_eq!(bytes[320..336], pair(1, 0xA1));
    assert_eq!(bytes[336..380], [0; 44]);
    assert_eq!(bytes[380..], crc32c::crc32c(&bytes[..380]).to_le_bytes());
    assert_eq!(NodeState::decode(&bytes).expect("decode"), example());
}

#[test]
fn a_file_of_version_1_is_read_and_becomes_one_of_version_2() {
    let (_parent, directory) = directory();
    fs::write(directory.path.join("state"), example_1()).expect("write");
    let Loaded::State(state) = directory.load() else { panic!("version 1 is not read") };
    let record = StateRecord {
        term: Term(0x0102_0304_0506_0708),
        lineage: Lineage::untagged(Generation(9)),
        data: DataState::Consistent,
        alone: true,
        ..StateRecord::unknown()
    };
    assert_eq!(state, NodeState { record, ..example() });
    directory.store(&state).expect("store");
    assert_eq!(fs::read(directory.path.join("state")).expect("read").len(), STATE_BYTES);
    assert!(matches!(directory.load(), Loaded::State(loaded) if loaded == state));
}

/// Every length but the whole one, and every bit: none of them is a state, of either version.
#[test]
fn every_truncation_and_every_flipped_bit_is_noticed() {
    for whole in [example().encode().to_vec(), example_1()] {
        NodeState::decode(&whole).expect("the whole file");
        for length in 0..whole.len() {
            assert!(NodeState::decode(&whole[..length]).is_err(), "{length} bytes of {}", whole.len());
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(NodeState::decode(&longer).is_err());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(NodeState::decode(&flipped).is_err(), "bit {bit} of {} bytes", whole.len());
        }
    }
}

/// A field with a meaning that was never written, under a checksum that holds.
#[test]
fn fields_without_a_meaning_are_refused() {
    for (at, value) in
        [(12, 81), (104, 4), (105, 2), (106, 3), (107, 2), (108, 2), (109, 2), (110, 0), (111, 1), (340, 1)]
    {
        let mut bytes = example().encode();
        bytes[at] = value;
        let checksum = crc32c::crc32c(&bytes[..380]);
        bytes[380..].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(NodeState::decode(&bytes), Err(StateError::Field { .. })), "byte {at}");
    }
}

#[test]
fn what_operators_decided_is_a_line_each() {
    let (_parent, directory) = directory();
    directory.note_decision("one").expect("note");
    directory.note_decision("two\nlines").expect("note");
    assert_eq!(fs::read_to_string(directory.path.join("decisions.log")).expect("read"), "one\ntwo lines\n");
}

#[test]
fn a_missing_file_is_a_first_start_and_a_stored_one_comes_back() {
    let (_parent, directory) = directory();
    assert!(matches!(directory.load(), Loaded::First));
    let mut state = example();
    for term in 1..4 {
        state.record.term = Term(term);
        directory.store(&state).expect("store");
    }
    assert!(matches!(directory.load(), Loaded::State(loaded) if loaded == state));
}

type Expected = fn(&StateError) -> bool;

#[test]
fn an_unusable_file_is_kept_aside_and_reported() {
    let (_parent, directory) = directory();
    let file = directory.path.join("state");
    let cases: [(&[u8], Expected); 4] = [
        (b"", |e| matches!(e, StateError::WrongLength { found: 0 })),
        (b"something else entirely", |e| matches!(e, StateError::NoMagic)),
        (&example().encode()[..383], |e| matches!(e, StateError::WrongLength { found: 383 })),
        (&[0; 80], |e| matches!(e, StateError::NoMagic)),
    ];
    for (number, (bytes, expected)) in cases.into_iter().enumerate() {
        fs::write(&file, bytes).expect("write");
        let Loaded::Unusable { reason, kept: Some(kept) } = directory.load() else {
            panic!("case {number} was taken for usable")
        };
        assert!(expected(&reason), "case {number}: {reason}");
        assert_eq!(fs::read(kept).expect("read"), bytes);
        assert!(matches!(directory.load(), Loaded::First));
    }
}

#[test]
fn the_file_of_a_newer_build_is_left_for_it() {
    let (_parent, directory) = directory();
    let mut newer = example().encode().to_vec();
    newer[8] = 3;
    newer.push(0);
    fs::write(directory.path.join("state"), &newer).expect("write");
    assert!(matches!(directory.load(), Loaded::Newer { found: 3 }));
    assert_eq!(fs::read(directory.path.join("state")).expect("read"), newer);
}

#[test]
fn what_is_not_a_file_is_unusable() {
    let (_parent, directory) = directory();
    fs::create_dir(directory.path.join("state")).expect("mkdir");
    assert!(matches!(directory.load(), Loaded::Unusable { reason: StateError::System { .. }, .. }));
    nix::unistd::mkfifo(&directory.path.join("state"), Mode::S_IRWXU).expect("mkfifo");
    assert!(matches!(directory.load(), Loaded::Unusable { .. }));
}

#[test]
fn two_daemons_cannot_share_it() {
    let (_parent, directory) = directory();
    assert!(matches!(StateDirectory::open(&directory.path), Err(StateError::InUse { .. })));
    let path = directory.path.clone();
    drop(directory);
    StateDirectory::open(&path).expect("open once it is free");
}

#[test]
fn a_failure_to_store_is_final_and_leaves_the_old_state() {
    let (_parent, directory) = directory();
    directory.store(&example()).expect("store");
    let in_the_way = directory.path.join("state.new");
    fs::create_dir(&in_the_way).expect("mkdir");
    let other = NodeState { cluster: [1; 16], ..example() };
    assert!(matches!(directory.store(&other), Err(StateError::System { .. })));
    fs::remove_dir(&in_the_way).expect("rmdir");
    assert!(matches!(directory.store(&other), Err(StateError::Failed)));
    assert!(matches!(directory.load(), Loaded::State(state) if state == example()));
}

proptest! {
    #[test]
    fn any_change_of_bits_is_noticed(at in 0..STATE_BYTES, mask in 1_u8..) {
        let mut bytes = example().encode();
        bytes[at] ^= mask;
        prop_assert!(NodeState::decode(&bytes).is_err());
    }

    #[test]
    fn garbage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(NodeState::decode(&bytes).is_err());
    }
}

#[test]
fn what_a_stopped_node_has_on_record_is_read_and_left_as_it_is() {
    let (parent, directory) = directory();
    let path = directory.path.clone();
    assert!(matches!(StateDirectory::record_of_stopped(&path), Err(StateError::InUse { .. })), "it runs");
    directory.store(&example()).expect("store");
    drop(directory);
    assert_eq!(StateDirectory::record_of_stopped(&path).expect("read"), Some(example()));
    fs::write(path.join("state"), b"RPLSTATE and nothing else").expect("write");
    assert!(StateDirectory::record_of_stopped(&path).is_err());
    assert!(path.join("state").exists(), "it is the node's to put it aside");
    fs::remove_file(path.join("state")).expect("remove");
    assert_eq!(StateDirectory::record_of_stopped(&path).expect("read"), None);
    let never = parent.path().join("never");
    assert_eq!(StateDirectory::record_of_stopped(&never).expect("read"), None);
    assert!(!never.exists(), "nothing is made");
}
