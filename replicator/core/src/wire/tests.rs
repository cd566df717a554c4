//! Pinned bytes, round trips, and what happens to bytes that are not what they should be.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::BodyError;
use super::attributes::{Attributes, InodeFlags, Timestamp};
use super::body::{
    Ack, Digests, Holding, Resumption, decode_barrier, decode_extents, decode_files, decode_stream,
    encode_barrier, encode_extents, encode_files, encode_stream,
};
use super::checksum::crc32c;
use super::header::{HEADER_BYTES, Header, HeaderError, Kind, MAGIC, PAYLOAD_MAX, VERSION, VERSION_FLAGS};
use super::hello::{Hello, Proof, Refusal, RefusalReason, Role, VolumeIdentity};
use super::namespace::{ListedEntry, NewNode, Operation};
use crate::action::{DataState, DurableScope};
use crate::extent::Extent;
use crate::ids::{FileId, FileKind, Generation, Sequence, Term, VolumeId};
use crate::lineage::{GenerationId, Lineage, Tag};
use crate::resume::{Held, StreamId};
use crate::reunion::Account;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
}

fn file(inode: u64) -> FileId {
    FileId { volume: VolumeId(1), inode }
}

fn header(kind: Kind) -> Header {
    Header {
        kind,
        flags: 0x0102,
        term: Term(3),
        sequence: Sequence(0x0405_0607),
        file: FileId { volume: VolumeId(8), inode: 9 },
        offset: 0x1000,
        length: 0x2000,
    }
}

/// Everything of a header behind the kind and before the header checksum, for the header above, version 1, a payload of 10
/// bytes with the checksum 0x0b0c0d0e.
const PINNED_MIDDLE: &str = "0300000000000000070605040000000008000201\
0a000000090000000000000000100000000000000020000000000000\
0e0d0c0b";

#[test]
fn pinned_headers() {
    // The header's own checksum for each kind, in the order of their numbers.
    const CHECKSUMS: [&str; 21] = [
        "f1dd545b", "0a066244", "a3b08f4e", "fcb10f7a", "5507e270", "aedcd46f", "076a3965", "10ded406",
        "b968390c", "42b30f13", "eb05e219", "b404622d", "1db28f27", "e669b938", "4fdf5432", "c80162ff",
        "61b78ff5", "9a6cb9ea", "33da54e0", "6cdbd4d4", "c56d39de",
    ];
    for (kind, checksum) in Kind::ALL.into_iter().zip(CHECKSUMS) {
        let bytes = header(kind).encode(1, 10, 0x0b0c_0d0e);
        let front = alloc::format!("52504c310100{:02x}00", kind as u16);
        assert_eq!(hex(&bytes), front + PINNED_MIDDLE + checksum, "{kind:?}");
    }
}

#[test]
fn kinds_have_the_numbers_of_their_places() {
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, place + 1);
        assert_eq!(Kind::from_u16(kind as u16), Some(kind));
    }
    assert_eq!(Kind::from_u16(0), None);
    assert_eq!(Kind::from_u16(28), None);
}

/// A header with a right checksum over whatever it says.
fn sealed(change: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
    let mut bytes = header(Kind::Data).encode(1, 10, 0);
    change(&mut bytes);
    let sum = crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..].copy_from_slice(&sum);
    bytes
}

#[test]
fn each_fault_of_a_header_has_its_name() {
    let decode = |bytes: [u8; HEADER_BYTES]| Header::decode(&bytes, &(1..=1)).map(|_| ());
    assert_eq!(decode(sealed(|_| {})), Ok(()));
    assert_eq!(decode(sealed(|bytes| bytes[0] = b'X')), Err(HeaderError::Magic(MAGIC & !0xFF | 0x58)));
    assert_eq!(decode(sealed(|bytes| bytes[4] = 2)), Err(HeaderError::Version(2)));
    assert_eq!(decode(sealed(|bytes| bytes[6] = 77)), Err(HeaderError::Kind(77)));
    let long = (PAYLOAD_MAX + 1).to_le_bytes();
    let too_long = sealed(|bytes| bytes[28..32].copy_from_slice(&long));
    assert_eq!(decode(too_long), Err(HeaderError::PayloadTooLong(PAYLOAD_MAX + 1)));
    let mut broken = header(Kind::Data).encode(1, 10, 0);
    broken[60] ^= 1;
    assert!(matches!(decode(broken), Err(HeaderError::Checksum { .. })));
    // The checksum is looked at before anything that it covers, the magic before all.
    let two_faults = {
        let mut bytes = sealed(|bytes| bytes[4] = 2);
        bytes[60] ^= 1;
        bytes
    };
    assert!(matches!(decode(two_faults), Err(HeaderError::Checksum { .. })));
}

fn node(kind: FileKind, target: &[u8]) -> NewNode {
    NewNode { file: file(7), kind, mode: 0o1644, uid: 2, gid: 3, rdev: 4, target: target.to_vec() }
}

#[test]
fn pinned_bodies() {
    let ack = Ack { received: Sequence(3), applied: Sequence(2), synced: Sequence(1) };
    assert_eq!(hex(&ack.encode()), "030000000000000002000000000000000100000000000000");
    assert_eq!(
        hex(&encode_barrier(&DurableScope::Files(vec![(file(5), true)]))),
        "000100000001000500000000000000 01".replace(' ', "")
    );
    assert_eq!(hex(&encode_barrier(&DurableScope::Volume(VolumeId(9)))), "010900");
    assert_eq!(hex(&encode_barrier(&DurableScope::Everything)), "02");
    assert_eq!(
        hex(&encode_extents(&[Extent { start: 1, end: 2 }])),
        "0100000001000000000000000200000000000000"
    );
    assert_eq!(hex(&encode_files(&[file(6)])), "0100000001000600000000000000");
    let stream = StreamId { incarnation: [0xEF; 16], number: 7 };
    let held = Held { stream: StreamId { incarnation: [0xEE; 16], number: 6 }, received: Sequence(5) };
    assert_eq!(hex(&encode_stream(stream)), "ef".repeat(16) + "0700000000000000");
    let resumption = Resumption { stream, from: held };
    let from = "ee".repeat(16) + "06000000000000000500000000000000";
    assert_eq!(hex(&resumption.encode()), hex(&encode_stream(stream)) + &from);
    let holding = Holding { generation: Generation(4), held: Some(held) };
    assert_eq!(hex(&holding.encode()), "040000000000000001".to_owned() + &from);
    let nothing = Holding { held: None, ..holding };
    assert_eq!(hex(&nothing.encode()), "040000000000000000");
    assert_eq!(
        hex(&account().encode()),
        "03090600000000000000ab0000000000000005000000000000000000000000000000010000000400000000000000cd00000000000000"
    );
    let digests = Digests { block_bytes: 4096, digests: vec![[0xAB; 16]] };
    assert_eq!(hex(&digests.encode()), "0010000001000000abababababababababababababababab");
    assert_eq!(hex(&Proof([0xCD; 32]).encode()), "cd".repeat(32));
    let refusal = Refusal { reason: RefusalReason::Cluster, text: "no".into() };
    assert_eq!(hex(&refusal.encode()), "0202006e6f");
    let attributes = Attributes {
        mode: 0o100_644,
        uid: 1,
        gid: 2,
        size: 3,
        atime: Timestamp { seconds: -1, nanoseconds: 4 },
        mtime: Timestamp { seconds: 5, nanoseconds: 6 },
        xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())],
        flags: Some(InodeFlags::APPEND_ONLY.or(InodeFlags::SYNCHRONOUS_DIRECTORY)),
    };
    let before = "a481000001000000020000000300000000000000ffffffffffffffff04000000050000000000000006000000\
010000000600757365722e610100000062";
    assert_eq!(hex(&attributes.encode(VERSION_FLAGS - 1)), before);
    assert_eq!(hex(&attributes.encode(VERSION_FLAGS)), before.to_owned() + "20000100");
}

#[test]
fn flags_travel_from_their_version_on() {
    let told = Attributes { flags: Some(InodeFlags::IMMUTABLE), ..Attributes::default() };
    let untold = Attributes { flags: None, ..told.clone() };
    for version in 1..VERSION_FLAGS {
        assert_eq!(Attributes::decode(&told.encode(version), version), Ok(untold.clone()));
        let newer = Attributes::decode(&told.encode(VERSION_FLAGS), version);
        assert_eq!(newer, Err(BodyError::Trailing(4)));
    }
    for version in VERSION_FLAGS..=VERSION {
        assert_eq!(Attributes::decode(&told.encode(version), version), Ok(told.clone()));
        Attributes::decode(&told.encode(VERSION_FLAGS - 1), version).expect_err("flags are missing");
    }
}

#[test]
fn only_mirrored_flags_are_understood() {
    let mut body = Attributes::default().encode(VERSION);
    let at = body.len() - 4;
    for bit in 0..u32::BITS {
        body[at..].copy_from_slice(&(1_u32 << bit).to_le_bytes());
        let decoded = Attributes::decode(&body, VERSION);
        if InodeFlags::ALL.bits() & 1 << bit == 0 {
            assert_eq!(decoded, Err(BodyError::Value("inode flags")), "{bit}");
        } else {
            assert_eq!(decoded.unwrap().flags.unwrap().bits(), 1 << bit);
        }
    }
    let together = InodeFlags::ALL.each().fold(InodeFlags::NONE, InodeFlags::or);
    assert_eq!((together, InodeFlags::ALL.each().count()), (InodeFlags::ALL, 6));
}

#[test]
fn pinned_operations() {
    let create =
        Operation::Create { parent: file(1), name: b"n".to_vec(), node: node(FileKind::Regular, b"") };
    let described = "0100070000000000000001a40300000200000003000000040000000000000000 00".replace(' ', "");
    assert_eq!(hex(&create.encode()), String::from("010100010000000000000001006e") + &described);
    let link = Operation::Link { parent: file(1), name: b"n".to_vec(), node: node(FileKind::Regular, b"") };
    assert_eq!(hex(&link.encode()), String::from("020100010000000000000001006e") + &described);
    let unlink = Operation::Unlink {
        parent: file(1),
        name: b"n".to_vec(),
        file: file(2),
        directory: false,
        last: true,
    };
    assert_eq!(hex(&unlink.encode()), "030100010000000000000001006e010002000000000000000001");
    let rename = Operation::Rename {
        old_parent: file(1),
        old_name: b"o".to_vec(),
        new_parent: file(2),
        new_name: b"n".to_vec(),
        file: file(3),
        other: Some(file(4)),
        other_last: true,
        exchange: false,
    };
    assert_eq!(
        hex(&rename.encode()),
        "040100010000000000000001006f0100020000000000000001006e01000300000000000000010100040000000000000001 00"
            .replace(' ', "")
    );
    let list = Operation::List {
        directory: file(1),
        first: true,
        last: false,
        entries: vec![ListedEntry { name: b"s".to_vec(), node: node(FileKind::Symlink, b"t") }],
    };
    assert_eq!(
        hex(&list.encode()),
        "0501000100000000000000010001000000010073\
0100070000000000000003a4030000020000000300000004000000000000000100 74"
            .replace(' ', "")
    );
    let Operation::List { entries, .. } = &list else { unreachable!() };
    assert_eq!(entries[0].encoded_length() + 17, list.encode().len());
}

#[test]
fn pinned_hello() {
    let hello = hello();
    let expected = [
        "0100020003006162630100780202",
        &"11".repeat(32),
        &"22".repeat(16),
        "0100000005000000000000000600000000000000",
        "0700000000000000080000000000000003",
    ];
    assert_eq!(hex(&hello.encode()), expected.concat());
    assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
}

fn hello() -> Hello {
    Hello {
        lowest: 1,
        highest: 2,
        cluster: b"abc".to_vec(),
        node: b"x".to_vec(),
        role: Role::Secondary,
        mode: 2,
        nonce: [0x11; 32],
        boot: [0x22; 16],
        volumes: vec![VolumeIdentity { device: 5, inode: 6 }],
        generation: Generation(7),
        term: Term(8),
        data: DataState::UpToDate,
        patterns: Vec::new(),
    }
}

#[test]
fn patterns_are_told_only_where_there_are_any() {
    let plain = hello();
    let told = Hello { patterns: vec![[0x33; 32]], ..hello() };
    assert_eq!(told.encode(), [plain.encode(), vec![0x33; 32]].concat());
    assert_eq!(Hello::decode(&told.encode()), Ok(told.clone()));
    // As many as there are volumes, or none.
    let twice = Hello { patterns: vec![[0x33; 32]; 2], ..hello() };
    assert_eq!(Hello::decode(&twice.encode()), Err(BodyError::Trailing(64)));
    let whole = told.encode();
    for missing in 1..32 {
        let cut = &whole[..whole.len() - missing];
        assert_eq!(Hello::decode(cut), Err(BodyError::Trailing(32 - missing)));
    }
}

#[test]
fn the_newest_common_version_is_taken() {
    let node = |lowest, highest| Hello { lowest, highest, ..hello() };
    assert_eq!(node(1, 3).negotiate(&node(2, 5)), Some(3));
    assert_eq!(node(2, 5).negotiate(&node(1, 3)), Some(3));
    assert_eq!(node(1, 1).negotiate(&node(2, 2)), None);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        let operation =
            Operation::Create { parent: file(1), name: name.to_vec(), node: node(FileKind::Regular, b"") };
        assert!(Operation::decode(&operation.encode()).is_err(), "{name:?}");
    }
    let create = |node| Operation::Create { parent: file(1), name: b"n".to_vec(), node };
    for node in [node(FileKind::Symlink, b""), node(FileKind::Regular, b"t"), node(FileKind::Symlink, b"a\0")]
    {
        assert_eq!(Operation::decode(&create(node).encode()), Err(BodyError::Value("symlink target")));
    }
}

#[test]
fn counts_that_cannot_be_are_refused_before_room_is_made() {
    assert_eq!(decode_files(&u32::MAX.to_le_bytes()), Err(BodyError::Truncated));
    assert_eq!(decode_extents(&u32::MAX.to_le_bytes()), Err(BodyError::Truncated));
    let backwards = encode_extents(&[Extent { start: 5, end: 9 }, Extent { start: 8, end: 10 }]);
    assert_eq!(decode_extents(&backwards), Err(BodyError::Value("extent")));
    let disorder = Ack { received: Sequence(1), applied: Sequence(2), synced: Sequence(0) };
    assert_eq!(Ack::decode(&disorder.encode()), Err(BodyError::Value("order of positions")));
}

#[test]
fn a_refusal_is_cut_at_a_letter_and_shows_no_control_characters() {
    let long = Refusal { reason: RefusalReason::Other, text: "ä".repeat(600) };
    let decoded = Refusal::decode(&long.encode()).unwrap();
    assert_eq!(decoded.text, "ä".repeat(512));
    let nasty = Refusal { reason: RefusalReason::Other, text: "a\x1b[31mb\n".into() };
    assert_eq!(Refusal::decode(&nasty.encode()).unwrap().text, "a [31mb ");
    // Bytes that are no text become longer by being shown.
    let mut garbage = vec![255, 0, 4];
    garbage.resize(3 + 1024, 0xFF);
    assert_eq!(Refusal::decode(&garbage).unwrap().text, "\u{FFFD}".repeat(341));
}

fn any_file() -> impl Strategy<Value = FileId> {
    (any::<u16>(), any::<u64>()).prop_map(|(volume, inode)| FileId { volume: VolumeId(volume), inode })
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/' | b'.') { b'x' } else { byte }),
        1..=255,
    )
}

fn any_node() -> impl Strategy<Value = NewNode> {
    (any_file(), 1..=7_u8, 0..=0o7777_u32, any::<(u32, u32, u64)>(), any_name()).prop_map(
        |(file, kind, mode, (uid, gid, rdev), target)| {
            let kind = FileKind::from_u8(kind).unwrap();
            let target = if kind == FileKind::Symlink { target } else { Vec::new() };
            NewNode { file, kind, mode, uid, gid, rdev, target }
        },
    )
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (any_file(), any_name(), any_node()).prop_map(|(parent, name, node)| Operation::Create {
            parent,
            name,
            node
        }),
        (any_file(), any_name(), any_node()).prop_map(|(parent, name, node)| Operation::Link {
            parent,
            name,
            node
        }),
        (any_file(), any_name(), any_file(), any::<(bool, bool)>()).prop_map(
            |(parent, name, file, (directory, last))| Operation::Unlink {
                parent,
                name,
                file,
                directory,
                last
            }
        ),
        ((any_file(), any_name()), (any_file(), any_name()), any_file(), any::<(bool, bool)>()).prop_map(
            |((old_parent, old_name), (new_parent, new_name), file, (other_last, exchange))| {
                Operation::Rename {
                    old_parent,
                    old_name,
                    new_parent,
                    new_name,
                    file,
                    other: other_last.then_some(file),
                    other_last,
                    exchange,
                }
            }
        ),
        (any_file(), any::<(bool, bool)>(), prop::collection::vec((any_name(), any_node()), 0..5)).prop_map(
            |(directory, (first, last), entries)| Operation::List {
                directory,
                first,
                last,
                entries: entries.into_iter().map(|(name, node)| ListedEntry { name, node }).collect(),
            }
        ),
    ]
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let time = || {
        (any::<i64>(), 0..1_000_000_000_u32)
            .prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
    };
    let xattrs = prop::collection::btree_map(any_name(), prop::collection::vec(any::<u8>(), 0..50), 0..5);
    (any::<(u32, u32, u32, u64)>(), time(), time(), xattrs, any::<u32>()).prop_map(
        |((mode, uid, gid, size), atime, mtime, xattrs, flags)| Attributes {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            xattrs: xattrs.into_iter().collect(),
            flags: Some(InodeFlags::of_bits(flags)),
        },
    )
}

/// Decode whatever the bytes are; nothing may panic.
fn decode_all(bytes: &[u8]) {
    let _ = Operation::decode(bytes);
    let _ = Attributes::decode(bytes, VERSION_FLAGS - 1);
    let _ = Attributes::decode(bytes, VERSION);
    let _ = Hello::decode(bytes);
    let _ = Proof::decode(bytes);
    let _ = Refusal::decode(bytes);
    let _ = Ack::decode(bytes);
    let _ = Digests::decode(bytes);
    let _ = decode_barrier(bytes);
    let _ = decode_stream(bytes);
    let _ = Resumption::decode(bytes);
    let _ = Holding::decode(bytes);
    let _ = Account::decode(bytes);
    let _ = decode_extents(bytes);
    let _ = decode_files(bytes);
}

fn account() -> Account {
    let id = |number, tag| GenerationId { number: Generation(number), tag: Tag(tag) };
    let mut lineage = Lineage { current: id(6, 0xAB), shared: id(5, 0), ..Lineage::default() };
    lineage.history[0] = id(4, 0xCD);
    let data = DataState::UpToDate;
    Account { lineage, data, primary: true, crashed: false, lost: false, marked: true }
}

#[test]
fn an_account_comes_back_and_what_has_no_meaning_is_refused() {
    let account = account();
    let bytes = account.encode();
    assert_eq!(Account::decode(&bytes), Ok(account));
    for (at, value) in [(0, 4), (1, 16)] {
        let mut wrong = bytes.clone();
        wrong[at] = value;
        assert!(matches!(Account::decode(&wrong), Err(BodyError::Value(_))), "byte {at}");
    }
    // A generation of the past that is none.
    let mut none = bytes.clone();
    none[38] = 0;
    assert!(matches!(Account::decode(&none), Err(BodyError::Value(_))));
}

/// Cut off, prolonged: never understood.
fn is_exact<T: core::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, BodyError>) {
    for cut in 0..bytes.len() {
        decode(&bytes[..cut]).expect_err("a body that was cut off");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(decode(&longer).expect_err("a body that was prolonged"), BodyError::Trailing(1));
}

proptest! {
    #[test]
    fn headers_survive(kind in 0..21_usize, term: u64, sequence: u64, about in any_file(), rest: (u16, u64, u64), sum: u32, length in 0..=PAYLOAD_MAX) {
        let header = Header {
            kind: Kind::ALL[kind],
            flags: rest.0,
            term: Term(term),
            sequence: Sequence(sequence),
            file: about,
            offset: rest.1,
            length: rest.2,
        };
        let decoded = Header::decode(&header.encode(1, length, sum), &(1..=1)).unwrap();
        prop_assert_eq!((decoded.header, decoded.version), (header, 1));
        prop_assert_eq!((decoded.payload_length, decoded.payload_checksum), (length, sum));
    }

    #[test]
    fn a_header_with_any_byte_changed_is_refused(at in 0..HEADER_BYTES, change in 1..=255_u8, kind in 0..21_usize) {
        let mut bytes = header(Kind::ALL[kind]).encode(1, 10, 0x0b0c_0d0e);
        bytes[at] ^= change;
        prop_assert!(Header::decode(&bytes, &(1..=1)).is_err());
    }

    #[test]
    fn operations_survive(operation in any_operation()) {
        prop_assert_eq!(Operation::decode(&operation.encode()), Ok(operation.clone()));
    }

    #[test]
    fn attributes_survive(attributes in any_attributes()) {
        prop_assert_eq!(Attributes::decode(&attributes.encode(VERSION), VERSION), Ok(attributes.clone()));
    }

    #[test]
    fn bodies_are_exact(operation in any_operation(), attributes in any_attributes()) {
        is_exact(&operation.encode(), Operation::decode);
        for version in [VERSION_FLAGS - 1, VERSION] {
            is_exact(&attributes.encode(version), |body| Attributes::decode(body, version));
        }
        is_exact(&hello().encode(), Hello::decode);
        is_exact(&Ack::default().encode(), Ack::decode);
        let held = Held { stream: StreamId::default(), received: Sequence(3) };
        is_exact(&encode_stream(held.stream), decode_stream);
        is_exact(&Resumption { stream: held.stream, from: held }.encode(), Resumption::decode);
        is_exact(&account().encode(), Account::decode);
        for held in [None, Some(held)] {
            is_exact(&Holding { generation: Generation(1), held }.encode(), Holding::decode);
        }
    }

    #[test]
    fn lists_survive(files in prop::collection::vec((any_file(), any::<bool>()), 0..20), starts in prop::collection::btree_set(any::<u32>(), 0..20)) {
        let scope = DurableScope::Files(files.clone());
        prop_assert_eq!(decode_barrier(&encode_barrier(&scope)), Ok(scope));
        let files: Vec<FileId> = files.into_iter().map(|(file, _)| file).collect();
        prop_assert_eq!(decode_files(&encode_files(&files)), Ok(files));
        let extents: Vec<Extent> = starts.into_iter().map(|start| Extent::at(u64::from(start), 1)).collect();
        prop_assert_eq!(decode_extents(&encode_extents(&extents)), Ok(extents));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0..6_u8) {
        decode_all(&bytes);
        let mut tagged = vec![tag];
        tagged.extend(&bytes);
        decode_all(&tagged);
        if let Some(header) = bytes.first_chunk() {
            let _ = Header::decode(header, &(1..=1));
        }
    }

    #[test]
    fn damaged_bodies_never_panic(operation in any_operation(), attributes in any_attributes(), at: usize, change in 1..=255_u8) {
        for mut body in [operation.encode(), attributes.encode(VERSION), hello().encode()] {
            let at = at % body.len();
            body[at] ^= change;
            decode_all(&body);
        }
    }
}
